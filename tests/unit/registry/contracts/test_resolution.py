"""Which variant a host gets is a matter of facts, the same every time, and explained."""

from __future__ import annotations

import pytest

from registry.contracts.catalogue.manifest import Build, FileRef, Format, Manifest, Requirements, Target, Variant
from registry.contracts.codes import ResolutionCode as Code
from registry.contracts.enums import OLDER_READER
from registry.contracts.fit.platforms import AscendFacts, BackendFacts, CudaFacts, Evidence, Platform
from registry.contracts.fit.resolution import FitOutcome, resolve, ties

BLOB = FileRef(path="m", digest="sha256:" + "0" * 64, size=1)
ORT = BackendFacts(
    name="onnxruntime", usable=True, version="1.32.0", formats=(Format.ONNX,), targets=(Target.CPU,),
    max_onnx_ir=10, max_onnx_opset=21,
)  # fmt: skip
BUILT = {
    Format.OM: {"soc_version": "Ascend310P3", "cann_version": "8.0.0"},
    Format.TENSORRT_PLAN: {"tensorrt_version": "10.13.3.9", "compute_capability": "8.6"},
}
"""What a compiled variant says, where the test says nothing else."""
HOST = Platform(os="linux", arch="x86_64", memory_bytes=1 << 30, backends=(ORT,))


def variant(name: str, target: Target = Target.CPU, format: Format = Format.ONNX, **needs: object) -> Variant:  # noqa: A002
    requirements = Requirements.model_validate({**BUILT.get(format, {}), **needs})
    return Variant(name=name, format=format, target=target, entry="m", files=(BLOB,), requirements=requirements)


def manifest(*variants: Variant) -> Manifest:
    return Manifest(model="m", version="1", variants=variants)


def test_the_fitting_variant_is_chosen_whatever_the_order_in_the_manifest() -> None:
    fits, gpu = variant("cpu"), variant("gpu", Target.GPU)
    assert resolve(manifest(fits, gpu), HOST).chosen == resolve(manifest(gpu, fits), HOST).chosen == "cpu"


def test_an_accelerator_is_preferred_where_it_works() -> None:
    cuda = ORT.model_copy(update={"targets": (Target.CPU, Target.GPU)})
    result = resolve(manifest(variant("a"), variant("b", Target.GPU)), HOST.model_copy(update={"backends": (cuda,)}))
    assert result.chosen == "b"
    assert not result.degraded


def test_a_cpu_runs_onnx_rather_than_mindir_and_an_accelerator_the_other_way_round() -> None:
    both = BackendFacts(
        name="both", usable=True, formats=(Format.ONNX, Format.MINDIR), targets=(Target.CPU, Target.GPU),
        max_onnx_ir=10, max_onnx_opset=21,
    )  # fmt: skip
    host = HOST.model_copy(update={"backends": (both,)})
    for target, best in ((Target.CPU, "onnx"), (Target.GPU, "mindir")):
        forms = manifest(variant("mindir", target, Format.MINDIR), variant("onnx", target))
        assert resolve(forms, host).chosen == best


def test_a_variant_that_this_program_does_not_know_is_passed_over_and_the_others_are_chosen_from() -> None:
    forms = manifest(
        variant("mindir", format=Format.MINDIR), variant("onnx"), variant("om", Target.ASCEND310)
    ).to_json()
    forms["variants"][0]["format"] = "weights-of-2031"
    forms["variants"][2]["target"] = "qpu"
    result = resolve(Manifest.model_validate(forms, context=dict(OLDER_READER)), HOST)
    assert (result.chosen, result.nearest, result.tie) == ("onnx", None, ())
    for name, need in (("mindir", "weights-of-2031"), ("om", "qpu")):
        verdict = result.verdict(name)
        assert verdict is not None
        assert [(reason.code, reason.need) for reason in verdict.reasons] == [(Code.FORMAT_UNKNOWN, need)]
    alone = Manifest.model_validate({**forms, "variants": forms["variants"][:1]}, context=dict(OLDER_READER))
    assert (resolve(alone, HOST).chosen, resolve(alone, HOST).nearest) == (None, "mindir")


def test_a_host_whose_accelerator_lies_idle_is_degraded() -> None:
    cuda = ORT.model_copy(update={"targets": (Target.CPU, Target.GPU)})
    assert resolve(manifest(variant("a")), HOST.model_copy(update={"backends": (cuda,)})).degraded


@pytest.mark.parametrize(
    ("needs", "code"),
    [
        ({"os": "windows"}, Code.OS_MISMATCH),
        ({"arch": ("aarch64",)}, Code.ARCH_MISMATCH),
        ({"onnx_ir": 11}, Code.IR_TOO_NEW),
        ({"onnx_opsets": {"": 22}}, Code.OPSET_TOO_NEW),
        ({"onnx_opsets": {"com.example": 1}}, Code.OP_DOMAIN_MISSING),
        ({"memory_bytes": 2 << 30}, Code.MEM_INSUFFICIENT),
    ],
)
def test_a_variant_that_does_not_fit_is_rejected_with_its_reason(needs: dict[str, object], code: Code) -> None:
    result = resolve(manifest(variant("v", **needs)), HOST)
    assert result.chosen is None
    assert [reason.code for reason in result.verdicts[0].reasons] == [code]
    assert code in result.explain()


def test_every_reason_is_listed_not_only_the_first() -> None:
    verdict = resolve(manifest(variant("v", os="windows", onnx_ir=99)), HOST).verdicts[0]
    assert {reason.code for reason in verdict.reasons} == {Code.OS_MISMATCH, Code.IR_TOO_NEW}


def test_an_unknown_fact_is_not_a_fit() -> None:
    blind = HOST.model_copy(update={"backends": (ORT.model_copy(update={"max_onnx_opset": None}),)})
    verdict = resolve(manifest(variant("v", onnx_opsets={"": 17})), blind).verdicts[0]
    assert verdict.outcome is FitOutcome.UNKNOWN
    assert resolve(manifest(variant("v", onnx_opsets={"": 17})), blind).chosen is None


def test_a_missing_backend_says_what_to_install() -> None:
    lame = HOST.model_copy(
        update={"backends": (ORT.model_copy(update={"usable": False, "reason": "pip install onnxruntime"}),)}
    )
    result = resolve(manifest(variant("v")), lame)
    assert result.verdicts[0].reasons[0].code is Code.RT_MISSING
    assert "pip install onnxruntime" in result.explain()


def test_a_source_only_format_never_runs() -> None:
    result = resolve(manifest(variant("v", Target.ASCEND310, Format.AIR)), HOST)
    assert result.verdicts[0].reasons[0].code is Code.SOURCE_ONLY


def test_a_pin_allows_only_that_variant() -> None:
    assert resolve(manifest(variant("a"), variant("b")), HOST, pin="b").chosen == "b"
    assert resolve(manifest(variant("a")), HOST, pin="z").chosen is None


def test_a_pin_that_keeps_out_what_would_fit_is_a_conflict() -> None:
    fits, not_here = variant("a"), variant("b", Target.GPU)
    assert resolve(manifest(fits, not_here), HOST, pin="b").conflict is Code.PIN_EXCLUDES_ALL
    assert "pin_excludes_all" in resolve(manifest(fits, not_here), HOST, pin="b").explain()
    assert resolve(manifest(not_here), HOST, pin="b").conflict is None
    assert resolve(manifest(fits, not_here), HOST, pin="a").conflict is None


def test_hosts_with_the_same_facts_are_one_class() -> None:
    busy = HOST.model_copy(update={"disk_free_bytes": 5, "memory_free_bytes": 7})
    assert busy.facts_digest() == HOST.facts_digest()
    assert HOST.model_copy(update={"arch": "aarch64"}).facts_digest() != HOST.facts_digest()


MINDSPORE = BackendFacts(
    name="mindspore", usable=True, version="2.10.0", formats=(Format.MINDIR,),
    targets=tuple(Target),
)  # fmt: skip


@pytest.mark.parametrize(
    ("wrote", "reads", "outcome"),
    [
        ("2.10.0", "2.10.0", FitOutcome.PASS),
        ("2.9.1", "2.10.0", FitOutcome.PASS),
        ("2.10", "2.10.0", FitOutcome.PASS),
        ("2.10.1", "2.10.0", FitOutcome.FAIL),
        ("2.10.0", "2.9.5", FitOutcome.FAIL),
        ("2.10.0", "", FitOutcome.UNKNOWN),
        ("nightly", "2.10.0", FitOutcome.UNKNOWN),
        (None, "", FitOutcome.PASS),
    ],
)
def test_a_mindir_is_read_by_the_mindspore_that_wrote_it_and_by_later_ones(
    wrote: str | None, reads: str, outcome: FitOutcome
) -> None:
    host = HOST.model_copy(update={"backends": (MINDSPORE.model_copy(update={"version": reads}),)})
    verdict = resolve(manifest(variant("v", format=Format.MINDIR, mindspore_version=wrote)), host).verdicts[0]
    assert verdict.outcome is outcome
    if outcome is FitOutcome.FAIL:
        assert verdict.reasons[0].code is Code.RT_TOO_OLD


ACL = BackendFacts(
    name="ascend_acl", usable=True, version="8.0.0", formats=(Format.OM,), targets=(Target.ASCEND310,),
    providers=("Ascend310P3",),
)  # fmt: skip


@pytest.mark.parametrize(
    ("needs", "host", "outcome", "code"),
    [
        ({"soc_version": "Ascend310P3", "cann_version": "8.0.0"}, {}, FitOutcome.PASS, None),
        ({"cann_version": "8.0.RC3"}, {}, FitOutcome.PASS, None),
        ({"cann_version": "7.0.1"}, {}, FitOutcome.PASS, None),
        ({"cann_version": "8.0.0"}, {"version": "8.0.RC3"}, FitOutcome.FAIL, Code.CANN_TOO_OLD),
        ({"cann_version": "8.2.RC1"}, {}, FitOutcome.FAIL, Code.CANN_TOO_OLD),
        ({"cann_version": "8.0.0"}, {"version": "pyACL 1.12.0"}, FitOutcome.UNKNOWN, Code.FACT_UNKNOWN),
        ({"soc_version": "Ascend310P1"}, {}, FitOutcome.FAIL, Code.SOC_MISMATCH),
        ({"soc_version": "Ascend310P3"}, {"providers": ()}, FitOutcome.UNKNOWN, Code.FACT_UNKNOWN),
    ],
)
def test_an_om_wants_its_chip_and_no_older_cann(
    needs: dict[str, str], host: dict[str, object], outcome: FitOutcome, code: Code | None
) -> None:
    platform = HOST.model_copy(update={"backends": (ACL.model_copy(update=host),)})
    verdict = resolve(manifest(variant("v", Target.ASCEND310, Format.OM, **needs)), platform).verdicts[0]
    assert verdict.outcome is outcome
    assert [reason.code for reason in verdict.reasons] == ([code] if code else [])


def other(name: str, number: int, **needs: object) -> Variant:
    """With a file of its own."""
    file = BLOB.model_copy(update={"digest": "sha256:" + f"{number:064x}"})
    return variant(name, **needs).model_copy(update={"files": (file,)})


def test_the_more_specific_variant_is_chosen() -> None:
    forms = [other("a", 1), other("b", 2, onnx_opsets={"": 17}), other("c", 3, arch=("x86_64",))]
    assert resolve(manifest(*forms), HOST).chosen == "c"
    assert resolve(manifest(*forms[:2]), HOST).chosen == "b"


def test_of_variants_that_rank_the_same_the_faster_one_is_chosen_and_without_a_measurement_it_is_a_tie() -> None:
    slow, fast = other("a", 1), other("b", 2)
    alike = resolve(manifest(slow, fast), HOST)
    assert (alike.chosen, alike.tie) == ("a", ("b",))
    speeds = {slow.canonical_digest(): 900.0, fast.canonical_digest(): 90.0}
    measured = resolve(manifest(slow, fast), HOST, speeds=speeds)
    assert (measured.chosen, measured.tie) == ("b", ())
    assert ties(manifest(slow, fast)) == [("a", "b")]


def test_what_was_published_goes_before_what_was_converted_from_it_whatever_its_name_unless_that_is_faster() -> None:
    original = other("z-original", 1)
    build = Build(parent=original.canonical_digest(), tool="onnxruntime-quantize")
    int8 = other("a-fast", 2).model_copy(update={"build": build})
    alike = resolve(manifest(int8, original), HOST)
    assert (alike.chosen, alike.tie) == ("z-original", ("a-fast",))
    speeds = {original.canonical_digest(): 900.0, int8.canonical_digest(): 90.0}
    assert resolve(manifest(int8, original), HOST, speeds=speeds).chosen == "a-fast"
    only_int8 = {int8.canonical_digest(): 90.0}
    assert resolve(manifest(int8, original), HOST, speeds=only_int8).chosen == "z-original"
    assert resolve(manifest(int8, original), HOST, pin="a-fast").chosen == "a-fast"


def test_the_same_file_twice_is_no_tie() -> None:
    assert resolve(manifest(variant("a"), variant("b")), HOST).tie == ()
    assert ties(manifest(variant("a"), variant("b"))) == []


def test_variants_for_two_chips_are_no_tie() -> None:
    forms = [other(soc.lower(), number, soc_version=soc) for number, soc in enumerate(("Ascend310P3", "Ascend310B4"))]
    assert ties(manifest(*forms)) == []


def test_the_nearest_miss_says_what_would_have_to_change() -> None:
    acl = BackendFacts(
        name="ascend_acl", usable=True, version="7.0.0", formats=(Format.OM,), targets=(Target.ASCEND310,),
        providers=("Ascend310B4",),
    )  # fmt: skip
    host = HOST.model_copy(update={"backends": (ORT, acl)})
    forms = manifest(
        variant("om-310p3", Target.ASCEND310, Format.OM, soc_version="Ascend310P3"),
        variant("om-310b4", Target.ASCEND310, Format.OM, soc_version="Ascend310B4", cann_version="8.2"),
        variant("onnx"),
    )
    found = resolve(forms, host)
    assert (found.chosen, found.degraded, found.nearest) == ("onnx", True, "om-310b4")
    verdict = found.verdict("om-310b4")
    assert verdict is not None
    assert verdict.reasons[0].remedy.startswith("upgrade CANN to >= 8.2")


def test_other_hardware_is_no_miss_beside_something_that_fits() -> None:
    host = HOST.model_copy(update={"cuda": CudaFacts()})
    assert resolve(manifest(variant("cpu"), variant("gpu", Target.GPU)), host).nearest is None
    assert resolve(manifest(variant("gpu", Target.GPU)), host).nearest == "gpu"


def test_a_chip_that_no_backend_uses_lies_idle_too() -> None:
    host = HOST.model_copy(update={"ascend": AscendFacts(soc="Ascend310P3", chips=1)})
    assert resolve(manifest(variant("cpu")), host).degraded


def test_where_facts_came_from_and_health_do_not_make_another_class() -> None:
    npu = HOST.model_copy(update={"ascend": AscendFacts(soc="Ascend310P3", chips=1)})
    told = npu.model_copy(
        update={
            "evidence": {"ascend": Evidence(source="npu-smi info")},
            "ascend": AscendFacts(soc="Ascend310P3", chips=1, health="Alarm"),
        }
    )
    assert told.facts_digest() == npu.facts_digest()
    assert npu.facts_digest() != HOST.facts_digest()
    newer = AscendFacts(soc="Ascend310P3", chips=1, driver="24.1")
    assert npu.model_copy(update={"ascend": newer}).facts_digest() != npu.facts_digest()
