"""What the vendors say may run where, as predicates: OM and CANN, plans and TensorRT, disk."""

from __future__ import annotations

import pytest

from registry.contracts.catalogue.manifest import Format, Target, TensorSpec, Variant
from registry.contracts.codes import ResolutionCode as Code
from registry.contracts.fit.platforms import AscendFacts, BackendFacts, CannFacts, CudaFacts, Platform
from registry.contracts.fit.releases import cann_release, tensorrt_runs
from registry.contracts.fit.resolution import FitOutcome, VariantVerdict, judge
from registry.contracts.tensors import Datatype
from tests.unit.registry.contracts.test_resolution import ACL, BUILT, HOST, variant

TENSORRT = BackendFacts(
    name="tensorrt", usable=True, version="10.13.3.9", formats=(Format.TENSORRT_PLAN,), targets=(Target.GPU,)
)
GPU = HOST.model_copy(update={"backends": (TENSORRT,), "cuda": CudaFacts(gpus=1, compute_capability="8.6")})
NPU = HOST.model_copy(
    update={"backends": (ACL,), "ascend": AscendFacts(soc="Ascend310P3", chips=1), "cann": CannFacts(version="8.0.0")}
)
X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4))


def plan(**needs: object) -> Variant:
    return variant("v", Target.GPU, Format.TENSORRT_PLAN, **needs)


def om(*, dynamic: bool = False, **needs: object) -> Variant:
    return variant("v", Target.ASCEND310, Format.OM, **needs).model_copy(update={"inputs": (X,) if dynamic else ()})


def codes(verdict: VariantVerdict) -> list[Code]:
    return [reason.code for reason in verdict.reasons]


def with_cann(version: str) -> Platform:
    acl = ACL.model_copy(update={"version": version})
    return NPU.model_copy(update={"backends": (acl,), "cann": CannFacts(version=version)})


@pytest.mark.parametrize(
    ("built", "host", "compatible", "runs"),
    [
        ("10.13.3.9", "10.13.3.9", False, True),
        ("10.13.3.9", "10.13.3.8", False, False),
        ("10.13.3", "10.13.3.9", False, None),
        ("10.13.3", "10.13.3", False, True),
        ("10.12.0.1", "10.13.3.9", True, True),
        ("10.13.3.9", "10.12.0.1", True, False),
        ("10.13.3.9", "11.4.0.106", True, True),
        ("8.6.1.6", "10.13.3.9", True, True),
        ("8.6.1.6", "11.4.0.106", True, False),
        ("8.6.1.6", "9.0.0.1", True, False),
        ("11.4.0.106", "10.13.3.9", True, False),
        ("10.13.3.9", "", True, None),
        ("nightly", "10.13.3.9", False, None),
    ],
)
def test_a_plan_runs_on_the_tensorrt_that_built_it_or_on_a_documented_later_one(
    built: str, host: str, compatible: bool, runs: bool | None
) -> None:
    assert tensorrt_runs(built, host, compatible=compatible) is runs


@pytest.mark.parametrize(
    ("needs", "code"),
    [
        ({"tensorrt_version": "10.13.3.9", "compute_capability": "8.6"}, None),
        ({"tensorrt_version": "10.12.0.1"}, Code.TRT_VERSION),
        ({"tensorrt_version": "10.12.0.1", "tensorrt_version_compatible": True}, None),
        ({"compute_capability": "7.5"}, Code.SM_MISMATCH),
        ({"compute_capability": "7.5", "hardware_compat": "same_compute_capability"}, Code.SM_MISMATCH),
        ({"compute_capability": "8.0", "hardware_compat": "ampere_plus"}, None),
        ({"os": "windows"}, Code.OS_MISMATCH),
    ],
)
def test_a_plan_wants_its_gpu_and_its_tensorrt(needs: dict[str, object], code: Code | None) -> None:
    verdict = judge(plan(**needs), GPU)
    assert codes(verdict) == ([code] if code else [])
    assert all(reason.remedy for reason in verdict.reasons)


def test_a_plan_for_ampere_and_newer_does_not_run_on_an_older_gpu() -> None:
    turing = GPU.model_copy(update={"cuda": CudaFacts(gpus=1, compute_capability="7.5")})
    asked = plan(compute_capability="8.6", hardware_compat="ampere_plus")
    assert codes(judge(asked, turing)) == [Code.SM_MISMATCH]


@pytest.mark.parametrize("form", [plan(), om()])
def test_what_does_not_say_what_it_was_built_for_is_not_taken_for_fitting(form: Variant) -> None:
    host = GPU.model_copy(update={"backends": (*GPU.backends, *NPU.backends), "ascend": NPU.ascend, "cann": NPU.cann})
    assert judge(form, host).outcome is FitOutcome.PASS
    for name in BUILT[form.format]:
        verdict = judge(
            form.model_copy(update={"requirements": form.requirements.model_copy(update={name: None})}), host
        )
        assert (verdict.outcome, codes(verdict)) == (FitOutcome.UNKNOWN, [Code.FACT_UNKNOWN])
        assert name in verdict.reasons[0].need


@pytest.mark.parametrize("cuda", [None, CudaFacts(gpus=2)])
def test_a_gpu_that_is_not_known_is_not_taken_for_fitting(cuda: CudaFacts | None) -> None:
    verdict = judge(plan(compute_capability="8.6"), GPU.model_copy(update={"cuda": cuda}))
    assert verdict.outcome is FitOutcome.UNKNOWN


@pytest.mark.parametrize(
    ("built", "host", "code"),
    [
        ("8.0.RC1", "8.0.0", None),
        ("8.0.0", "8.0.RC3", Code.CANN_TOO_OLD),
        ("8.2.RC1", "8.0.0", Code.CANN_TOO_OLD),
        ("7.0.0", "8.3.0", None),
        ("7.0.0", "8.5.0", Code.CANN_TOO_NEW),
        ("6.0.0", "6.3.0", None),
    ],
)
def test_an_om_runs_on_its_cann_and_four_periods_later(built: str, host: str, code: Code | None) -> None:
    assert codes(judge(om(cann_version=built), with_cann(host))) == ([code] if code else [])


def test_an_om_with_dynamic_shapes_of_before_6_0_1_does_not_run_later() -> None:
    assert codes(judge(om(cann_version="6.0.0", dynamic=True), with_cann("6.3.0"))) == [Code.CANN_TOO_NEW]
    assert judge(om(cann_version="6.0.1", dynamic=True), with_cann("6.3.0")).outcome is FitOutcome.PASS


def test_a_cann_that_is_newer_than_this_program_is_a_warning() -> None:
    verdict = judge(om(cann_version="9.1.0"), with_cann("12.0.0"))
    assert verdict.outcome is FitOutcome.PASS
    assert [reason.code for reason in verdict.warnings] == [Code.CANN_TOO_NEW]


def test_the_operator_library_matters_to_dynamic_shapes_and_decides_on_a_virtual_npu() -> None:
    host = NPU.model_copy(update={"cann": CannFacts(version="8.0.0", opp="8.0.0")})
    assert judge(om(opp_version="7.0.0"), host).warnings == ()
    dynamic = judge(om(opp_version="7.0.0", dynamic=True), host)
    assert dynamic.outcome is FitOutcome.PASS
    assert [reason.code for reason in dynamic.warnings] == [Code.OPP_MISMATCH]
    virtual = host.model_copy(update={"ascend": AscendFacts(soc="Ascend310P3", chips=1, virtual=True)})
    assert codes(judge(om(opp_version="7.0.0"), virtual)) == [Code.OPP_MISMATCH]
    assert judge(om(opp_version="8.0.0"), virtual).outcome is FitOutcome.PASS
    silent = virtual.model_copy(update={"cann": None})
    assert judge(om(opp_version="7.0.0"), silent).outcome is FitOutcome.UNKNOWN


def test_without_a_backend_the_chip_is_still_compared() -> None:
    lame = NPU.model_copy(update={"backends": (ACL.model_copy(update={"usable": False, "providers": ()}),)})
    asked = judge(om(soc_version="Ascend310B4", cann_version="8.2.RC1"), lame)
    assert codes(asked) == [Code.RT_MISSING, Code.SOC_MISMATCH, Code.CANN_TOO_OLD]


@pytest.mark.parametrize("target", [Target.GPU, Target.ASCEND910])
def test_an_accelerator_that_is_certainly_not_there_is_told_so(target: Target) -> None:
    bare = HOST.model_copy(update={"backends": (), "cuda": CudaFacts(), "ascend": AscendFacts()})
    assert codes(judge(variant("v", target), bare)) == [Code.DEVICE_MISSING]
    assert codes(judge(variant("v", target), HOST.model_copy(update={"backends": ()}))) == [Code.RT_MISSING]


@pytest.mark.parametrize(
    ("disk", "needs", "code"),
    [
        (None, {}, None),
        (1 << 30, {}, None),
        (0, {}, Code.DISK_INSUFFICIENT),
        (5, {"disk_bytes": 6}, Code.DISK_INSUFFICIENT),
        (None, {"disk_bytes": 6}, Code.FACT_UNKNOWN),
    ],
)
def test_a_disk_that_is_too_small_is_told(disk: int | None, needs: dict[str, int], code: Code | None) -> None:
    host = HOST.model_copy(update={"disk_bytes": disk})
    assert codes(judge(variant("v", **needs), host)) == ([code] if code else [])


def test_versions_of_cann_sort_as_they_were_released() -> None:
    order = ["7.0.0", "8.0.RC1", "8.0.RC2", "8.0.0", "8.0.1", "8.2RC1", "8.2", "8.5.0"]
    releases = [cann_release(text) for text in order]
    assert None not in releases
    assert releases == sorted(releases)  # type: ignore[type-var]
    assert cann_release("pyACL 1.12.0") is None
