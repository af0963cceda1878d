"""Why a variant does not fit a host, or may surprise on it: the predicates, one variant against one host. Pure.

Each gives pass, fail or unknown, with a stable code, and says what would have to change. A warning does not keep a
variant from running. To add one: a generator here, and its format in `_BY_FORMAT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from registry.contracts.catalogue.entry_points import EntryPoint
from registry.contracts.catalogue.manifest import Format, Target, Variant
from registry.contracts.codes import ResolutionCode as Code
from registry.contracts.enums import StrEnum
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.fit.releases import CANN_LINES, CANN_PERIODS, cann_periods, cann_release, release, tensorrt_runs
from registry.contracts.fit.room import request_bytes
from registry.contracts.tensors import MAX_HEADER_BYTES
from registry.contracts.wire import Wire


class FitOutcome(StrEnum):
    """Of one predicate, or of a variant (the worst of its predicates)."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    """It fits."""
    FAIL = "fail"
    """It does not fit."""
    UNKNOWN = "unknown"
    """A fact that decides is not known; it is not chosen."""


class Reason(Wire):
    """One predicate that did not pass: what is needed, what the host has."""

    code: Code
    """Which predicate."""
    outcome: FitOutcome
    """`pass` in a warning: it runs, and this may surprise."""
    need: str
    """What the variant needs."""
    have: str
    """What the host has."""
    remedy: str = ""
    """What would have to change: on the host, or another variant."""


Reasons = Iterator[Reason]


def fail(code: Code, need: str, have: str, remedy: str = "") -> Reason:
    """It does not fit."""
    return Reason(code=code, outcome=FitOutcome.FAIL, need=str(need), have=str(have), remedy=remedy)


def warning(code: Code, need: str, have: str, remedy: str) -> Reason:
    """It fits, and may surprise."""
    return Reason(code=code, outcome=FitOutcome.PASS, need=need, have=have, remedy=remedy)


def unknown(fact: str) -> Reason:
    """The host says nothing of what decides: not eligible."""
    return Reason(
        code=Code.FACT_UNKNOWN,
        outcome=FitOutcome.UNKNOWN,
        need=fact,
        have="not reported by this agent",
        remedy="upgrade the agent, and see `agent platform` on the device",
    )


SOURCE_ONLY = frozenset({Format.AIR})
BUILT_FOR = {
    Format.OM: ("soc_version", "cann_version"),
    Format.TENSORRT_PLAN: ("tensorrt_version", "compute_capability"),
}
"""What a compiled format says of the host that it was compiled for: without it nobody knows where it runs."""
BUILT_IN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx.training"})
"""Operator domains that ONNX Runtime brings itself."""
NEW_DYNAMIC_CANN = (6, 0, True, 1)
"""OMs with dynamic shapes or for a virtual NPU that an older CANN built do not run on this one (ATC guide of 8.0)."""
OLDEST_AMPERE = (8, 0)


def host_reasons(variant: Variant, platform: Platform, *, pictures: bool = False) -> Reasons:
    """What concerns the host whatever the backend. `pictures`: requests may be pictures."""
    need = variant.requirements
    if need.os is not None and need.os != platform.os:
        yield fail(Code.OS_MISMATCH, need.os, platform.os, f"publish a variant for {platform.os}")
    if need.arch and platform.arch not in need.arch:
        yield fail(Code.ARCH_MISMATCH, " or ".join(need.arch), platform.arch, f"publish one for {platform.arch}")
    if need.memory_bytes is not None:
        if platform.memory_bytes is None:
            yield unknown("memory size")
        elif platform.memory_bytes < need.memory_bytes:
            yield fail(
                Code.MEM_INSUFFICIENT, f"{need.memory_bytes} bytes", f"{platform.memory_bytes} bytes",
                "publish a smaller variant, for instance onnx-int8",
            )  # fmt: skip
    disk = need.disk_bytes if need.disk_bytes is not None else variant.size
    if platform.disk_bytes is not None and platform.disk_bytes < disk:
        yield fail(
            Code.DISK_INSUFFICIENT, f"{disk} bytes", f"{platform.disk_bytes} bytes",
            "put data_dir on a larger disk, or publish a smaller variant",
        )  # fmt: skip
    elif platform.disk_bytes is None and need.disk_bytes is not None:
        yield unknown("disk size")
    sent, limit = request_bytes(variant, pictures=pictures), platform.max_request_bytes
    if limit is not None and sent > limit:
        yield fail(
            Code.REQUEST_TOO_LARGE, f"requests of {sent} bytes", f"{limit} bytes at most",
            f"set limits.max_payload of the agent to {sent + MAX_HEADER_BYTES} or more",
        )  # fmt: skip


def runtime_reasons(variant: Variant, platform: Platform, backend: BackendFacts | None) -> Reasons:
    """What concerns the backend that would run it, and the chip; warnings have the outcome `pass`."""
    for said, known in ((variant.format, tuple(Format)), (variant.target, tuple(Target))):
        if said not in known:
            yield fail(Code.FORMAT_UNKNOWN, said, f"a program that knows {', '.join(known)}", "upgrade the agent")
            return
    if variant.format in SOURCE_ONLY:
        yield fail(Code.SOURCE_ONLY, "conversion to OM", variant.format, "registry convert ... --to om")
        return
    if backend is None:
        yield _no_backend(variant, platform)
    unsaid = [name for name in BUILT_FOR.get(variant.format, ()) if getattr(variant.requirements, name) is None]
    check = _BY_FORMAT.get(variant.format)
    if unsaid:  # publishing refuses it; an older registry may have taken it
        yield _unsaid(variant, unsaid)
    elif check is not None:
        yield from check(variant, platform, backend)


def _no_backend(variant: Variant, platform: Platform) -> Reason:
    """Why nothing here runs its format on its target."""
    able = [b for b in platform.backends if b.usable and variant.format in b.formats]
    uncertain = [b for b in platform.backends if b.unknown and variant.format in b.formats]
    count = None if variant.target is Target.CPU else _count(variant.target, platform)
    if uncertain and count != 0:
        return Reason(
            code=Code.FACT_UNKNOWN,
            outcome=FitOutcome.UNKNOWN,
            need=f"the backend {uncertain[0].name} on {variant.target}",
            have=f"a probe that failed: {uncertain[0].reason}",
            remedy="nothing: the agent probes again; see `agent doctor` on the device",
        )
    if able:
        have = ", ".join(f"{b.name} on {'/'.join(b.targets)}" for b in able)
        remedy = f"publish a variant for {'/'.join(able[0].targets)}"
        return fail(Code.DEVICE_MISSING, f"{variant.target} for {variant.format}", have, remedy)
    known = [b for b in platform.backends if variant.format in b.formats]
    if count == 0:
        return fail(Code.DEVICE_MISSING, f"a device of kind {variant.target}", "none", "publish a variant for cpu")
    why = "; ".join(f"{b.name}: {b.reason}" for b in known)
    there = variant.target is Target.CPU or count
    remedy = f"make the backend {known[0].name} work on the device: see `agent doctor` there" if known and there else ""
    return fail(Code.RT_MISSING, f"a backend for {variant.format}", why or "none", remedy)


def _count(target: Target, platform: Platform) -> int | None:
    """Accelerators of that kind; None: the facts are silent, and one may be there."""
    if target is Target.GPU:
        return platform.cuda.gpus if platform.cuda else None
    return platform.ascend.chips if platform.ascend else None


def _onnx(variant: Variant, _platform: Platform, backend: BackendFacts | None) -> Reasons:
    if backend is None:
        return
    need, runtime = variant.requirements, f"{backend.name} {backend.version}".strip()
    opset = max((need.onnx_opsets.get(domain, 0) for domain in ("", "ai.onnx")), default=0)
    for code, fact, does, name, asked, newest in (
        (Code.IR_TOO_NEW, "newest ONNX IR version", "reads", "IR", need.onnx_ir, backend.max_onnx_ir),
        (Code.OPSET_TOO_NEW, "newest ONNX opset", "runs", "opset", opset or None, backend.max_onnx_opset),
    ):
        if asked is not None and newest is None:
            yield unknown(fact)
        elif asked is not None and newest is not None and asked > newest:
            remedy = f"upgrade {backend.name} to one that {does} {name} {asked}, or export with {name} <= {newest}"
            yield fail(code, f"{name} {asked}", f"up to {newest} ({runtime})", remedy)
    for domain in sorted(set(need.onnx_opsets) - BUILT_IN_DOMAINS):
        remedy = "export without custom operators"
        yield fail(Code.OP_DOMAIN_MISSING, f"operators of {domain}", "built-in domains only", remedy)


def _mindspore(variant: Variant, _platform: Platform, backend: BackendFacts | None) -> Reasons:
    """A file of MindSpore is read by the MindSpore that wrote it and by later ones."""
    wanted = variant.requirements.mindspore_version
    if wanted is None or backend is None:
        return
    need, have = release(wanted), release(backend.version)
    if need is None or have is None:
        yield unknown("MindSpore version")
    elif have < need:
        remedy = f"upgrade MindSpore to >= {wanted}, or export with MindSpore <= {backend.version}"
        yield fail(Code.RT_TOO_OLD, f"MindSpore {wanted}", backend.version, remedy)


def _checkpoint(variant: Variant, platform: Platform, backend: BackendFacts | None) -> Reasons:
    """Weights run only in a network that the host's own catalogue has, or that signed code builds."""
    yield from _mindspore(variant, platform, backend)
    if variant.entry_point is not None:
        yield from _entry_point(variant.entry_point, backend)
    elif variant.network is None:
        remedy = "publish it with --network, or convert it to MindIR or ONNX"
        yield fail(Code.NETWORK_MISSING, "a network to fill", "only weights: the manifest names no network", remedy)
    elif backend is not None and variant.network.name not in backend.networks:
        have = ", ".join(backend.networks) or "no catalogue of networks"
        remedy = "upgrade the agent, or publish a MindIR or ONNX variant"
        yield fail(Code.NETWORK_UNKNOWN, f"the network {variant.network.name}", have, remedy)


def _entry_point(code: EntryPoint, backend: BackendFacts | None) -> Reasons:
    """Code runs where it is switched on, of signers whom the host trusts. The agent itself checks the signature."""
    if backend is None or code.key in backend.entry_points:
        return
    if not backend.entry_points:
        remedy = (
            "set entry_points.enabled and entry_points.trusted_keys on the host, or publish a MindIR or ONNX variant"
        )
        yield fail(Code.ENTRY_POINT_DISABLED, f"to run {code.module}:{code.function}", "code of models off", remedy)
        return
    remedy = "sign it with a key that the host trusts, or add this one to entry_points.trusted_keys there"
    have = ", ".join(backend.entry_points)
    yield fail(Code.ENTRY_POINT_UNTRUSTED, f"trust in the key {code.key}", have, remedy)


def _om(variant: Variant, platform: Platform, backend: BackendFacts | None) -> Reasons:
    """An OM runs on the very chip that it was built for, with the CANN that built it or a later one.

    The backend's provider is the chip's name, its version CANN's; where it does not work, the host's own facts.
    """
    need = variant.requirements
    known = platform.ascend.soc if platform.ascend else ""
    chips = (backend.providers if backend else ()) or ((known,) if known else ())
    if chips and need.soc_version not in chips:
        remedy = f"convert it for {chips[0]}: atc --soc_version={chips[0]}"
        yield fail(Code.SOC_MISMATCH, need.soc_version or "", ", ".join(chips), remedy)
    elif backend is not None and not chips:
        yield unknown("Ascend chip")
    yield from _cann(variant, platform, backend)
    if need.opp_version is not None:
        yield from _opp(variant, platform)


def _cann(variant: Variant, platform: Platform, backend: BackendFacts | None) -> Reasons:
    built = variant.requirements.cann_version or ""
    files = platform.cann.version if platform.cann else ""
    version = backend.version if backend and (cann_release(backend.version) or not files) else files
    need, have = cann_release(built), cann_release(version)
    if need is None or have is None:
        if backend is not None:
            yield unknown("CANN version")
        return
    asked, has = f"CANN {built}", f"CANN {version}"
    again = f"convert it again with CANN {version}, or an older one"
    if have < need:
        yield fail(Code.CANN_TOO_OLD, asked, has, f"upgrade CANN to >= {built}, or {again}")
    elif cann_periods(need, have) > CANN_PERIODS:
        text = f"at most {CANN_PERIODS} version periods after {asked}"
        yield fail(Code.CANN_TOO_NEW, text, has, f"convert it again with CANN {version}")
    elif _is_special(variant, platform) and need < NEW_DYNAMIC_CANN <= have:
        text = f"CANN before 6.0.1 (built with {built}, dynamic shapes or a virtual NPU)"
        yield fail(Code.CANN_TOO_NEW, text, has, f"convert it again with CANN {version}")
    elif have[:2] > CANN_LINES[-1]:
        text = f"at most {CANN_PERIODS} version periods after {asked}"
        yield warning(Code.CANN_TOO_NEW, text, f"{has}, newer than this program knows", f"try it, or {again}")


def _opp(variant: Variant, platform: Platform) -> Reasons:
    """Documented for a virtual NPU and for single operators; for a model with dynamic shapes only a warning."""
    if not _is_special(variant, platform):
        return
    need, have = variant.requirements.opp_version or "", platform.cann.opp if platform.cann else ""
    if need == have:
        return
    virtual = platform.ascend is not None and platform.ascend.virtual is True
    remedy = f"install the operator library {need}, or convert it with {have or 'that of the device'}"
    if not virtual:
        yield warning(Code.OPP_MISMATCH, f"operator library {need}", have or "not reported", remedy)
    elif have:
        yield fail(Code.OPP_MISMATCH, f"operator library {need}", have, remedy)
    else:
        yield unknown("operator library (opp)")


def _is_special(variant: Variant, platform: Platform) -> bool:
    """Dynamic shapes, or a virtual NPU."""
    dynamic = any(-1 in tensor.shape for tensor in (*variant.inputs, *variant.outputs))
    return dynamic or (platform.ascend is not None and platform.ascend.virtual is True)


def _plan(variant: Variant, platform: Platform, backend: BackendFacts | None) -> Reasons:
    """A TensorRT plan runs with the TensorRT and on the kind of GPU that built it, or as its flags allow."""
    yield from _compute_capability(variant, platform, backend)
    need = variant.requirements
    if backend is None:
        return
    runs = tensorrt_runs(need.tensorrt_version or "", backend.version, compatible=need.tensorrt_version_compatible)
    if runs is None:
        yield unknown("TensorRT version")
    elif not runs:
        asked = f"TensorRT {need.tensorrt_version}" + (" or a compatible one" * need.tensorrt_version_compatible)
        remedy = f"install TensorRT {need.tensorrt_version}, or build it again with {backend.version}"
        yield fail(Code.TRT_VERSION, asked, f"TensorRT {backend.version}", remedy)


def _compute_capability(variant: Variant, platform: Platform, backend: BackendFacts | None) -> Reasons:
    need = variant.requirements
    wanted, has = need.compute_capability or "", platform.cuda.compute_capability if platform.cuda else ""
    have = release(has)
    if have is None:
        if backend is not None:
            yield unknown("GPU's compute capability")
    elif need.hardware_compat == "ampere_plus":
        if have[:2] < OLDEST_AMPERE:
            yield fail(Code.SM_MISMATCH, "compute capability 8.0 or newer", has, f"build a plan for {has}")
    elif wanted != has:
        yield fail(Code.SM_MISMATCH, f"compute capability {wanted}", has, f"build a plan for {has}")


_BY_FORMAT: dict[Format, Callable[[Variant, Platform, BackendFacts | None], Reasons]] = {
    Format.ONNX: _onnx,
    Format.MINDIR: _mindspore,
    Format.MINDSPORE_CKPT: _checkpoint,
    Format.OM: _om,
    Format.TENSORRT_PLAN: _plan,
}


def _unsaid(variant: Variant, names: list[str]) -> Reason:
    return Reason(
        code=Code.FACT_UNKNOWN,
        outcome=FitOutcome.UNKNOWN,
        need=f"the {' and '.join(names)} that {variant.name} was built for",
        have="a manifest that does not say so",
        remedy="publish it again with them, or convert it again",
    )
