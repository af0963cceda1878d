"""Which system calls the filter of the sandbox refuses, computed as the kernel computes it."""

from __future__ import annotations

import errno
import struct

import pytest

from registry.sandbox.calls import Instruction, program

X86, ARM = 0xC000003E, 0xC00000B7
OWN = 4321


def answer(made: list[Instruction], number: int, *arguments: int, machine: int = X86) -> int:
    """The error; 0: it passes."""
    data = struct.pack("<IIQ6Q", number, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    value, at = 0, 0
    while True:
        code, then, otherwise, constant = made[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, constant)
        elif code == 0x06:
            return 0 if constant == 0x7FFF0000 else constant & 0xFFFF
        else:
            holds = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[code]
            at += then if holds else otherwise


def of(machine: str, *, children: bool) -> list[Instruction]:
    """The program of that machine."""
    made = program(machine, OWN, children=children)
    assert made is not None
    return made


CASES = [
    # number on x86-64 and aarch64, arguments, the error alone, with children
    ((0, 63), (), 0, 0),  # read
    ((1, 64), (), 0, 0),  # write
    ((44, 206), (), 0, 0),  # sendto, on what it was given
    ((41, 198), (2, 2), errno.EPERM, errno.EAFNOSUPPORT),  # socket of IPv4
    ((41, 198), (16, 3), errno.EPERM, errno.EAFNOSUPPORT),  # socket of netlink
    ((41, 198), (1, 1), errno.EPERM, 0),  # a Unix socket
    ((53, 199), (1, 1), 0, 0),  # a pair
    ((425, 425), (), errno.EPERM, errno.EPERM),  # io_uring_setup
    ((56, 220), (0x3D0F00,), 0, 0),  # clone: a thread
    ((56, 220), (17,), errno.EPERM, 0),  # clone: a process
    ((435, 435), (), errno.ENOSYS, 0),  # clone3
    ((302, 261), (0,), 0, 0),  # prlimit of its own
    ((302, 261), (1,), errno.EPERM, errno.EPERM),
    ((62, 129), (OWN, 6), 0, 0),  # kill
    ((62, 129), (1, 9), errno.EPERM, 0),
    ((62, 129), ((1 << 64) - 1, 9), errno.EPERM, 0),  # everybody
    ((234, 131), (OWN, OWN, 6), 0, 0),  # tgkill
    ((203, 122), (0,), 0, 0),  # sched_setaffinity
    ((203, 122), (OWN - 1,), errno.EPERM, 0),
    ((112, 157), (), errno.EPERM, errno.EPERM),  # setsid
    ((101, 117), (), errno.EPERM, errno.EPERM),  # ptrace
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("column", [0, 1], ids=["x86_64", "aarch64"])
def test_what_is_refused(case: tuple[tuple[int, int], tuple[int, ...], int, int], column: int) -> None:
    numbers, arguments, alone, with_children = case
    name, machine = (("x86_64", X86), ("aarch64", ARM))[column]
    assert answer(of(name, children=False), numbers[column], *arguments, machine=machine) == alone
    assert answer(of(name, children=True), numbers[column], *arguments, machine=machine) == with_children


@pytest.mark.parametrize("children", [False, True])
def test_another_abi_of_the_same_machine_is_refused(children: bool) -> None:
    made = of("x86_64", children=children)
    assert answer(made, 0, machine=0x40000003) == errno.EPERM
    assert answer(made, (1 << 30) | 41, 2, 2) == errno.EPERM


def test_of_a_machine_whose_numbers_are_not_known_there_is_none() -> None:
    assert program("riscv64", OWN, children=False) is None
