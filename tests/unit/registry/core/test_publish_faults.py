"""What a manifest may not say of its variants, or leave out."""

from __future__ import annotations

from typing import Any

import pytest

from agent.backends.mindspore_graph import DEVICES
from registry.contracts.catalogue.manifest import (
    FileRef,
    Format,
    Golden,
    Manifest,
    MeasuredParity,
    Network,
    Parity,
    Requirements,
    Target,
)
from registry.core.publish_checks import TARGETS, publish_faults
from tests.unit.registry.contracts.test_resolution import manifest, variant

GOLDEN = Golden(file=FileRef(path="g.safetensors", digest="sha256:" + "0" * 64, size=100), cases=2, reference="a")


def measured(golden: Golden | None = GOLDEN, reference: str | None = "a", **said: Any) -> Manifest:
    parity = Parity(**{"cases": 2, "max_abs": 0.0, "max_rel": 0.0, "passed": True, "top1_agreement": 1.0, **said})
    told = MeasuredParity(parity=parity, backend="onnxruntime/CPUExecutionProvider", reference=reference)
    one = variant("a").model_copy(update={"parity": told})
    return manifest(one, variant("b")).model_copy(update={"golden": golden})


def test_what_was_measured_and_passed_has_no_fault() -> None:
    assert publish_faults(measured()) == ()
    assert publish_faults(measured(reference=None, top1_agreement=None)) == ()
    assert publish_faults(manifest(variant("a"))) == ()


@pytest.mark.parametrize(
    ("lying", "says"),
    [
        (measured(passed=False, why="case 0 is off"), "over the tolerance: case 0 is off"),
        (measured(golden=None), "the version has none"),
        (measured(cases=3), "by 3 golden vectors, the version has 2"),
        (measured(reference="c"), "against c, which is no variant"),
        (measured(top1_agreement=0.5), "a top class of 0.5; the tolerance asks for 1"),
    ],
)
def test_what_does_not_agree_is_named_with_its_variant(lying: Manifest, says: str) -> None:
    (fault,) = publish_faults(lying)
    assert fault.startswith("variant a: ")
    assert says in fault


@pytest.mark.parametrize(
    ("kind", "target", "complete"),
    [
        (Format.OM, Target.ASCEND310, {"soc_version": "Ascend310P3", "cann_version": "8.0.RC1"}),
        (Format.TENSORRT_PLAN, Target.GPU, {"compute_capability": "8.6", "tensorrt_version": "10.13.3.9"}),
    ],
)
def test_a_compiled_variant_says_what_it_was_compiled_for(
    kind: Format, target: Target, complete: dict[str, str]
) -> None:
    def faults(said: dict[str, str]) -> tuple[str, ...]:
        changes = {"format": kind, "target": target, "requirements": Requirements(**said)}  # type: ignore[arg-type]
        return publish_faults(manifest(variant("a").model_copy(update=changes)))

    assert faults(complete) == ()
    for missing in complete:
        (fault,) = faults({name: value for name, value in complete.items() if name != missing})
        assert missing in fault


@pytest.mark.parametrize(
    ("kind", "target", "needs", "says"),
    [
        (Format.OM, Target.CPU, {}, "om does not run on the target cpu, only on ascend310 or ascend910"),
        (Format.TENSORRT_PLAN, Target.ASCEND310, {}, "tensorrt-plan does not run on the target ascend310, only on gpu"),
        (Format.MINDIR, Target.ASCEND310, {}, "mindir does not run on the target ascend310"),
        (Format.AIR, Target.ASCEND310, {}, ""),
        (Format.ONNX, Target.ASCEND310, {}, ""),
        (Format.OM, Target.ASCEND310, {"cann_version": "banana"}, "cann_version 'banana' is no version"),
        (Format.TENSORRT_PLAN, Target.GPU, {"tensorrt_version": "new"}, "it is written as 10.13.3.9"),
    ],
)
def test_what_no_host_could_be_matched_with_is_refused(
    kind: Format, target: Target, needs: dict[str, str], says: str
) -> None:
    found = publish_faults(manifest(variant("a", target, kind, **needs)))
    assert len(found) == (1 if says else 0)
    assert says in "".join(found)


def test_the_targets_of_mindir_are_those_that_the_agent_computes_on() -> None:
    assert TARGETS[Format.MINDIR] == tuple(DEVICES)


@pytest.mark.parametrize(
    ("kind", "network", "says"),
    [
        (Format.MINDSPORE_CKPT, Network(name="lenet5", arguments={"num_class": 10}), ""),
        (Format.MINDSPORE_CKPT, Network(name="lenet6"), "no network is called 'lenet6'"),
        (Format.MINDSPORE_CKPT, Network(name="lenet5", arguments={"depth": 1}), "has no argument 'depth'"),
        (Format.ONNX, Network(name="lenet5"), "a network is for checkpoints, and onnx brings its own"),
    ],
)
def test_a_network_is_of_a_checkpoint_and_in_the_catalogue(kind: Format, network: Network, says: str) -> None:
    named = variant("a").model_copy(update={"format": kind, "network": network})
    found = publish_faults(manifest(named))
    assert len(found) == (1 if says else 0)
    assert says in "".join(found)
