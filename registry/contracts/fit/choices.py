"""Which variant runs where, asked and answered: explanations, coverage, and hypothetical facts. Pure.

`cann=8.2` on top of what a device reported shows what it would run then. A runtime that is imagined is imagined to
work: a backend that had no CANN becomes usable with the chip that is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, ValidationError

from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.fit.platforms import AscendFacts, BackendFacts, CannFacts, CudaFacts, Platform
from registry.contracts.fit.releases import cann_release, numbers
from registry.contracts.fit.resolution import Resolution
from registry.contracts.wire import Digest, Name, VersionName, Wire

MAX_CHANGES = 32
MAX_VALUE = 128
"""Characters."""
SUFFIXES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
"""Of sizes: 8GiB, 8G, 8g."""
_SOC_TARGETS = {"Ascend310": Target.ASCEND310, "Ascend910": Target.ASCEND910}

Change = Callable[[Platform, str], Platform]


def imagine(platform: Platform, changes: Mapping[str, str]) -> Platform:
    """The platform with other facts.

    Args:
        platform: As it was reported.
        changes: Name of a fact, one of `SETTABLE`, to its value; blanks around it are none of it.

    Raises:
        ValueError: there is no such fact, or it cannot have that value; the message says which can be set.
    """
    if len(changes) > MAX_CHANGES:
        raise ValueError(f"{len(changes)} facts; {MAX_CHANGES} can be imagined at once")
    for name in sorted(changes, key=lambda name: list(SETTABLE).index(name) if name in SETTABLE else -1):
        if name not in SETTABLE:
            raise ValueError(f"there is no fact {name[:64]!r} to imagine; there are: {', '.join(SETTABLE)}")
        try:
            changed = SETTABLE[name][0](platform, changes[name].strip())
            platform = Platform.model_validate(changed.model_dump())
        except ValidationError as error:
            text = "; ".join(fault["msg"] for fault in error.errors())
            raise ValueError(f"{name}={changes[name][:64]!r}: {text}") from None
    return platform


def _os(platform: Platform, value: str) -> Platform:
    return platform.model_copy(update={"os": value})


def _arch(platform: Platform, value: str) -> Platform:
    return platform.model_copy(update={"arch": value})


def _memory(platform: Platform, value: str) -> Platform:
    return platform.model_copy(update={"memory_bytes": _size("memory", value)})


def _disk(platform: Platform, value: str) -> Platform:
    return platform.model_copy(update={"disk_bytes": _size("disk", value)})


def _soc(platform: Platform, value: str) -> Platform:
    target = next((target for start, target in _SOC_TARGETS.items() if value.startswith(start)), None)
    if target is None:
        raise ValueError(f"soc={value[:64]!r} is not like Ascend310P3 or Ascend910B4")
    chips = max(platform.ascend.chips if platform.ascend else 0, 1)
    ascend = (platform.ascend or AscendFacts()).model_copy(update={"soc": value, "chips": chips})
    version = platform.cann.version if platform.cann else _version(platform, Format.OM)
    return _acl(platform.model_copy(update={"ascend": ascend}), version)


def _cann(platform: Platform, value: str) -> Platform:
    if cann_release(value) is None:
        raise ValueError(f"cann={value!r} is no version like 8.2 or 8.0.RC2")
    cann = (platform.cann or CannFacts()).model_copy(update={"version": value})
    return _acl(platform.model_copy(update={"cann": cann}), value)


def _opp(platform: Platform, value: str) -> Platform:
    return platform.model_copy(update={"cann": (platform.cann or CannFacts()).model_copy(update={"opp": value})})


def _virtual(platform: Platform, value: str) -> Platform:
    if value not in ("true", "false"):
        raise ValueError(f"virtual={value[:64]!r} is neither true nor false")
    return platform.model_copy(
        update={"ascend": (platform.ascend or AscendFacts()).model_copy(update={"virtual": value == "true"})}
    )


def _driver(platform: Platform, value: str) -> Platform:
    found = {name: getattr(platform, name) for name in ("ascend", "cuda") if getattr(platform, name) is not None}
    if not found:
        raise ValueError("driver: the device has told of no accelerator; imagine its soc or compute_capability too")
    return platform.model_copy(
        update={name: facts.model_copy(update={"driver": value}) for name, facts in found.items()}
    )


def _compute_capability(platform: Platform, value: str) -> Platform:
    if re.fullmatch(r"[0-9]{1,2}\.[0-9]", value) is None:
        raise ValueError(f"compute_capability={value!r} is not like 8.6")
    gpus = max(platform.cuda.gpus if platform.cuda else 0, 1)
    cuda = (platform.cuda or CudaFacts()).model_copy(update={"compute_capability": value, "gpus": gpus})
    return platform.model_copy(update={"cuda": cuda})


def _tensorrt(platform: Platform, value: str) -> Platform:
    return _working(platform, Format.TENSORRT_PLAN, "tensorrt", value, targets=(Target.GPU,))


def _onnxruntime(platform: Platform, value: str) -> Platform:
    """What it reads is not known then, unless onnx_ir and onnx_opset are imagined too."""
    unknown: dict[str, Any] = {"max_onnx_ir": None, "max_onnx_opset": None}
    return _working(platform, Format.ONNX, "onnxruntime", value, targets=(Target.CPU,), more=unknown)


def _onnx_ir(platform: Platform, value: str) -> Platform:
    return _onnx(platform, "max_onnx_ir", value)


def _onnx_opset(platform: Platform, value: str) -> Platform:
    return _onnx(platform, "max_onnx_opset", value)


def _mindspore(platform: Platform, value: str) -> Platform:
    return _working(platform, Format.MINDIR, "mindspore", value, targets=(Target.CPU,))


SETTABLE: dict[str, tuple[Change, str]] = {
    "os": (_os, "linux"),
    "arch": (_arch, "aarch64"),
    "memory": (_memory, "8GiB"),
    "disk": (_disk, "64GiB"),
    "soc": (_soc, "Ascend310P3"),
    "cann": (_cann, "8.2"),
    "opp": (_opp, "8.2"),
    "virtual": (_virtual, "true: a virtual NPU"),
    "compute_capability": (_compute_capability, "8.6"),
    "driver": (_driver, "24.1.1"),
    "tensorrt": (_tensorrt, "10.13.3.9"),
    "onnxruntime": (_onnxruntime, "1.32.0; also say onnx_ir and onnx_opset"),
    "onnx_ir": (_onnx_ir, "10"),
    "onnx_opset": (_onnx_opset, "21"),
    "mindspore": (_mindspore, "2.10.0"),
}
"""What can be imagined, with an example; they take effect in this order."""


def _acl(platform: Platform, version: str) -> Platform:
    """ACL works as soon as both chip and CANN are known."""
    soc = platform.ascend.soc if platform.ascend else ""
    target = next((target for start, target in _SOC_TARGETS.items() if soc.startswith(start)), None)
    if not version or target is None:
        return platform
    more: dict[str, Any] = {"providers": (soc,), "targets": (target,)}
    return _working(platform, Format.OM, "ascend_acl", version, targets=(target,), more=more)


def _onnx(platform: Platform, field: str, value: str) -> Platform:
    if not (value.isascii() and value.isdigit() and len(value) < 6):
        raise ValueError(f"{value[:64]!r} is no version of ONNX: a whole number like 10 or 21")
    backends = tuple(
        b.model_copy(update={field: int(value)}) if Format.ONNX in b.formats else b for b in platform.backends
    )
    return platform.model_copy(update={"backends": backends})


def _working(
    platform: Platform,
    loads: Format,
    name: str,
    version: str,
    *,
    targets: tuple[Target, ...],
    more: dict[str, Any] | None = None,
) -> Platform:
    """The backend of that name as if it worked in that version; a new one where there was none."""
    if numbers(version) is None:
        raise ValueError(f"{name} {version!r} is no version: it does not begin with a number")
    known = next((b for b in platform.backends if b.name == name), BackendFacts(name=name, usable=False))
    update = {"usable": True, "reason": "", "version": version, "targets": known.targets or targets, **(more or {})}
    imagined = known.model_copy(update=update | {"formats": known.formats or (loads,)})
    others = tuple(b for b in platform.backends if b.name != name)
    return platform.model_copy(update={"backends": (*others, imagined)})


def _version(platform: Platform, loads: Format) -> str:
    return next((b.version for b in platform.backends if b.usable and loads in b.formats), "")


def _size(name: str, value: str) -> int:
    text = value.strip().lower().removesuffix("ib").removesuffix("b")
    factor = SUFFIXES.get(text[-1:], 0)
    digits = text[:-1] if factor else text
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise ValueError(f"{name}={value[:64]!r} is no size; say 8GiB")
    return int(digits) * (factor or 1)


MAX_CLASSES = 500
"""Of hosts, in one coverage; the largest ones."""
NAMED = 20
"""Devices of a class that are named."""

Changes = Annotated[dict[str, Annotated[str, Field(max_length=MAX_VALUE)]], Field(max_length=MAX_CHANGES)]
"""Name of a fact to its imagined value; see `registry.contracts.fit.choices`."""


class ResolveBody(Wire):
    """POST body: what would a host with these facts run? `device` or `facts` says which host it is."""

    model: Name
    """The model to look at."""
    version: VersionName
    """Or an alias."""
    device: Name | None = None
    """The facts that this device reported."""
    facts: Platform | None = None
    """A host that need not exist."""
    variant: Name | None = None
    """Only this one may be chosen."""
    what_if: Changes = Field(default_factory=dict)
    """Facts to change first, as `registry explain --what-if` takes them."""


class ResolutionView(Wire):
    """Which variant a host would run, why, and by which facts."""

    model: Name
    """The model."""
    version: VersionName
    """The version; an alias is resolved."""
    device: Name | None = None
    """Whose facts these are. None: facts that were given."""
    resolution: Resolution
    """What was chosen, and why."""
    facts: Platform
    """With what was imagined."""
    facts_digest: Digest
    """The class of hosts."""
    facts_at: AwareDatetime | None = None
    """When the registry got them."""
    what_if: Changes = Field(default_factory=dict)
    """What was imagined."""


class ClassCoverage(Wire):
    """Hosts with the same facts, and what they would run."""

    facts_digest: Digest
    """The class."""
    title: str
    """For people: `linux aarch64, Ascend310P3, CANN 8.0.RC1`."""
    devices: int
    """So many hosts are in it."""
    names: Annotated[tuple[Name, ...], Field(max_length=NAMED)] = ()
    """The first by name."""
    chosen: Name | None = None
    """The variant that they would run. None: none fits."""
    target: Target | None = None
    """What that variant is for."""
    degraded: bool = False
    """It would run on the CPU beside an idle accelerator."""
    why: tuple[str, ...] = ()
    """Where nothing fits: one line a variant."""
    nearest: Name | None = None
    """The variant for which the least would have to change. None: there is none."""
    remedy: str = ""
    """What would have to change for `nearest`."""


class CoverageView(Wire):
    """A version on a fleet: each class of hosts once."""

    model: Name
    """The model."""
    version: VersionName
    """The version."""
    selector: str = "*"
    """The devices that were looked at; `*`: all."""
    devices: int
    """That the selector matches."""
    without: int
    """Of them, those that can run no variant."""
    degraded: int
    """Those that would run it on the CPU beside an idle accelerator."""
    silent: int
    """Those that have not told what they are."""
    silent_names: Annotated[tuple[Name, ...], Field(max_length=NAMED)] = ()
    """Some of them, by name."""
    variants: dict[Name, int] = Field(default_factory=dict)
    """Devices by the variant that they would run; 0: it fits nowhere."""
    classes: Annotated[tuple[ClassCoverage, ...], Field(max_length=MAX_CLASSES)] = ()
    """The largest first."""
    more_classes: int = 0
    """That are not listed, nor counted in `without`, `degraded` and `variants`."""
