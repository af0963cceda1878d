"""What a TensorRT plan says of itself: the TensorRT that built it. NVIDIA documents nothing else of its form.

NVIDIA's own trtexec reads it without loading the plan (--getPlanVersionOnly; printPlanVersion in TensorRT's
samples/common/sampleEngines.cpp): a tag `ftrt` at 0, the version of the form at 4 (0 is known), and at 24 four bytes,
the numbers of the TensorRT release. GPU, shapes and flags are the publisher's to say. How long a plan should be is
not written where one could read it, so a plan that is cut short behind these 28 bytes is found when it is loaded.
ultralytics writes a description in front of the plan, which stays in the file: agents skip it.
"""

from __future__ import annotations

import struct
from pathlib import Path

from registry.contracts.catalogue.manifest import Format, Requirements
from registry.inspection.facts import InspectionError, ModelFacts
from registry.inspection.ultralytics import described
from registry.plan_file import read_description

MAGIC = b"ftrt"
HEADER_BYTES = 28
_KNOWN_FORM = 0


def inspect(path: Path) -> ModelFacts:
    """Read the plan at `path`; one with another tag is taken as the publisher says it, with a warning.

    Raises:
        InspectionError: it is cut short inside its header.
    """
    with path.open("rb") as file:
        said, begin = read_description(file, path.stat().st_size)
        file.seek(begin)
        head = file.read(HEADER_BYTES)
    found = described(said) if said is not None else None
    warnings: tuple[str, ...] = ()
    if found is not None and found.dla is not None:
        warnings = (f"{path.name} was built for DLA core {found.dla}; agents load plans for the GPU",)
    if not head.startswith(MAGIC):
        text = f"{path.name} does not begin as the plans that trtexec knows: it was taken for one because you say so"
        return ModelFacts(format=Format.TENSORRT_PLAN, warnings=(*warnings, text), described=found)
    if len(head) < HEADER_BYTES:
        raise InspectionError(f"{path.name} is a TensorRT plan that is cut short inside its header. Copy it again")
    version = read_version(head)
    producer = f"TensorRT {version}" if version else ""
    return ModelFacts(
        format=Format.TENSORRT_PLAN, requirements=Requirements(tensorrt_version=version), producer=producer,
        warnings=warnings, described=found,
    )  # fmt: skip


def read_version(head: bytes) -> str | None:
    """`10.13.3.9` from the first 28 bytes of a plan; None where its form is another or the numbers are none."""
    (form,) = struct.unpack_from("<I", head, 4)
    numbers = head[24:28]
    return ".".join(map(str, numbers)) if form == _KNOWN_FORM and numbers[0] else None
