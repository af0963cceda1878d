"""Which variant fits a host, and why the others do not. Pure: registry, CLI and agent call this same function.

Each predicate gives pass, fail or unknown; unknown is not eligible. The ranking is deterministic:
accelerators before CPU, then the format that is closest to the hardware, then the variant's name,
so that two hosts with the same facts always get the same variant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from registry.contracts.codes import ResolutionCode as Code
from registry.contracts.enums import StrEnum
from registry.contracts.manifest import Format, Manifest, Target, Variant
from registry.contracts.names import Name
from registry.contracts.platforms import BackendFacts, Platform
from registry.contracts.wire import Wire

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
SOURCE_ONLY = frozenset({Format.AIR})
BUILT_IN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx.training"})
"""Operator domains that ONNX Runtime brings itself."""
UNREPORTED = {
    "tensorrt_version": "TensorRT version",
    "compute_capability": "GPU's compute capability",
}
"""Requirements that no agent reports a fact for yet, and the fact: a variant that has one fits nowhere."""


class Outcome(StrEnum):
    """Of one predicate, or of a variant (the worst of its predicates)."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    UNKNOWN = "unknown"


class Reason(Wire):
    """One predicate that did not pass: what is needed, what the host has."""

    code: Code
    outcome: Outcome
    need: str
    have: str


class Verdict(Wire):
    """One variant on one host."""

    variant: Name
    outcome: Outcome
    backend: str = ""
    """The backend that would run it."""
    reasons: tuple[Reason, ...] = ()


class Resolution(Wire):
    """The choice and its trace, best variant first."""

    chosen: Name | None
    verdicts: tuple[Verdict, ...]
    degraded: bool = False
    """An accelerator lies idle: the chosen variant runs on the CPU of a host that has one."""

    def explain(self) -> str:
        """One line per rejected variant; for errors and logs."""
        lines = [
            f"{verdict.variant}: " + "; ".join(f"{r.code}: needs {r.need}, host has {r.have}" for r in verdict.reasons)
            for verdict in self.verdicts
            if verdict.outcome is not Outcome.PASS
        ]
        return "\n".join(lines)


def resolve(manifest: Manifest, platform: Platform, pin: str | None = None) -> Resolution:
    """Choose the variant of `manifest` for a host.

    Args:
        manifest: The version.
        platform: The host's facts.
        pin: Only the variant of this name may be chosen.
    """
    ranked = sorted(manifest.variants, key=_rank)
    verdicts = tuple(judge(variant, platform) for variant in ranked if pin in (None, variant.name))
    chosen = next((v.variant for v in verdicts if v.outcome is Outcome.PASS), None)
    variant = manifest.variant(chosen) if chosen else None
    has_accelerator = any(t is not Target.CPU for b in platform.backends if b.usable for t in b.targets)
    return Resolution(
        chosen=chosen,
        verdicts=verdicts,
        degraded=variant is not None and variant.target is Target.CPU and has_accelerator,
    )


def judge(variant: Variant, platform: Platform) -> Verdict:
    """All predicates of one variant; every reason that did not pass is listed, not only the first."""
    backend = _backend_for(variant, platform)
    reasons = (*_host_reasons(variant, platform), *_runtime_reasons(variant, platform, backend))
    if not reasons:
        outcome = Outcome.PASS
    else:
        outcome = Outcome.FAIL if any(r.outcome is Outcome.FAIL for r in reasons) else Outcome.UNKNOWN
    return Verdict(variant=variant.name, outcome=outcome, backend=backend.name if backend else "", reasons=reasons)


def _rank(variant: Variant) -> tuple[int, int, str]:
    formats = CPU_FORMAT_ORDER if variant.target is Target.CPU else FORMAT_ORDER
    return TARGET_ORDER.index(variant.target), formats.index(variant.format), variant.name


def _backend_for(variant: Variant, platform: Platform) -> BackendFacts | None:
    return next(
        (b for b in platform.backends if b.usable and variant.format in b.formats and variant.target in b.targets),
        None,
    )


def _host_reasons(variant: Variant, platform: Platform) -> Iterator[Reason]:
    need = variant.requirements
    if need.os is not None and need.os != platform.os:
        yield _fail(Code.OS_MISMATCH, need.os, platform.os)
    if need.arch and platform.arch not in need.arch:
        yield _fail(Code.ARCH_MISMATCH, " or ".join(need.arch), platform.arch)
    if need.memory_bytes is not None:
        if platform.memory_bytes is None:
            yield _unknown("memory size")
        elif platform.memory_bytes < need.memory_bytes:
            yield _fail(Code.MEM_INSUFFICIENT, f"{need.memory_bytes} bytes", f"{platform.memory_bytes} bytes")


def _runtime_reasons(variant: Variant, platform: Platform, backend: BackendFacts | None) -> Iterator[Reason]:
    if variant.format in SOURCE_ONLY:
        yield _fail(Code.SOURCE_ONLY, "conversion to OM", variant.format)
        return
    if backend is None:
        yield _no_backend(variant, platform)
        return
    if variant.format is Format.ONNX:
        yield from _onnx_reasons(variant, backend)
    if variant.format is Format.MINDIR:
        yield from _mindir_reasons(variant, backend)
    if variant.format is Format.OM:
        yield from _om_reasons(variant, backend)
    for requirement, fact in UNREPORTED.items():
        if getattr(variant.requirements, requirement) is not None:
            yield _unknown(fact)


def _no_backend(variant: Variant, platform: Platform) -> Reason:
    able = [b for b in platform.backends if b.usable and variant.format in b.formats]
    if able:
        have = ", ".join(f"{b.name} on {'/'.join(b.targets)}" for b in able)
        return _fail(Code.DEVICE_MISSING, f"{variant.target} for {variant.format}", have)
    why = "; ".join(f"{b.name}: {b.reason}" for b in platform.backends if variant.format in b.formats)
    return _fail(Code.RT_MISSING, f"a backend for {variant.format}", why or "none")


def _onnx_reasons(variant: Variant, backend: BackendFacts) -> Iterator[Reason]:
    need = variant.requirements
    if need.onnx_ir is not None:
        if backend.max_onnx_ir is None:
            yield _unknown("newest ONNX IR version")
        elif need.onnx_ir > backend.max_onnx_ir:
            yield _fail(Code.IR_TOO_NEW, f"IR {need.onnx_ir}", f"up to {backend.max_onnx_ir} ({backend.version})")
    opset = max((need.onnx_opsets.get(domain, 0) for domain in ("", "ai.onnx")), default=0)
    if opset:
        if backend.max_onnx_opset is None:
            yield _unknown("newest ONNX opset")
        elif opset > backend.max_onnx_opset:
            yield _fail(Code.OPSET_TOO_NEW, f"opset {opset}", f"up to {backend.max_onnx_opset} ({backend.version})")
    for domain in sorted(set(need.onnx_opsets) - BUILT_IN_DOMAINS):
        yield _fail(Code.OP_DOMAIN_MISSING, f"operators of {domain}", "built-in domains only")


def _mindir_reasons(variant: Variant, backend: BackendFacts) -> Iterator[Reason]:
    """A MindIR is read by the MindSpore that wrote it and by later ones."""
    wanted = variant.requirements.mindspore_version
    if wanted is None:
        return
    need, have = _release(wanted), _release(backend.version)
    if need is None or have is None:
        yield _unknown("MindSpore version")
    elif have < need:
        yield _fail(Code.RT_TOO_OLD, f"MindSpore {wanted}", backend.version)


def _om_reasons(variant: Variant, backend: BackendFacts) -> Iterator[Reason]:
    """An OM runs on the very chip that it was built for, with the CANN that built it or a later one.

    The backend's provider is the chip's name, its version CANN's. Not checked: that CANN runs the files of four
    release cycles only.
    """
    chip, built = variant.requirements.soc_version, variant.requirements.cann_version
    if chip is not None:
        if not backend.providers:
            yield _unknown("Ascend chip")
        elif chip not in backend.providers:
            yield _fail(Code.SOC_MISMATCH, chip, ", ".join(backend.providers))
    if built is not None:
        need, have = _cann_release(built), _cann_release(backend.version)
        if need is None or have is None:
            yield _unknown("CANN version")
        elif have < need:
            yield _fail(Code.RT_TOO_OLD, f"CANN {built}", f"CANN {backend.version}")


def _cann_release(version: str) -> tuple[int, int, bool, int] | None:
    """`8.0.RC2` comes before `8.0.0`; None when it is written another way."""
    found = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?:\.(RC)?([0-9]{1,4}))?(?![0-9])", version)
    if found is None:
        return None
    major, minor, candidate, number = found.groups()
    return int(major), int(minor), candidate is None, int(number or 0)


def _release(version: str) -> tuple[int, ...] | None:
    """`2.10.0rc1` as (2, 10, 0); None when it does not begin with a number."""
    found = re.match(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}", version)
    if found is None:
        return None
    numbers = [int(part) for part in found[0].split(".")]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _fail(code: Code, need: str, have: str) -> Reason:
    return Reason(code=code, outcome=Outcome.FAIL, need=str(need), have=str(have))


def _unknown(fact: str) -> Reason:
    return Reason(code=Code.FACT_UNKNOWN, outcome=Outcome.UNKNOWN, need=fact, have="not reported by this agent")
