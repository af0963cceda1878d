"""What a device may add to a version is what its job was to make, for the hardware that it has."""

from __future__ import annotations

from typing import Any

import pytest

from registry.contracts.catalogue.batching import Basis, Batching
from registry.contracts.catalogue.manifest import (
    Build,
    FileRef,
    Format,
    Golden,
    Manifest,
    MeasuredParity,
    Parity,
    Requirements,
    Target,
    TensorSpec,
    Variant,
)
from registry.contracts.device.deployments import Job, JobKind
from registry.contracts.fit.platforms import AscendFacts, Platform
from registry.contracts.tensors import Datatype
from registry.core.publish_checks import added_faults, job_faults

BLOB = FileRef(path="m", digest="sha256:" + "0" * 64, size=1)
X, Y = (TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, 3)) for name in "xy")
GOLDEN = Golden(file=BLOB.model_copy(update={"path": "golden"}), cases=4, reference="cpu")
CPU = Variant(name="cpu", format=Format.ONNX, target=Target.CPU, entry="m", files=(BLOB,), inputs=(X,), outputs=(Y,))
OTHER = CPU.model_copy(update={"name": "other"})
BEFORE = Manifest(model="m", version="1", variants=(CPU, OTHER), golden=GOLDEN)
BUILD = Build(parent=CPU.canonical_digest(), tool="atc", built_on="npu-1")
NEEDS = Requirements(soc_version="Ascend310P3", cann_version="8.0")
OM = CPU.model_copy(
    update={"name": "om", "format": Format.OM, "target": Target.ASCEND310, "requirements": NEEDS, "build": BUILD}
)
FACTS = Platform(os="linux", arch="aarch64", ascend=AscendFacts(soc="Ascend310P3"))


def with_(**changes: Any) -> Variant:
    return OM.model_copy(update=changes)


def parity(**changes: Any) -> MeasuredParity:
    sound = Parity(cases=4, max_abs=0.0, max_rel=0.0, top1_agreement=1.0, passed=True)
    return MeasuredParity(parity=sound.model_copy(update=changes), backend="ascend_acl/x", reference="cpu")


def job(**changes: Any) -> Job:
    made = Job(kind=JobKind.CONVERT, model="m", version="1", manifest="sha256:" + "1" * 64, to=Format.OM, source="cpu")
    return made.model_copy(update=changes)


def offered(variant: Variant, work: Job | None = None, newest: Manifest = BEFORE) -> str:
    return "; ".join(job_faults(work or job(), FACTS, variant, BEFORE, newest))


def test_a_conversion_claims_no_independence_that_its_publisher_did_not_declare() -> None:
    declared = Batching(independent=True, basis=Basis.PUBLISHER, max_size=8)
    assert any(
        "which the publisher did not declare of cpu" in why for why in added_faults(BEFORE, with_(batching=declared))
    )
    proven = Batching(independent=True)
    assert any("graphs of om are not read" in why for why in added_faults(BEFORE, with_(batching=proven)))
    assert tuple(added_faults(BEFORE, with_(batching=Batching()))) == ()
    source = CPU.model_copy(update={"batching": declared})
    before = BEFORE.model_copy(update={"variants": (source, OTHER)})
    made = with_(batching=declared, build=BUILD.model_copy(update={"parent": source.canonical_digest()}))
    assert tuple(added_faults(before, made)) == ()


def test_what_a_conversion_makes_can_be_added() -> None:
    assert tuple(added_faults(BEFORE, OM)) == ()
    assert tuple(added_faults(BEFORE, with_(parity=parity()))) == ()
    assert offered(OM) == ""


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        (with_(build=None), "made from"),
        (with_(build=BUILD.model_copy(update={"parent": "sha256:" + "2" * 64})), "made from"),
        (with_(inputs=(), outputs=()), "inputs or outputs"),
        (with_(outputs=()), "inputs or outputs"),
        (with_(requirements=Requirements()), "soc_version and cann_version"),
        (with_(target=Target.CPU), "does not run on the target cpu"),
        (with_(parity=parity(passed=False)), "does not answer"),
        (with_(parity=parity(cases=0)), "contradicts"),
        (with_(parity=parity(max_abs=float("nan"))), "contradicts"),
        (with_(parity=parity(top1_agreement=0.5)), "contradicts"),
        (with_(parity=parity(why="case 0 is off")), "contradicts"),
    ],
)
def test_a_variant_that_would_mislead_other_hosts_cannot_be_added(variant: Variant, why: str) -> None:
    assert why in "; ".join(added_faults(BEFORE, variant))


def test_a_parity_needs_golden_vectors() -> None:
    without = BEFORE.model_copy(update={"golden": None})
    assert "has none" in "; ".join(added_faults(without, with_(parity=parity())))


@pytest.mark.parametrize(
    ("work", "variant", "why"),
    [
        (job(source="other"), OM, "not made from other"),
        (job(options={"name": "mine"}), OM, "asked for the name mine"),
        (job(options={"target": "ascend910"}), OM, "asked for the target ascend910"),
        (job(), with_(requirements=NEEDS.model_copy(update={"soc_version": "Ascend910B4"})), "should be for"),
        (job(options={"soc_version": "Ascend310B4"}), OM, "should be for Ascend310B4"),
    ],
)
def test_a_device_adds_only_what_its_job_asked_for(work: Job, variant: Variant, why: str) -> None:
    assert why in offered(variant, work)


def test_a_job_makes_one_variant_and_may_offer_it_again() -> None:
    newest = BEFORE.model_copy(update={"variants": (*BEFORE.variants, OM)})
    assert offered(OM, newest=newest) == ""
    assert "made om already" in offered(with_(name="second"), newest=newest)
    assert offered(with_(name="second"), job(options={"name": "second"}), newest) == ""
