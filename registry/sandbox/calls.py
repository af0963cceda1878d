"""Which system calls a process gives up for good, by seccomp: no network, no other process, nothing of the host.

A filter names what is refused and lets the rest pass. It is decided by number and arguments, so the kernel keeps the
answer for the calls that pass by their number alone, and they cost what they cost without it (Linux 5.11).
Standard library only, Python 3.9 syntax.

Numbers: asm/unistd_64.h (x86-64), asm-generic/unistd.h (aarch64), linux/filter.h, linux/seccomp.h, linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Sequence

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Place in the tables below, and AUDIT_ARCH_..."""
_X32 = 1 << 30
"""The bit of system calls of another ABI of x86-64."""

_HOST = (
    # process_vm_readv, process_vm_writev, ptrace, kcmp, pidfd_getfd, process_madvise, process_mrelease
    *((310, 270), (311, 271), (101, 117), (312, 272), (438, 438), (440, 440), (448, 448)),
    # migrate_pages, move_pages, perf_event_open, bpf, userfaultfd
    *((256, 238), (279, 239), (298, 241), (321, 280), (323, 282)),
    # io_uring_setup, io_uring_enter, io_uring_register: they make sockets that no filter sees
    *((425, 425), (426, 426), (427, 427)),
    # setsid, setpgid: nobody leaves the group that is killed; unshare, setns, chroot, pivot_root
    *((112, 157), (109, 154), (272, 97), (308, 268), (161, 51), (155, 41)),
    # add_key, request_key, keyctl, open_by_handle_at
    *((248, 217), (249, 218), (250, 219), (304, 265)),
    # mount, umount2, open_tree, move_mount, fsopen, fsmount, fspick, mount_setattr, swapon
    *((165, 40), (166, 39), (428, 428), (429, 429), (430, 430), (432, 432), (433, 433), (442, 442), (167, 224)),
    # init_module, finit_module, delete_module, kexec_load, reboot, acct
    *((175, 105), (313, 273), (176, 106), (246, 104), (169, 142), (163, 89)),
    # settimeofday, clock_settime, clock_adjtime, adjtimex, sethostname
    *((164, 170), (227, 112), (305, 266), (159, 171), (170, 161)),
)
"""Refused to all, as numbers of x86-64 and aarch64."""
_ALONE = (
    # socket, connect, bind, listen; a pair of sockets is no way to anybody
    *((41, 198), (42, 203), (49, 200), (50, 201)),
    # fork, vfork, which aarch64 has not
    *((57, None), (58, None)),
    # tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_open, pidfd_send_signal, setpriority, ioprio_set
    *((200, 130), (129, 138), (297, 240), (434, 434), (424, 424), (141, 140), (251, 30)),
)
"""Refused besides, to a process that has no children."""
_CLONE3, _CLONE, _SOCKET, _SOCKETPAIR, _PRLIMIT = (435, 435), (56, 220), (41, 198), (53, 199), (302, 261)
_OF_A_THREAD = ((203, 122), (144, 119), (142, 118), (314, 274))
"""sched_setaffinity, sched_setscheduler, sched_setparam, sched_setattr: their first argument is a thread, 0 the own."""
_SIGNALS = ((62, 129), (234, 131))
"""kill, tgkill."""
_CLONE_THREAD, _AF_UNIX = 0x10000, 1

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_PR_SET_SECCOMP, _FILTER_MODE = 22, 2
_SECCOMP = (317, 277)
_ALL_THREADS, _NO_MITIGATION = 1 << 0, 1 << 2
"""SECCOMP_FILTER_FLAG_TSYNC; ..._SPEC_ALLOW: older kernels would slow the process down against others of its own."""

Instruction = tuple[int, int, int, int]
"""Code, jump where true, jump where false, value."""


def program(machine: str, own_pid: int, *, children: bool) -> list[Instruction] | None:
    """The filter; None: the numbers of this machine are not known.

    `children`: programs may be started, and Unix sockets be made between them.
    """
    if machine not in _MACHINES:
        return None
    column, architecture = _MACHINES[machine]

    def numbers(table: Sequence[tuple[int | None, ...]]) -> list[int]:
        return [row[column] for row in table if row[column] is not None]  # type: ignore[misc]

    made: list[Instruction] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, architecture),
        _refuse(errno.EPERM),
        (_LOAD, 0, 0, _NUMBER_AT),
        *([(_AT_LEAST, 0, 1, _X32), _refuse(errno.EPERM)] if machine == "x86_64" else []),
    ]
    for number in numbers(_HOST if children else (*_HOST, *_ALONE)):
        made += [(_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    # As a kernel that lacks it: the C library then takes clone, whose flags a filter can see.
    made += [] if children else [(_EQUAL, 0, 1, _CLONE3[column]), _refuse(errno.ENOSYS)]
    made += [] if children else _unless(_CLONE[column], 0, [(_ANY_BIT, _CLONE_THREAD)], errno.EPERM)
    for number in numbers((_SOCKET, _SOCKETPAIR) if children else (_SOCKETPAIR,)):
        made += _unless(number, 0, [(_EQUAL, _AF_UNIX)], errno.EAFNOSUPPORT)
    made += _unless(_PRLIMIT[column], 0, [(_EQUAL, 0)], errno.EPERM)
    if not children:
        for number in numbers(_SIGNALS):
            made += _unless(number, 0, [(_EQUAL, own_pid)], errno.EPERM)
        for number in numbers(_OF_A_THREAD):
            made += _unless(number, 0, [(_EQUAL, 0), (_EQUAL, own_pid)], errno.EPERM)
    return [*made, (_RETURN, 0, 0, _ALLOW)]


def give_up_calls(*, children: bool) -> str:
    """From here on, for good, for this process and what it starts. Returns "seccomp", or "no seccomp" and why.

    Refused calls fail with EPERM, sockets of other families with EAFNOSUPPORT. Needs "no new privileges".
    """
    machine = os.uname().machine
    made = program(machine, os.getpid(), children=children)
    if made is None or sys.byteorder != "little" or struct.calcsize("P") != 8:
        return f"no seccomp: it is not known on {machine}"
    code = b"".join(struct.pack("<HBBI", *each) for each in made)
    kept = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(made), ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    column, _ = _MACHINES[machine]
    flags = _ALL_THREADS | _NO_MITIGATION
    if libc.syscall(ctypes.c_long(_SECCOMP[column]), ctypes.c_long(1), ctypes.c_long(flags), described) == 0:
        return "seccomp"
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_FILTER_MODE), described, ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0:
        return "seccomp"
    return f"no seccomp: {os.strerror(ctypes.get_errno())}"


def _refuse(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _unless(number: int, argument: int, allowed: Sequence[tuple[int, int]], error: int) -> list[Instruction]:
    """Refuse that call, unless one of these tests holds for its argument, of which the low 32 bits count."""
    tests = [(code, len(allowed) - place, 0, value) for place, (code, value) in enumerate(allowed)]
    block: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument), *tests, _refuse(error)]
    return [(_EQUAL, 0, len(block) + 1, number), *block, (_RETURN, 0, 0, _ALLOW)]
