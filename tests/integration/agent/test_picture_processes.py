"""Pictures are decoded in processes that can be killed: whatever a picture does to one, the next picture works."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.pictures.process import PictureProcesses
from registry.pictures.bare import MAX_PIXELS, PictureError
from registry.pictures.detections import DetectionError, DetectionLimits, Part, RawOutput, Reading
from registry.pictures.placement import Placement
from registry.pictures.steps import PictureSteps

SMALL = PictureSteps(4, 4, "RGB", "NHWC", "stretch", 0, 1.0, (), (), "UINT8")


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    colour = 7 if mode in ("L", "I;16") else (7,) * len(mode)
    Image.new(mode, (width, height), colour).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@pytest.fixture
def processes() -> Iterator[PictureProcesses]:
    made = PictureProcesses()
    yield made
    made.close()


def children() -> list[int]:
    """Processes of this one that decode pictures."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                line = entry.joinpath("cmdline").read_bytes()
                found += [int(entry.name)] if b"agent.pictures.child" in line else []
        except (OSError, IndexError):
            continue
    return found


def decodes(processes: PictureProcesses) -> bool:
    return processes.decode(SMALL, png(8, 8)).data == bytes([7]) * 48


def test_one_process_decodes_one_picture_after_the_other_and_ends_with_us(processes: PictureProcesses) -> None:
    assert children() == []
    assert decodes(processes)
    first = children()
    assert len(first) == 1
    with pytest.raises(PictureError, match="expected a JPEG or PNG, got 9 bytes"):
        processes.decode(SMALL, b"no image!")
    assert decodes(processes)
    assert children() == first
    processes.close()
    assert children() == []


def test_a_picture_that_takes_too_long_is_refused_and_the_next_one_works() -> None:
    processes = PictureProcesses(timeout_s=0.001)
    with pytest.raises(PictureError, match=r"takes longer than 0\.001 s"):
        processes.decode(SMALL, png(6000, 6000))
    processes._timeout_s = 20.0
    assert decodes(processes)
    processes.close()


def test_a_picture_that_takes_too_much_memory_is_refused_and_the_next_one_works() -> None:
    processes = PictureProcesses(memory_bytes=320 << 20)
    with pytest.raises(PictureError, match="more than the 320 MiB"):
        processes.decode(SMALL, png(7000, 5700, "RGBA"))
    assert decodes(processes)
    processes.close()


def test_the_largest_pictures_that_are_taken_fit_the_memory(processes: PictureProcesses) -> None:
    side = int(MAX_PIXELS**0.5)
    for mode in ("RGBA", "I;16"):
        steps = SMALL._replace(max_pixels=MAX_PIXELS)
        assert processes.decode(steps, png(side, side, mode)).data[:3] == bytes(
            [7, 7, 7] if mode == "RGBA" else [0, 0, 0]
        )


def test_a_picture_that_ends_two_processes_is_refused() -> None:
    made = PictureProcesses(memory_bytes=64 << 20)  # too little to even start
    try:
        with pytest.raises(PictureError, match="ended the process that worked on it"):
            made.decode(SMALL, png(8, 8))
        assert not children()
    finally:
        made.close()


def test_a_process_that_somebody_ended_costs_no_picture(processes: PictureProcesses) -> None:
    assert decodes(processes)
    (child,) = children()
    os.kill(child, signal.SIGSEGV)
    deadline = time.monotonic() + 20
    while children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert decodes(processes)


def test_it_can_open_nothing_and_reach_nothing(processes: PictureProcesses) -> None:
    assert decodes(processes)
    (child,) = children()
    limits = Path(f"/proc/{child}/limits").read_text()
    assert "Max file size             0 " in limits
    environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    assert not [entry for entry in environment if entry.startswith(b"MODELFLEET")]
    assert "NoNewPrivs:\t1" in Path(f"/proc/{child}/status").read_text()
    assert len(list(Path(f"/proc/{child}/fd").iterdir())) <= 6


def test_a_hundred_thousand_candidates_of_eighty_classes_are_looked_through(processes: PictureProcesses) -> None:
    random = np.random.default_rng(1)
    table = np.zeros((1, 84, 100_000), np.float32)
    table[0, :2] = random.uniform(0, 640, (2, 100_000))
    table[0, 2:4] = random.uniform(1, 40, (2, 100_000))
    table[0, 4:] = random.uniform(0, 1, (80, 100_000))
    boxes, scores = Part("o", 0, True), Part("o", 4, True)
    reading = Reading(
        boxes, "cxcywh", False, scores, 80, 80, None, None, "none", "none", None, None, "class", False, 640, 640
    )
    output = {"o": RawOutput("FP32", table.shape, table.tobytes())}
    place = Placement((1280, 640), (640, 640), (0, 0))
    found = processes.detect(reading, place, DetectionLimits(0.25, 0.7, 1000), output)
    assert list(map(len, found)) == [16_000, 4000, 8000]
    assert (np.diff(np.frombuffer(found[1], "<f4")) <= 0).all()
    with pytest.raises(DetectionError, match="came with 8 bytes"):
        processes.detect(reading, place, DetectionLimits(0.25, 0.7, 10), {"o": RawOutput("FP32", (1, 84, 9), bytes(8))})
    assert decodes(processes)
