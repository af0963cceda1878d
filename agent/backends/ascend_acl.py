"""OM models on Huawei Ascend through pyACL: what the host has, and which files are loaded.

`ascend_acl_session` says what of OM is supported and how it runs; `ascend_acl_calls` how pyACL is found.
"""

from __future__ import annotations

import os
import platform
import re
from typing import Any

from agent.backends.ascend_acl_calls import MAX_DEVICES, PROCESS, check
from agent.backends.ascend_acl_session import AclSession
from agent.backends.base import BackendError, BackendProbe, LoadOptions

OM_MAGIC = b"IMOD"
OM_HEADER_BYTES = 256
"""An OM file begins with such a header (GE's ModelFileHeader)."""
_SOC = re.compile(r"Ascend(310|910)(?!\d)")
"""acl.get_soc_name says Ascend310, Ascend310P3, Ascend310B4, Ascend910B4, Ascend910_9391."""
_MAX_INFO_BYTES = 16384


class AscendAcl:
    """The backend for OM files."""

    def probe(self) -> BackendProbe:
        """Starts ACL, counts devices, takes one and asks what it is.

        `version` is CANN's, `providers` the SoC's exact name: what an OM was converted for must be the same.
        """
        try:
            acl = PROCESS.start()
            count, number = acl.rt.get_device_count()
            check("rt.get_device_count", number)
            if count < 1:
                return BackendProbe(usable=False, reason="ACL finds no Ascend device: check with `npu-smi info`")
            PROCESS.take_device()
            try:
                soc = _soc_name(acl)
            finally:
                PROCESS.give_device()
            major, minor, patch, number = acl.get_version()
            check("get_version", number)
        except BackendError as error:
            return BackendProbe(usable=False, reason=error.message)
        version = _cann_version() or f"pyACL {major}.{minor}.{patch}"
        target = target_of(soc)
        if target is None:
            return BackendProbe(usable=False, reason=f"{soc} is neither an Ascend 310 nor a 910", version=version)
        return BackendProbe(usable=True, version=version, targets=(target,), providers=(soc,))

    def load(self, directory: str, entry: str, options: LoadOptions) -> AclSession:
        """Loads an OM file; what was taken is given back when that fails."""
        path = os.path.join(directory, entry)
        _check_header(path)
        acl = PROCESS.start()
        soc = _soc_name(acl)
        if options.target != target_of(soc):
            raise BackendError("backend_unavailable", f"this device is a {soc}, which is not {options.target!r}")
        device = options.settings.get("device")
        if device is not None and (type(device) is not int or not 0 <= device < MAX_DEVICES):
            raise BackendError("backend_unavailable", f"options.ascend_acl.device is {device!r}, not a device's number")
        return AclSession(acl, soc, path, device, may_pad=options.independent)


def target_of(soc: str) -> str | None:
    """The target platform (`Target` of the manifest) of a SoC name; None when it is neither 310 nor 910."""
    match = _SOC.match(soc)
    return f"ascend{match.group(1)}" if match else None


def _soc_name(acl: Any) -> str:
    name = acl.get_soc_name()
    if not isinstance(name, str) or not name:
        raise BackendError("backend_unavailable", "ACL does not know the SoC's name: check with `npu-smi info`")
    return name


def _cann_version() -> str:
    """As CANN's own file says, e.g. `8.0.RC1`; empty when it is not where the toolkit puts it."""
    home = os.environ.get("ASCEND_TOOLKIT_HOME") or os.environ.get("ASCEND_HOME_PATH") or ""
    folder = os.path.join(home, f"{platform.machine()}-linux")
    for kind in ("toolkit", "nnrt"):
        try:
            with open(os.path.join(folder, f"ascend_{kind}_install.info"), encoding="utf-8", errors="replace") as file:
                text = file.read(_MAX_INFO_BYTES)
        except OSError:
            continue  # the version is for people to read; pyACL's own takes its place
        match = re.search(r"^version=([\w.-]{1,64})$", text, re.MULTILINE)
        if match:
            return match.group(1)
    return ""


def _check_header(path: str) -> None:
    """What is no OM file at all never reaches the device."""
    try:
        with open(path, "rb") as file:
            header = file.read(OM_HEADER_BYTES)
    except OSError as error:
        raise BackendError("load_failed", f"the OM file cannot be read: {error.strerror}") from None
    if header[: len(OM_MAGIC)] != OM_MAGIC:
        raise BackendError("load_failed", "the file does not begin as an OM file does: convert the model with ATC")
    if len(header) < OM_HEADER_BYTES:
        raise BackendError("load_failed", "the OM file ends within its header: it is truncated")
