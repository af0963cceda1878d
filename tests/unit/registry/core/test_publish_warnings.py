"""What a publisher is told about a version and the fleet as it is."""

from __future__ import annotations

import pytest

from registry.contracts.catalogue.manifest import Format, Target, Variant
from registry.contracts.fit.platforms import BackendFacts
from registry.core.publish_checks import publish_warnings
from tests.unit.registry.contracts.test_resolution import ACL, HOST, MINDSPORE, manifest, other, variant

NPU = HOST.model_copy(update={"backends": (*HOST.backends, ACL)})
TRT = BackendFacts(
    name="tensorrt", usable=True, version="10.13.3.9", formats=(Format.TENSORRT_PLAN,), targets=(Target.GPU,)
)


def test_two_variants_that_rank_the_same_are_told() -> None:
    (told,) = publish_warnings(manifest(other("a", 1), other("b", 2)), [])
    assert "a, b rank the same" in told


def test_a_version_that_fits_gives_no_warning() -> None:
    assert publish_warnings(manifest(variant("a", onnx_opsets={"": 17})), [(HOST, 3)]) == ()


def test_one_device_that_fits_is_enough() -> None:
    form = variant("om", Target.ASCEND310, Format.OM, soc_version="Ascend310P3")
    assert publish_warnings(manifest(form), [(HOST, 99), (NPU, 1)]) == ()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            variant("new", onnx_opsets={"": 25}),
            "opset_too_new: needs opset 25, they have up to 21 (onnxruntime 1.32.0)",
        ),
        (
            variant("om", Target.ASCEND310, Format.OM, soc_version="Ascend310B4"),
            "(built for Ascend310B4) fits none of the 4 known devices: soc_mismatch",
        ),
        (
            variant("plan", Target.GPU, Format.TENSORRT_PLAN, compute_capability="9.0"),
            "(built for compute capability 9.0) fits none of the 4 known devices: rt_missing",
        ),
        (variant("big", memory_bytes=1 << 50), "mem_insufficient"),
    ],
)
def test_a_variant_that_no_device_can_run_is_told_with_what_they_have(form: Variant, said: str) -> None:
    (told,) = publish_warnings(manifest(form), [(HOST, 3), (NPU, 1)])
    assert said in told


def test_a_fleet_of_which_nothing_is_known_and_a_source_for_conversion_give_no_warning() -> None:
    assert publish_warnings(manifest(variant("gpu", Target.GPU)), []) == ()
    assert publish_warnings(manifest(variant("air", Target.ASCEND310, Format.AIR)), [(HOST, 1)]) == ()


def test_facts_that_are_not_known_count_as_not_fitting() -> None:
    blind = HOST.model_copy(update={"backends": (MINDSPORE.model_copy(update={"version": "?"}),)})
    form = variant("m", format=Format.MINDIR, mindspore_version="2.10.0")
    (told,) = publish_warnings(manifest(form), [(blind, 1)])
    assert "fact_unknown" in told
