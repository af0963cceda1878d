"""How pyACL is found, started once per process, and what its error numbers mean.

pyACL comes with CANN and lies outside of every interpreter's packages; the worker's interpreter ignores PYTHONPATH, so
the folders under ASCEND_TOOLKIT_HOME or ASCEND_HOME_PATH (CANN's set_env.sh sets them) are searched here. `acl.init`
and `acl.finalize` are called once in the life of a process, whatever is loaded and closed in between: CANN does not
promise that a process may start ACL again. Numbers: CANN's acl_base.h, rt_error_codes.h, ge_error_codes.h.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

from agent.backends.base import (
    ARTIFACT_FAULT,
    CALL_FAILED,
    DEVICE_UNHEALTHY,
    RETRY,
    BackendError,
    DeviceCallError,
)
from agent.backends.catalog import CATALOG, import_vendor

NAME = "ascend_acl"
_MEMORIES = (1, 0)
"""aclrtMemAttr: ACL_HBM_MEM, ACL_DDR_MEM; a device has the one or the other."""
MAX_DEVICES = 64
_PLACES = ("python/site-packages", "pyACL/python/site-packages")
"""Of `acl` under CANN's folder: since CANN 5.0, and before."""
_MAX_DETAIL = 300
_REPEATED_INIT = 100002
NO_MEMORY = 200000


class AclError(DeviceCallError):
    """A call of pyACL that failed."""

    meanings: ClassVar[Mapping[str, Mapping[int, str]]] = {
        DEVICE_UNHEALTHY: {
            107022: "the device task was aborted",
            200002: "invalid device",
            207004: "no device",
            207006: "no permission",
            507010: "the task scheduler lost its heartbeat",
            507012: "the task scheduler does not report",
            507013: "a system DMA error",
            507014: "an AI Core timed out",
            507015: "an AI Core exception",
            507016: "an AI Core trap",
            507017: "an AI CPU timed out",
            507018: "an AI CPU exception",
            507899: "an internal error of the driver",
        },
        RETRY: {
            NO_MEMORY: "no memory",
            207001: "no device memory",
            207005: "no resource left",
            207007: "no event left",
            207008: "no stream left",
            207009: "no notify left",
            207010: "no model slot left",
            207011: "no runtime resource left",
            207012: "over the limit of queues",
            207018: "the device is out of memory",
            245000: "no memory for the model",
            245001: "no memory for the model's feature maps",
            245002: "no device memory for the model",
        },
        ARTIFACT_FAULT: {
            100003: "invalid file",
            100004: "cannot open the file",
            100006: "cannot parse the file",
            100011: "invalid model",
            100012: "the model cannot be deserialised",
            100013: "the model cannot be parsed",
            100014: "the model cannot be read",
            100015: "invalid model size",
            100017: "the input does not match the model",
            500002: "the graph engine refuses the model",
            507008: "SoC version error",
            507009: "the model has a task that this SoC does not support",
        },
    }
    advice: ClassVar[Mapping[str, str]] = {
        RETRY: "the device is short of resources: it may work later, or with fewer models on this device",
        DEVICE_UNHEALTHY: "check the device with `npu-smi info`, its driver, and that the agent's user may use it",
        ARTIFACT_FAULT: "the OM file must be converted for this SoC, by a CANN not newer than this host's",
        CALL_FAILED: "CANN's log says more",
    }

    @classmethod
    def family_of(cls, number: int) -> str:
        """As DeviceCallError.family_of."""
        # 145xxx: the graph engine about a model's path, id, batch, shape; 545xxx: about its weights, tasks, partitions.
        return ARTIFACT_FAULT if number // 1000 in (145, 545) else super().family_of(number)


def ask(acl: Any, name: str, *arguments: Any, running: bool = False) -> Any:
    """What a function of pyACL returns before its error number: one value, or a list of several or none.

    Raises AclError when the number is not 0.
    """
    result = attrgetter(name)(acl)(*arguments)
    *values, number = result if isinstance(result, tuple) else (result,)
    if number != 0:
        raise AclError(f"acl.{name}", number, _detail(), running=running)
    return values[0] if len(values) == 1 else values


def _detail() -> str:
    """What ACL itself says about the last failure on this thread, in one line; not every CANN has it."""
    tell = getattr(sys.modules.get("acl"), "get_recent_err_msg", None)
    text = tell() if callable(tell) else None
    return " ".join(text.split())[:_MAX_DETAIL] if isinstance(text, str) else ""


def vendor() -> Any:
    """The module `acl`. Raises BackendError(backend_unavailable), saying what to install."""
    for home in filter(None, (os.environ.get("ASCEND_TOOLKIT_HOME"), os.environ.get("ASCEND_HOME_PATH"))):
        for place in _PLACES:
            folder = os.path.join(home, place)
            if os.path.isabs(home) and os.path.isdir(os.path.join(folder, "acl")) and folder not in sys.path:
                sys.path.append(folder)  # last: CANN's folder holds more than `acl`, and NumPy stays ours
    acl = import_vendor(NAME, "acl", "pyACL")
    if not all(hasattr(acl, part) for part in ("rt", "mdl", "util", "init", "get_soc_name")):
        where = getattr(acl, "__file__", "?")
        message = f"the module acl at {where} is not CANN's pyACL: {CATALOG[NAME].install}"
        raise BackendError("backend_unavailable", message)
    return acl


def _choose(acl: Any) -> int:
    """The device with the most memory left, of several; the first of equals."""
    count = ask(acl, "rt.get_device_count")
    if count < 1:
        raise BackendError("backend_unavailable", "ACL finds no Ascend device: check with `npu-smi info`")
    if count == 1:
        return 0
    free = [_free_memory(acl, device) for device in range(min(count, MAX_DEVICES))]
    return free.index(max(free))


def _free_memory(acl: Any, device: int) -> int:
    """Bytes; -1 when the device cannot be taken, which is another one's to serve then."""
    if acl.rt.set_device(device) != 0:
        return -1
    try:
        found = [acl.rt.get_mem_info(kind) for kind in _MEMORIES]
        return max((free for free, _, number in found if number == 0), default=-1)
    finally:
        ask(acl, "rt.reset_device", device)


class _Process:
    """ACL in this process: started by the first who needs it, the device held while somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = False
        self._users = 0
        self._device = 0

    def start(self) -> Any:
        """acl.init, once. Returns the module."""
        acl = vendor()
        with self._lock:
            if not self._started:
                try:
                    ask(acl, "init")
                    atexit.register(self._finish, acl)
                except AclError as error:
                    if error.number != _REPEATED_INIT:  # somebody else in this process did it, and will finalize
                        raise
                self._started = True
        return acl

    def take_device(self, wanted: int | None = None) -> int:
        """acl.rt.set_device for the first user: the wanted one, or the one with the most memory left. Returns its id.

        A process holds one device; ids count what ASCEND_RT_VISIBLE_DEVICES lets it see. Raises BackendError.
        """
        acl = self.start()
        with self._lock:
            if self._users == 0:
                device = _choose(acl) if wanted is None else wanted
                ask(acl, "rt.set_device", device)
                self._device = device
            elif wanted not in (None, self._device):
                raise BackendError(
                    "backend_unavailable",
                    f"this process holds the Ascend device {self._device} already, and {wanted} is asked for",
                )
            self._users += 1
            return self._device

    def give_device(self) -> None:
        """acl.rt.reset_device after the last user."""
        acl = vendor()
        with self._lock:
            self._users -= 1
            if self._users == 0:
                ask(acl, "rt.reset_device", self._device)

    def _finish(self, acl: Any) -> None:
        """At the end of the process, never from a destructor. Models that are still open go with the process."""
        if self._users == 0:
            ask(acl, "finalize")


PROCESS = _Process()
"""The one of this process."""
