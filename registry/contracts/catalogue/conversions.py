"""What can be made from what: the goals of `registry convert`, and which variant of a version leads to one."""

from __future__ import annotations

from typing import NamedTuple

from registry.contracts.catalogue.manifest import Format, Manifest, Variant

INT8_SUFFIX = "-int8"


class Goal(NamedTuple):
    """One thing that a conversion can make."""

    format: Format
    sources: tuple[Format, ...]
    """Formats that it is made from, best first."""


GOALS: dict[str, Goal] = {
    "onnx": Goal(Format.ONNX, (Format.MINDSPORE_CKPT,)),
    "mindir": Goal(Format.MINDIR, (Format.MINDSPORE_CKPT,)),
    "air": Goal(Format.AIR, (Format.MINDSPORE_CKPT,)),
    "om": Goal(Format.OM, (Format.ONNX, Format.AIR)),
    "tensorrt-plan": Goal(Format.TENSORRT_PLAN, (Format.ONNX,)),
    "onnx-int8": Goal(Format.ONNX, (Format.ONNX,)),
}
"""By the name that a person gives. A job says the format only: from ONNX to ONNX is to INT8."""


def source_for(manifest: Manifest, goal: Goal) -> Variant | None:
    """The variant to start from: of the first source format that the version has, one that was published, rather
    than one that was itself made from another. None: the version has none."""
    for wanted in goal.sources:
        fitting = [variant for variant in manifest.variants if variant.format is wanted]
        if fitting:
            return next((variant for variant in fitting if variant.build is None), fitting[0])
    return None
