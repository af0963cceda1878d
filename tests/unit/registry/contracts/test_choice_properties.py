"""What holds for every choice, whatever the variants and the host."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.catalogue.manifest import FileRef, Format, Requirements, Target, Variant
from registry.contracts.fit.platforms import AscendFacts, BackendFacts, CannFacts, CudaFacts, Platform
from registry.contracts.fit.resolution import FitOutcome, resolve
from tests.unit.registry.contracts.test_resolution import HOST, manifest, variant

FORMATS = (Format.ONNX, Format.OM, Format.TENSORRT_PLAN, Format.MINDIR, Format.AIR)
VERSIONS = ("7.0.0", "8.0.RC1", "8.2.0", "10.13.3.9", "")


def _maybe(*values: object) -> st.SearchStrategy[object]:
    return st.sampled_from((None, *values))


@st.composite
def variants(draw: st.DrawFn) -> list[Variant]:
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True))
    return [draw(_variant(name)) for name in names]


@st.composite
def _variant(draw: st.DrawFn, name: str) -> Variant:
    needs = Requirements.model_validate(
        {
            "arch": draw(st.sampled_from([(), ("x86_64",), ("aarch64",)])),
            "onnx_opsets": draw(st.sampled_from([{}, {"": 17}, {"": 30}])),
            "memory_bytes": draw(_maybe(1, 1 << 40)),
            "soc_version": draw(_maybe("Ascend310P3", "Ascend910B4")),
            "cann_version": draw(_maybe("7.0.0", "8.0.RC1", "8.2.0")),
            "tensorrt_version": draw(_maybe("10.13.3.9", "8.6.1.6")),
            "compute_capability": draw(_maybe("8.6", "7.5")),
        }
    )
    file = FileRef(path="m", digest="sha256:" + f"{ord(name):064x}", size=1)
    return Variant(
        name=name, format=draw(st.sampled_from(FORMATS)), target=draw(st.sampled_from(list(Target))),
        entry="m", files=(file,), requirements=needs,
    )  # fmt: skip


@st.composite
def hosts(draw: st.DrawFn) -> Platform:
    def backend(name: str, formats: tuple[Format, ...]) -> BackendFacts:
        return BackendFacts(
            name=name, usable=draw(st.booleans()), version=draw(st.sampled_from(VERSIONS)), formats=formats,
            targets=tuple(draw(st.lists(st.sampled_from(list(Target)), unique=True))),
            providers=draw(st.sampled_from([(), ("Ascend310P3",)])),
            max_onnx_ir=10, max_onnx_opset=draw(st.sampled_from([None, 21])),
        )  # fmt: skip

    return HOST.model_copy(
        update={
            "backends": tuple(backend(f"b{index}", (kind,)) for index, kind in enumerate(FORMATS)),
            "ascend": draw(st.sampled_from([None, AscendFacts(), AscendFacts(chips=1, soc="Ascend310P3")])),
            "cann": draw(st.sampled_from([None, CannFacts(version="8.0.RC1")])),
            "cuda": draw(st.sampled_from([None, CudaFacts(), CudaFacts(gpus=1, compute_capability="8.6")])),
        }
    )


@given(variants(), hosts(), st.randoms(use_true_random=False))
def test_the_order_of_the_variants_does_not_matter(forms: list[Variant], host: Platform, dice: object) -> None:
    shuffled = list(forms)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert resolve(manifest(*forms), host) == resolve(manifest(*shuffled), host)


@given(variants(), hosts())
def test_a_variant_that_does_not_fit_changes_nothing(forms: list[Variant], host: Platform) -> None:
    before = resolve(manifest(*forms), host)
    alien = variant("zzz", Target.ASCEND910, Format.OM, os="windows")
    after = resolve(manifest(*forms, alien), host)
    assert (after.chosen, after.degraded, after.tie) == (before.chosen, before.degraded, before.tie)


@given(variants(), hosts())
def test_only_what_passed_every_predicate_is_chosen(forms: list[Variant], host: Platform) -> None:
    found = resolve(manifest(*forms), host)
    passed = [verdict.variant for verdict in found.verdicts if verdict.outcome is FitOutcome.PASS]
    assert found.chosen == (passed[0] if passed else None)
    for verdict in found.verdicts:
        assert bool(verdict.reasons) == (verdict.outcome is not FitOutcome.PASS)
        assert all(reason.outcome is not FitOutcome.PASS for reason in verdict.reasons)
        if any(reason.outcome is FitOutcome.UNKNOWN for reason in verdict.reasons):
            assert verdict.variant != found.chosen


@given(variants(), hosts())
def test_hosts_of_one_class_get_the_same_choice(forms: list[Variant], host: Platform) -> None:
    busy = host.model_copy(update={"disk_free_bytes": 1, "memory_free_bytes": 1})
    assert busy.facts_digest() == host.facts_digest()
    assert resolve(manifest(*forms), busy) == resolve(manifest(*forms), host)


@given(variants(), hosts())
def test_a_pin_never_brings_another_variant(forms: list[Variant], host: Platform) -> None:
    for form in forms:
        found = resolve(manifest(*forms), host, pin=form.name)
        assert found.chosen in (None, form.name)
        assert found.nearest in (None, form.name)
