"""What ran yesterday is checked against what the host is today."""

from __future__ import annotations

import pytest

from agent.core.fitness import points_at_host, unfit
from agent.core.slots import Choice
from registry.contracts.catalogue.manifest import FileRef, Format, Requirements, Target, Variant
from registry.contracts.codes import DeploymentCode as Code
from registry.contracts.device.messages import Profile
from registry.contracts.fit.platforms import BackendFacts, Platform

DIGEST = "sha256:" + "0" * 64
OM = Variant(
    name="om", format=Format.OM, target=Target.ASCEND310, entry="m.om",
    files=(FileRef(path="m.om", digest=DIGEST, size=1),),
    requirements=Requirements(soc_version="Ascend310P3", cann_version="8.0.0"),
)  # fmt: skip
CHOICE = Choice(
    model="m", version="1", manifest=DIGEST, variant=OM, variant_digest=DIGEST, backend="ascend_acl",
    profile=Profile.THROUGHPUT,
)  # fmt: skip
ACL = BackendFacts(
    name="ascend_acl", usable=True, version="8.0.0", formats=(Format.OM,), targets=(Target.ASCEND310,),
    providers=("Ascend310P3",),
)  # fmt: skip


def host(**changes: object) -> Platform:
    return Platform(os="linux", arch="aarch64", backends=(ACL.model_copy(update=changes),))


def test_on_the_host_that_it_was_chosen_for_it_is_loaded() -> None:
    assert unfit(CHOICE, host()) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "7.0.0"}, "cann_too_old"),
        ({"version": "9.1.0"}, "cann_too_new"),
        ({"providers": ("Ascend310B4",)}, "soc_mismatch"),
        ({"usable": False, "reason": "no driver"}, "no driver"),
        ({"version": "?"}, "fact_unknown"),
    ],
)
def test_a_host_that_changed_is_told_apart(changes: dict[str, object], said: str) -> None:
    assert said in unfit(CHOICE, host(**changes))


def test_a_backend_that_went_is_not_replaced_in_silence_by_another() -> None:
    other = ACL.model_copy(update={"name": "ascend_other"})
    both = host(usable=False, reason="no driver").model_copy(
        update={"backends": (ACL.model_copy(update={"usable": False, "reason": "no driver"}), other)}
    )
    assert "ascend_acl does not work any more: no driver" in unfit(CHOICE, both)
    alone = both.model_copy(update={"backends": (other,)})
    assert "none of that name" in unfit(CHOICE, alone)


@pytest.mark.parametrize(
    ("code", "target", "points"),
    [
        (Code.BACKEND_UNAVAILABLE, Target.CPU, True),
        (Code.LOAD_FAILED, Target.CPU, False),
        (Code.LOAD_FAILED, Target.GPU, True),
        (Code.WORKER_CRASHED, Target.ASCEND310, True),
        (Code.SIGNATURE_MISMATCH, Target.GPU, False),
    ],
)
def test_a_load_that_failed_may_say_that_the_host_changed(code: Code, target: Target, points: bool) -> None:
    assert points_at_host(code, target) is points
