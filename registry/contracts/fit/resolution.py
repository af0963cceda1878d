"""Which variant fits a host, and why the others do not. Pure: registry, CLI and agent call this same function.

Each predicate (`fitting`) gives pass, fail or unknown; unknown is not eligible. The ranking is deterministic: the
best target, the format closest to the hardware, the most specific requirements, the speed measured on hosts with the
same facts, what was published before what was converted, then the variant's name. Where only the last two decide, that
is a tie, and it is told. So an INT8 form is taken by itself only where both it and the original were measured and it
was faster. Hosts with the same `Platform.facts_digest` have the same answer, so it is computed once a class of hosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from registry.contracts.catalogue.manifest import Format, Manifest, Requirements, Target, Variant
from registry.contracts.codes import ResolutionCode as Code
from registry.contracts.fit.fitting import (
    BUILT_IN_DOMAINS,
    SOURCE_ONLY,
    FitOutcome,
    Reason,
    host_reasons,
    runtime_reasons,
)
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.wire import Digest, Name, Wire

__all__ = [
    "BUILT_IN_DOMAINS",
    "SOURCE_ONLY",
    "FitOutcome",
    "Reason",
    "Resolution",
    "VariantVerdict",
    "judge",
    "resolve",
    "ties",
]

FORMAT_ORDER = (
    Format.OM,
    Format.TENSORRT_PLAN,
    Format.MINDIR,
    Format.ONNX,
    Format.MINDSPORE_CKPT,
    Format.AIR,
)
CPU_FORMAT_ORDER = (Format.ONNX, Format.MINDIR, Format.MINDSPORE_CKPT, Format.OM, Format.TENSORRT_PLAN, Format.AIR)
"""On a CPU, ONNX Runtime answers LeNet 5 times faster than MindSpore, in a seventh of its memory: docs/backends.md."""
TARGET_ORDER = (Target.ASCEND910, Target.ASCEND310, Target.GPU, Target.CPU)
HARDWARE = frozenset(
    {
        *(Code.OS_MISMATCH, Code.ARCH_MISMATCH, Code.DEVICE_MISSING, Code.SOC_MISMATCH, Code.SM_MISMATCH),
        *(Code.MEM_INSUFFICIENT, Code.DISK_INSUFFICIENT, Code.SOURCE_ONLY),
    }
)
"""What installing something on the host does not change: such a variant is further away than another. So is one for
which nothing can be advised."""


class VariantVerdict(Wire):
    """One variant on one host."""

    variant: Name
    """Its name."""
    outcome: FitOutcome
    """The worst of its predicates."""
    backend: str = ""
    """The backend that would run it."""
    reasons: tuple[Reason, ...] = ()
    """Why it does not fit. Empty: it fits."""
    warnings: tuple[Reason, ...] = ()
    """What may surprise although it fits."""


class Resolution(Wire):
    """The choice and its trace, best variant first."""

    chosen: Name | None
    """The best variant that fits. None: none does."""
    verdicts: tuple[VariantVerdict, ...]
    """Of each variant."""
    degraded: bool = False
    """An accelerator lies idle: the chosen variant runs on the CPU of a host that has one."""
    tie: tuple[Name, ...] = ()
    """These fit as well as the chosen one, which went first because it was published and they were converted, or only
    by its name; empty: none does."""
    nearest: Name | None = None
    """The rejected variant, better than the chosen one, for which the least would have to change. Beside a chosen one
    only what no other hardware is needed for."""
    conflict: Code | None = None
    """`pin_excludes_all`: others fit, but not the one that had to be it."""

    def explain(self) -> str:
        """One line per rejected variant; for errors and logs."""
        lines = [
            f"{verdict.variant}: " + "; ".join(f"{r.code}: needs {r.need}, host has {r.have}" for r in verdict.reasons)
            for verdict in self.verdicts
            if verdict.outcome is not FitOutcome.PASS
        ]
        if self.conflict is not None:
            lines.append(f"{self.conflict}: other variants would fit, but only this one may be chosen")
        return "\n".join(lines)

    def verdict(self, variant: str) -> VariantVerdict | None:
        """The verdict on the variant of that name, or None."""
        return next((verdict for verdict in self.verdicts if verdict.variant == variant), None)


def resolve(
    manifest: Manifest, platform: Platform, pin: str | None = None, speeds: Mapping[Digest, float] | None = None
) -> Resolution:
    """Choose the variant of `manifest` for a host.

    Args:
        manifest: The version.
        platform: The host's facts.
        pin: Only the variant of this name may be chosen.
        speeds: Microseconds of one run by the variant's digest, measured on hosts with these facts. It decides only
            between variants of the same target, format and specificity.
    """
    verdicts = {
        variant.name: judge(variant, platform, pictures=manifest.image is not None) for variant in manifest.variants
    }
    fit = [variant for variant in manifest.variants if verdicts[variant.name].outcome is FitOutcome.PASS]
    measured = _comparable(fit, speeds or {})
    ranked = sorted(manifest.variants, key=lambda v: (*_rank(v, measured), v.build is not None, v.name))
    judged = [verdicts[variant.name] for variant in ranked]
    fitting = [v for v, verdict in zip(ranked, judged, strict=True) if verdict.outcome is FitOutcome.PASS]
    best = next((variant for variant in fitting if pin in (None, variant.name)), None)
    alike = () if best is None or pin else _alike(best, fitting, measured)
    return Resolution(
        chosen=best.name if best else None,
        verdicts=tuple(verdict for verdict in judged if pin in (None, verdict.variant)),
        degraded=best is not None and best.target is Target.CPU and platform.has_accelerator,
        tie=alike,
        nearest=_nearest([v for v in judged if pin in (None, v.variant)], best.name if best else None),
        conflict=Code.PIN_EXCLUDES_ALL if pin and best is None and fitting else None,
    )


def judge(variant: Variant, platform: Platform, *, pictures: bool = False) -> VariantVerdict:
    """All predicates of one variant; every reason that did not pass is listed, not only the first.

    `pictures`: requests may be pictures, which are small whatever they become. Of several backends that load it, the
    first on which it fits would run it.
    """
    able = [
        b for b in platform.backends if b.usable and variant.format in b.formats and variant.target in b.targets
    ]  # fmt: skip
    backends: list[BackendFacts | None] = [*able] or [None]
    verdicts = [_judge(variant, platform, backend, pictures=pictures) for backend in backends]
    return next((verdict for verdict in verdicts if verdict.outcome is FitOutcome.PASS), verdicts[0])


def ties(manifest: Manifest) -> list[tuple[Name, ...]]:
    """Groups of variants that some host may run alike, so that only a measured speed, or else the name, decides.

    Those that ask for different things of the same kind (two chips, two GPUs) meet no host together.
    """
    groups: dict[tuple[object, ...], list[Variant]] = {}
    for variant in manifest.variants:
        need = variant.requirements
        apart = need.os, need.arch, need.soc_version, need.compute_capability, need.tensorrt_version
        groups.setdefault((*_rank(variant, {}), *apart), []).append(variant)
    return [
        tuple(sorted(v.name for v in group))
        for group in groups.values()
        if len({frozenset(file.digest for file in v.files) for v in group}) > 1
    ]


def _judge(variant: Variant, platform: Platform, backend: BackendFacts | None, *, pictures: bool) -> VariantVerdict:
    found = (*host_reasons(variant, platform, pictures=pictures), *runtime_reasons(variant, platform, backend))
    reasons = tuple(reason for reason in found if reason.outcome is not FitOutcome.PASS)
    if not reasons:
        outcome = FitOutcome.PASS
    else:
        outcome = FitOutcome.FAIL if any(r.outcome is FitOutcome.FAIL for r in reasons) else FitOutcome.UNKNOWN
    return VariantVerdict(
        variant=variant.name,
        outcome=outcome,
        backend=backend.name if backend else "",
        reasons=reasons,
        warnings=tuple(reason for reason in found if reason.outcome is FitOutcome.PASS),
    )


def _rank(variant: Variant, speeds: Mapping[Digest, float]) -> tuple[int, int, int, float]:
    formats = CPU_FORMAT_ORDER if variant.target is Target.CPU else FORMAT_ORDER
    return (
        _place(variant.target, TARGET_ORDER),
        _place(variant.format, formats),
        _generality(variant.requirements),
        speeds.get(variant.canonical_digest(), float("inf")) if speeds else 0.0,
    )


def _place(kind: str, order: Sequence[str]) -> int:
    """What this program does not know comes last."""
    return order.index(kind) if kind in order else len(order)


def _comparable(fitting: list[Variant], speeds: Mapping[Digest, float]) -> Mapping[Digest, float]:
    """Without those of converted variants beside which a published one of the same rank was never measured."""
    if not speeds:
        return speeds
    unknown = {_rank(v, {}) for v in fitting if v.build is None and v.canonical_digest() not in speeds}
    unfair = {v.canonical_digest() for v in fitting if v.build is not None and _rank(v, {}) in unknown}
    return {digest: speed for digest, speed in speeds.items() if digest not in unfair}


def _generality(need: Requirements) -> int:
    """0: for one kind of host exactly; 1: for a range of versions; 2: for any."""
    one_gpu = need.compute_capability is not None and need.hardware_compat != "ampere_plus"
    if need.os is not None or need.arch or need.soc_version is not None or one_gpu:
        return 0
    return 2 if need == Requirements() else 1


def _alike(best: Variant, fitting: list[Variant], speeds: Mapping[Digest, float]) -> tuple[Name, ...]:
    """Other files that rank the same."""
    files = {file.digest for file in best.files}
    rank = _rank(best, speeds)
    return tuple(v.name for v in fitting if _rank(v, speeds) == rank and {file.digest for file in v.files} != files)


def _nearest(judged: list[VariantVerdict], chosen: str | None) -> Name | None:
    """By what only other hardware would change, then by how much, then by rank."""
    better: list[tuple[int, int, int, Name]] = []
    for place, verdict in enumerate(judged):
        if verdict.variant == chosen:
            break
        if verdict.outcome is not FitOutcome.PASS:
            hard = sum(reason.code in HARDWARE or not reason.remedy for reason in verdict.reasons)
            if not (hard and chosen):
                better.append((hard, len(verdict.reasons), place, verdict.variant))
    return min(better)[3] if better else None
