"""What can be read of a TensorRT plan, as NVIDIA's trtexec reads it. The headers are made by hand."""

from __future__ import annotations

import struct

import pytest

from registry.inspection.plan import read_version


def header(*version: int, form: int = 0) -> bytes:
    return b"ftrt" + struct.pack("<I", form) + bytes(16) + bytes(version)


def test_the_tensorrt_that_built_a_plan_is_read() -> None:
    assert read_version(header(10, 13, 3, 9)) == "10.13.3.9"
    assert read_version(header(11, 4, 0, 106)) == "11.4.0.106"


@pytest.mark.parametrize("head", [header(10, 13, 3, 9, form=7), header(0, 0, 0, 0)])
def test_a_form_that_trtexec_does_not_know_tells_nothing(head: bytes) -> None:
    assert read_version(head) is None
