"""Which variant runs where, asked and answered: explanations, coverage, and hypothetical facts. Pure.

`cann=8.2` on top of what a device reported shows what it would run then. A runtime that is imagined is imagined to
work: a backend that had no CANN becomes usable with the chip that is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, ValidationError

from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.fit.platforms import AscendFacts, BackendFacts, CannFacts, CudaFacts, Platform
from registry.contracts.fit.releases import cann_release, numbers
from registry.contracts.fit.resolution import Resolution
from registry.contracts.wire import Digest, Integer, Name, VersionName, Wire

MAX_CHANGES = 32
MAX_VALUE = 128
"""Characters."""
SUFFIXES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
"""Of sizes: 8GiB, 8G, 8g."""
_SOC_TARGETS = {"Ascend310": Target.ASCEND310, "Ascend910": Target.ASCEND910}

Change = Callable[[Platform, str], dict[str, Any]]
"""From the platform and the value of one fact to the fields of the platform that it sets."""


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
            fields = SETTABLE[name][0](platform, changes[name].strip())
            platform = Platform.model_validate(platform.model_copy(update=fields).model_dump())
        except ValidationError as error:
            text = "; ".join(fault["msg"] for fault in error.errors())
            raise ValueError(f"{name}={changes[name][:64]!r}: {text}") from None
    return platform


def _field(field: str, read: Callable[[str], object] = str) -> Change:
    """A fact that is a field of the platform itself."""
    return lambda _platform, value: {field: read(value)}


def _soc(platform: Platform, value: str) -> dict[str, Any]:
    if _target_of(value) is None:
        raise ValueError(f"soc={value[:64]!r} is not like Ascend310P3 or Ascend910B4")
    ascend = platform.ascend or AscendFacts()
    built = (b.version for b in platform.backends if b.usable and Format.OM in b.formats)
    version = platform.cann.version if platform.cann else next(built, "")
    changed = ascend.model_copy(update={"soc": value, "chips": max(ascend.chips, 1)})
    return {"ascend": changed, **_acl(platform, value, version)}


def _cann(platform: Platform, value: str) -> dict[str, Any]:
    if cann_release(value) is None:
        raise ValueError(f"cann={value!r} is no version like 8.2 or 8.0.RC2")
    changed = (platform.cann or CannFacts()).model_copy(update={"version": value})
    return {"cann": changed, **_acl(platform, platform.ascend.soc if platform.ascend else "", value)}


def _opp(platform: Platform, value: str) -> dict[str, Any]:
    return {"cann": (platform.cann or CannFacts()).model_copy(update={"opp": value})}


def _virtual(platform: Platform, value: str) -> dict[str, Any]:
    if value not in ("true", "false"):
        raise ValueError(f"virtual={value[:64]!r} is neither true nor false")
    return {"ascend": (platform.ascend or AscendFacts()).model_copy(update={"virtual": value == "true"})}


def _driver(platform: Platform, value: str) -> dict[str, Any]:
    found = {name: getattr(platform, name) for name in ("ascend", "cuda") if getattr(platform, name) is not None}
    if not found:
        raise ValueError("driver: the device has told of no accelerator; imagine its soc or compute_capability too")
    return {name: facts.model_copy(update={"driver": value}) for name, facts in found.items()}


def _compute_capability(platform: Platform, value: str) -> dict[str, Any]:
    if re.fullmatch(r"[0-9]{1,2}\.[0-9]", value) is None:
        raise ValueError(f"compute_capability={value!r} is not like 8.6")
    cuda = platform.cuda or CudaFacts()
    return {"cuda": cuda.model_copy(update={"compute_capability": value, "gpus": max(cuda.gpus, 1)})}


def _onnx(platform: Platform, value: str, *, field: str) -> dict[str, Any]:
    if not (value.isascii() and value.isdigit() and len(value) < 6):
        raise ValueError(f"{value[:64]!r} is no version of ONNX: a whole number like 10 or 21")
    reads = {field: int(value)}
    return {
        "backends": tuple(b.model_copy(update=reads if Format.ONNX in b.formats else {}) for b in platform.backends)
    }


def _acl(platform: Platform, soc: str, version: str) -> dict[str, Any]:
    """ACL works as soon as both chip and CANN are known."""
    target = _target_of(soc)
    if not version or target is None:
        return {}
    more = {"providers": (soc,), "targets": (target,)}
    return _working(platform, version, name="ascend_acl", loads=Format.OM, target=target, more=more)


def _working(
    platform: Platform,
    version: str,
    *,
    name: str,
    loads: Format,
    target: Target,
    more: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """The backend of that name as if it worked in that version; a new one where there was none.

    `loads`, `target`: of a new one. `more`: what else becomes of it.
    """
    if numbers(version) is None:
        raise ValueError(f"{name} {version!r} is no version: it does not begin with a number")
    known = next((b for b in platform.backends if b.name == name), BackendFacts(name=name, usable=False))
    update = {"usable": True, "reason": "", "version": version, "targets": known.targets or (target,), **(more or {})}
    imagined = known.model_copy(update=update | {"formats": known.formats or (loads,)})
    return {"backends": (*(b for b in platform.backends if b.name != name), imagined)}


def _target_of(soc: str) -> Target | None:
    return next((target for start, target in _SOC_TARGETS.items() if soc.startswith(start)), None)


def _size(name: str, value: str) -> int:
    text = value.strip().lower().removesuffix("ib").removesuffix("b")
    factor = SUFFIXES.get(text[-1:], 0)
    digits = text[:-1] if factor else text
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise ValueError(f"{name}={value[:64]!r} is no size; say 8GiB")
    return int(digits) * (factor or 1)


_TENSORRT = partial(_working, name="tensorrt", loads=Format.TENSORRT_PLAN, target=Target.GPU)
_ONNXRUNTIME = partial(
    _working,
    name="onnxruntime",
    loads=Format.ONNX,
    target=Target.CPU,
    more={"max_onnx_ir": None, "max_onnx_opset": None},  # not known then, unless they are imagined too
)
_MINDSPORE = partial(_working, name="mindspore", loads=Format.MINDIR, target=Target.CPU)
SETTABLE: dict[str, tuple[Change, str]] = {
    "os": (_field("os"), "linux"),
    "arch": (_field("arch"), "aarch64"),
    "memory": (_field("memory_bytes", partial(_size, "memory")), "8GiB"),
    "disk": (_field("disk_bytes", partial(_size, "disk")), "64GiB"),
    "soc": (_soc, "Ascend310P3"),
    "cann": (_cann, "8.2"),
    "opp": (_opp, "8.2"),
    "virtual": (_virtual, "true: a virtual NPU"),
    "compute_capability": (_compute_capability, "8.6"),
    "driver": (_driver, "24.1.1"),
    "tensorrt": (_TENSORRT, "10.13.3.9"),
    "onnxruntime": (_ONNXRUNTIME, "1.32.0; also say onnx_ir and onnx_opset"),
    "onnx_ir": (partial(_onnx, field="max_onnx_ir"), "10"),
    "onnx_opset": (partial(_onnx, field="max_onnx_opset"), "21"),
    "mindspore": (_MINDSPORE, "2.10.0"),
}
"""What can be imagined, with an example; they take effect in this order."""


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
    devices: Integer
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
    devices: Integer
    """That the selector matches."""
    without: Integer
    """Of them, those that can run no variant."""
    degraded: Integer
    """Those that would run it on the CPU beside an idle accelerator."""
    silent: Integer
    """Those that have not told what they are."""
    silent_names: Annotated[tuple[Name, ...], Field(max_length=NAMED)] = ()
    """Some of them, by name."""
    variants: dict[Name, int] = Field(default_factory=dict)
    """Devices by the variant that they would run; 0: it fits nowhere."""
    classes: Annotated[tuple[ClassCoverage, ...], Field(max_length=MAX_CLASSES)] = ()
    """The largest first."""
    more_classes: Integer = 0
    """That are not listed, nor counted in `without`, `degraded` and `variants`."""
