"""What a plan refuses before it looks at a file, and the names that files have in an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.client.errors import UsageFault
from registry.contracts.catalogue.manifest import ImageInput, Target
from registry.publishing.plan import artifact_name, make_plan
from registry.publishing.request import GoldenSection, PublishRequest, VariantSection

VECTORS = Path("nowhere.safetensors")


def request(**said: Any) -> PublishRequest:
    section = VariantSection(file=Path("nowhere.onnx"), target=Target.CPU)
    return PublishRequest(**{"model": "m", "version": "1", "variant": (section,), **said})


@pytest.mark.parametrize(
    ("golden", "says"),
    [
        (GoldenSection(of="m@1", compare_with="m@1"), "--golden-of and --compare-with cannot be combined"),
        (GoldenSection(file=VECTORS, of="m@1"), "--golden and --golden-of cannot be combined"),
        (GoldenSection(file=VECTORS, random=0), "--golden and --golden-random cannot be combined"),
        (GoldenSection(of="m@1", reference="a", inputs=VECTORS), "--golden-of and --golden-from and --golden-inputs"),
        (GoldenSection(reference="a", compare_with="m@1"), "by a variant .* or by another version"),
        (GoldenSection(compare_with="m@1", random=0), "says that there are none"),
        (GoldenSection(inputs=VECTORS, random=3), "either given .* or random"),
    ],
)
def test_golden_vectors_come_from_one_source(golden: GoldenSection, says: str) -> None:
    with pytest.raises(UsageFault, match=says):
        make_plan(request(golden=golden))


def test_a_version_needs_a_name_that_is_none_of_its_aliases() -> None:
    with pytest.raises(UsageFault, match="Which version"):
        make_plan(request(version=None))
    with pytest.raises(UsageFault, match="the version's own name"):
        make_plan(request(aliases=("stable", "1")))


def test_a_misspelt_field_is_refused_wherever_it_stands() -> None:
    image: Any = {"input": "x", "height": 1, "width": 1, "normalise": True}
    with pytest.raises(UsageFault) as refused:
        make_plan(request(image=ImageInput(**image)))
    assert refused.value.errors == ("image.normalise",)
    with pytest.raises(ValueError, match="Extra inputs"):
        request(licens="MIT")


def test_a_file_name_becomes_a_path_that_an_artifact_may_have() -> None:
    assert artifact_name(Path("x/my model (1).onnx")) == "my-model--1-.onnx"
    assert artifact_name(Path(".hidden.onnx")) == "hidden.onnx"
