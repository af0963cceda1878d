"""TensorRT plans: what the host has, and which plans are loaded.

A plan runs with the TensorRT and on the kind of GPU that built it. TensorRT has no call that tells beforehand, so what
the manifest says of the build is compared first, and a plan that does not come up is refused with TensorRT's own words.
Plans that bring code for the host are refused: engine_host_code_allowed stays False, whoever signed them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from agent.backends.base import BackendError, BackendProbe, LoadOptions
from agent.backends.catalog import CATALOG
from agent.backends.tensorrt_cuda import NAME, Cuda
from agent.backends.tensorrt_session import Log, TensorRtSession, make_log

MAX_PLAN_BYTES = 16 << 30
_OLDEST = (8, 5)
"""The name-based API came with TensorRT 8.5."""
_CROSS_MAJOR = {("8", "10"), ("10", "11")}
"""Of version-compatible plans, beside a newer release of the same major (TensorRT's documentation)."""
_VERSION = re.compile(r"\d+(\.\d+){1,3}")


class TensorRtPlan:
    """The backend for TensorRT plans."""

    def probe(self) -> BackendProbe:
        """Takes the GPU, a stream and memory, and makes a TensorRT runtime.

        `version` is TensorRT's; the provider names it and the GPU's compute capability, on which a plan depends.
        """
        try:
            trt = vendor()
            cuda = Cuda()
            stream = cuda.make_stream()
            try:
                cuda.free(cuda.allocate(256))
                cuda.synchronize(stream)
            finally:
                cuda.destroy_stream(stream)
            make_runtime(trt, make_log(trt))
            capability = cuda.compute_capability()
        except BackendError as error:
            return BackendProbe(usable=False, reason=error.message)
        version = str(trt.__version__)
        return BackendProbe(usable=True, version=version, targets=("gpu",), providers=(provider(trt, capability),))

    def load(self, directory: str, entry: str, options: LoadOptions) -> TensorRtSession:
        """Loads a plan; what was taken is given back when that fails."""
        if options.target != "gpu":
            raise BackendError("backend_unavailable", f"a TensorRT plan runs on a GPU, not on {options.target!r}")
        trt = vendor()
        cuda = Cuda()
        capability = cuda.compute_capability()
        check_build(options.build, str(trt.__version__), capability)
        plan = read_plan(os.path.join(directory, entry))
        log = make_log(trt)
        return TensorRtSession(trt, cuda, make_runtime(trt, log), plan, log=log, provider=provider(trt, capability))


def vendor() -> Any:
    """The module `tensorrt`. Raises BackendError(backend_unavailable), saying what to install."""
    try:
        trt = import_module("tensorrt")
    except ImportError as error:
        message = f"tensorrt cannot be imported ({error}): {CATALOG[NAME].install}"
        raise BackendError("backend_unavailable", message) from None
    version = str(getattr(trt, "__version__", ""))
    if not _VERSION.match(version) or tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        message = f"TensorRT {version or 'without a version'} is older than 8.5: {CATALOG[NAME].install}"
        raise BackendError("backend_unavailable", message)
    return trt


def provider(trt: Any, capability: str) -> str:
    """What computes, in a report."""
    return f"TensorRT {trt.__version__} on compute capability {capability}"


def make_runtime(trt: Any, log: Log) -> Any:
    """A runtime that loads no host code. Raises BackendError(backend_unavailable)."""
    try:
        runtime = trt.Runtime(log)
    except Exception as error:  # noqa: BLE001 - pybind's exceptions derive from Exception only
        raise BackendError("backend_unavailable", f"TensorRT does not start: {log.told() or error}") from None
    runtime.engine_host_code_allowed = False
    return runtime


def check_build(build: Mapping[str, str], version: str, capability: str) -> None:
    """Whether what the manifest says of the plan fits this host. Raises BackendError(load_failed)."""
    wanted = build.get("tensorrt_version")
    compatible = build.get("tensorrt_version_compatible") == "True"
    if wanted and not _runs_version(wanted, version, compatible=compatible):
        raise BackendError(
            "load_failed", f"the plan was built by TensorRT {wanted}, this host has {version}: build it again"
        )
    built_for, level = build.get("compute_capability"), build.get("hardware_compat")
    ampere_plus = level == "ampere_plus" and int(capability.split(".", maxsplit=1)[0]) >= 8
    if built_for and built_for != capability and not ampere_plus:
        message = f"the plan was built for compute capability {built_for}, this GPU has {capability}: build it again"
        raise BackendError("load_failed", message)


def _runs_version(wanted: str, version: str, *, compatible: bool) -> bool:
    if wanted == version:
        return True
    if not compatible or not _VERSION.fullmatch(wanted):
        return False
    built, runs = wanted.split("."), version.split(".")
    if built[0] == runs[0]:
        return [int(part) for part in runs] >= [int(part) for part in built]
    return (built[0], runs[0]) in _CROSS_MAJOR


def read_plan(path: str) -> bytes:
    """The file's bytes, bounded. Raises BackendError(load_failed)."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= MAX_PLAN_BYTES:
                raise BackendError("load_failed", f"the plan has {size} bytes: it is empty or larger than any is")
            return file.read()
    except OSError as error:
        raise BackendError("load_failed", f"the plan cannot be read: {error.strerror}") from None
