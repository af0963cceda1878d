"""What every process gives up before it touches a model: workers, picture decoders, converters, the publisher's runs.

`die_with_parent`, then `limit`, then `confine`, then the vendor's code, then the model's bytes. Where an accelerator's
driver needs its devices, `give_up_calls` instead of `confine`. Best effort is said to be so: both return what is in
force. Standard library only, Python 3.9 syntax, no other package of ours: it runs under a vendor's interpreter, too.

Numbers: linux/prctl.h, linux/landlock.h, asm-generic/unistd.h (the Landlock system calls have the same numbers on
every architecture).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import struct
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from registry.sandbox.calls import give_up_calls

__all__ = ["adopt_orphans", "confine", "die_with_parent", "give_up_calls", "limit", "memory_of_host"]

MAX_FILE_BYTES = 4 << 30
"""The largest file that may be written where writing is allowed at all."""
OPEN_FILES = 128
MAX_TASKS = 4096
"""Threads and processes that one process, with what it starts, may have."""
_OOM_SCORE = b"500"
"""The kernel takes a worker before the agent when memory runs out."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_VERSION_FLAG = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER, _IOCTL = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 15
"""LANDLOCK_ACCESS_FS_EXECUTE and so on. Without EXECUTE no other program starts; libraries still map."""
_FS_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FS_RIGHTS_NEWEST = (1 << 16) - 1
"""ABI 5 added LANDLOCK_ACCESS_FS_IOCTL_DEV."""
_NET_BIND_AND_CONNECT = 3
"""Since ABI 4: TCP."""
_SCOPE_SOCKETS_AND_SIGNALS = 3
"""Since ABI 6: abstract Unix sockets of, and signals to, processes outside."""
_SYSTEM_PATHS = (
    *("/lib", "/lib64", "/usr", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys"),
)

_TOOL_PATHS = ("/bin", "/sbin", "/opt", "/proc")


def die_with_parent(wanted: bool) -> None:
    """The kernel kills this process when the thread that started it ends. Only for the time of loading.

    Later that thread may go while the agent lives; then the closed control socket tells of the agent's death.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if wanted else 0)


def adopt_orphans() -> None:
    """From here on a descendant whose parent has ended is a child of this process, wherever it went."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def limit(memory_bytes: int | None, *, writes: bool = False, files: int = OPEN_FILES) -> None:
    """Resource limits for good: address space, no core file, no file growth, few open files; no new privileges.

    `writes`: what is compiled may be kept, in files of MAX_FILE_BYTES at most.
    `memory_bytes` None: no limit, for accelerators whose drivers reserve far more addresses than memory.
    Threads and processes: MAX_TASKS more than the user has now, but for root, whom the kernel does not hold to it.
    """
    with suppress(OSError):  # not every container shows it; a lower score than the parent's needs a privilege
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as score:
            score.write(_OOM_SCORE)
    limits = {
        resource.RLIMIT_AS: resource.RLIM_INFINITY if memory_bytes is None else memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: MAX_FILE_BYTES if writes else 0,
        resource.RLIMIT_NOFILE: files,
    }
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = min((bound for bound in (wanted, hard) if bound != resource.RLIM_INFINITY), default=wanted)
        resource.setrlimit(kind, (value, value))
    _limit_tasks()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _limit_tasks() -> None:
    """The kernel counts all threads of the user, also those that /proc does not show here: it is tried first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    user, tasks = os.getuid(), MAX_TASKS
    for name in os.listdir("/proc"):
        with suppress(OSError):  # it has ended
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                tasks += os.stat(f"/proc/{name}/task").st_nlink - 2
    if tasks >= hard != resource.RLIM_INFINITY:
        return
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, hard))
    trial = threading.Thread(target=int)
    try:
        trial.start()
    except RuntimeError:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        return
    trial.join()
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))


def confine(read: Sequence[str], *, write: Sequence[str] = (), tools: Sequence[str] | None = None) -> str:
    """From here on only these folders, Python and the system's libraries can be read, nothing written or started.

    `write`: below these folders files can be made and written. `tools`: programs may be started, those of the system
    and below these folders; /dev and /etc can be used then, since a vendor's compiler needs both, but for this
    project's own settings. /dev/null may be opened for writing in any case. Landlock refuses TCP from ABI 4 on, and
    signals to processes outside from ABI 6 on. What `give_up_calls` says is given up besides.

    Returns "landlock <abi>, seccomp"; instead of either what is missing, and why. Holds for the threads and processes
    that start later.
    """
    return f"{_confine(read, write, tools)}, {give_up_calls(children=tools is not None)}"


def _confine(read: Sequence[str], write: Sequence[str], tools: Sequence[str] | None) -> str:
    abi = _syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION_FLAG)
    if abi < 1:
        return "no Landlock: this kernel has none"
    handled = _FS_RIGHTS_BY_ABI.get(abi, _FS_RIGHTS_NEWEST)
    attributes = struct.pack("<QQQ", handled, _NET_BIND_AND_CONNECT, _SCOPE_SOCKETS_AND_SIGNALS)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _syscall(_LANDLOCK_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        return "no Landlock: it is switched off"
    start = 0 if tools is None else _EXECUTE
    try:
        paths = {
            *read,
            *_SYSTEM_PATHS,
            sys.prefix,
            sys.base_prefix,
            os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
            *sys.path,
        }
        paths.update(filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")))
        for path in sorted(paths):
            _allow(ruleset, path, _READ_FILE | start)
        for path in (*_TOOL_PATHS, *_etc(), *tools) if tools is not None else ():
            _allow(ruleset, path, _READ_FILE | start)
        if tools is not None:
            _allow(ruleset, "/dev", _READ_FILE | _WRITE_FILE | (_IOCTL & handled))
        for path in write:
            _allow(ruleset, path, handled & ~_EXECUTE)
        _allow(ruleset, os.devnull, _READ_FILE | _WRITE_FILE)  # MindSpore opens it for writing
        refused = _syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return f"landlock {abi}" if refused == 0 else "no Landlock: it refused"


def memory_of_host() -> int:
    """Bytes of physical memory: the most that a process may ask for where nobody set a limit."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _etc() -> list[str]:
    """What lies in /etc, without this project's own settings, which hold secrets."""
    try:
        return [f"/etc/{name}" for name in os.listdir("/etc") if name != "modelfleet"]
    except OSError:
        return []


def _allow(ruleset: int, path: str, wanted: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a path that is not there needs no permission
    try:
        rights = wanted | (_READ_FOLDER if stat.S_ISDIR(os.fstat(beneath).st_mode) else 0)
        _syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, struct.pack("<Qi", rights, beneath), 0)
    finally:
        os.close(beneath)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


def _syscall(number: int, *arguments: bytes | int | None) -> int:
    """A system call with integers, byte strings or null pointers; -1 on failure."""
    libc = _libc()
    libc.syscall.restype = ctypes.c_long
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return int(libc.syscall(ctypes.c_long(number), *converted))
