"""From a command line or a file to a `RolloutSpec` or a `DeploymentPolicy`.

Waves, durations, rates, gates and policies are taken as people write them. A policy is said in the same way for one
device and for a rollout.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from registry.client.errors import UsageFault
from registry.client.versions import split_version
from registry.contracts.device.deployments import DeploymentPolicy, ProbationLimits
from registry.contracts.rollout.spec import Gate, RolloutSpec

POLICY_PANEL = "How the device carries it out"
PolicyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="KEY=VALUE",
        help="Any field: probation.max_nan_share=0.1, strategy=beside, shadow.share=0.2. May be repeated.",
        rich_help_panel=POLICY_PANEL,
    ),
]
ProbationOption = Annotated[
    str | None,
    typer.Option("--probation", help="How long a device watches itself: 60s, 10m.", rich_help_panel=POLICY_PANEL),
]
MaxNanOption = Annotated[
    str | None,
    typer.Option(
        "--max-nan",
        metavar="SHARE",
        help="The largest share of answers with NaN or infinity beyond that of the previous version: 5%.",
        rich_help_panel=POLICY_PANEL,
    ),
]
ShadowOption = Annotated[
    str | None,
    typer.Option(
        "--shadow",
        help="First compare the version on copies of this share of live requests: 10%.",
        rich_help_panel=POLICY_PANEL,
    ),
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


MAX_SPEC_BYTES = 4 << 20
_HINT = "registry rollout create --help shows examples; docs/rollouts.md explains every field."


def policy_body(
    policy: Sequence[str] | None, probation: str | None, max_nan: str | None, shadow: str | None
) -> dict[str, Any]:
    """The policy's fields that were given, for `DeploymentPolicy` to check. Raises UsageFault."""
    body: dict[str, Any] = {}
    for text in policy or ():
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise UsageFault(f"--policy {text!r} is not KEY=VALUE", hint="--policy probation.max_nan_share=0.1")
        _put(body, key.split("."), _value(value))
    if probation is not None:
        _put(body, ["probation_s"], seconds(probation, "--probation"))
    if max_nan is not None:
        _put(body, ["probation", "max_nan_share"], percent(max_nan, "--max-nan") / 100)
    if shadow is not None:
        _put(body, ["shadow", "share"], percent(shadow, "--shadow") / 100)
    return body


def _put(body: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *outer, last = path
    for name in outer:
        inner = body.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageFault(f"{'.'.join(path)} and {name} cannot both be given")
        body = inner
    if last in body:
        raise UsageFault(f"{'.'.join(path)} is given twice")
    body[last] = value


def _value(text: str) -> Any:
    """`null`, `true` and `false` as in JSON; numbers stay text, which the field's own type reads."""
    return {"null": None, "none": None, "true": True, "false": False}.get(text.strip().lower(), text.strip())


def seconds(text: str, option: str) -> float:
    """`90s`, `30m`, `2h`, `1d` or plain seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise UsageFault(f"{option}: {text!r} is not a duration", hint="Examples: 90s, 30m, 2h, 1d.")
    return float(found[1]) * _UNITS[found[2] or "s"]


def percent(text: str, option: str) -> float:
    """`10%`, or plain 10."""
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        raise UsageFault(f"{option}: {text!r} is not a percentage", hint="Example: 10%.") from None


def policy_of(body: Mapping[str, Any]) -> DeploymentPolicy:
    """The policy. UsageFault lists every fault, unknown fields too."""
    try:
        policy = DeploymentPolicy.model_validate(body)
    except ValidationError as error:
        faults = tuple(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UsageFault("The policy is not valid", errors=faults) from None
    if unknown := policy.unknown_fields():
        known = ", ".join(
            (*DeploymentPolicy.model_fields, *(f"probation.{name}" for name in ProbationLimits.model_fields))
        )
        raise UsageFault(f"A policy has no field {unknown[0]!r}", hint=f"It has: {known}")
    return policy


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]


def spec_of(
    reference: str,
    *,
    fleet: str | None = None,
    groups: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    waves: str | None = None,
    soak: str | None = None,
    gate: Sequence[str] | None = None,
    rate: float | None = None,
    max_unavailable: int | None = None,
    policy: dict[str, Any] | None = None,
    on_failure: str | None = None,
    offline: str | None = None,
    approval: bool = False,
    start_at: str | None = None,
    name: str | None = None,
    note: str = "",
) -> RolloutSpec:
    """The spec that the options of `rollout create` and `rollout plan` say; `policy` as `policy_body` gives it.

    What was not given keeps its safe default. UsageFault says what is wrong.
    """
    model, version = split_version(reference)
    limits = {"devices_per_minute": rate, "max_unavailable": max_unavailable}
    said = {
        "waves": None if waves is None and soak is None else waves_of(waves or "1%,10%,100%", soak),
        "gate": gate_of(gate) if gate else None,
        "policy": policy or None,
        "on_failure": on_failure,
        "offline": {"policy": offline} if offline else None,
        "requires_approval": approval or None,
        "start_at": start_at,
        "name": name,
    }
    body = {
        "model": model,
        "version": version,
        "fleet": {"selector": fleet or "", "groups": list(groups or ()), "devices": list(devices or ())},
        "rate": {key: value for key, value in limits.items() if value is not None},
        "note": note,
    }
    return checked(body | {key: value for key, value in said.items() if value is not None})


def checked(body: Any) -> RolloutSpec:
    """The body as a spec. UsageFault lists every fault of it."""
    try:
        return RolloutSpec.model_validate(body)
    except ValidationError as error:
        faults = tuple(
            f"{'.'.join(str(part) for part in fault['loc']) or 'rollout'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        )
        raise UsageFault("The rollout is not valid", hint=_HINT, errors=faults) from None


def read_spec(file: Path) -> RolloutSpec:
    """A spec from a TOML or JSON file; `-` is standard input (JSON). UsageFault: unreadable, or not a spec."""
    try:
        data = sys.stdin.buffer.read(MAX_SPEC_BYTES + 1) if str(file) == "-" else _bounded(file)
        if len(data) > MAX_SPEC_BYTES:
            raise UsageFault(f"{file} is longer than {MAX_SPEC_BYTES} bytes")
        text = data.decode()
        body = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageFault(f"{file} cannot be read as a rollout: {error}", hint=_HINT) from None
    spec = checked(body)
    if spec.name is None:
        raise UsageFault(f"{file}: a rollout that is applied needs a name", hint="It is found again by its name.")
    if spec.model_extra:
        raise UsageFault(f"{file}: unknown keys: {', '.join(sorted(spec.model_extra))}", hint=_HINT)
    return spec


def _bounded(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(MAX_SPEC_BYTES + 1)


def waves_of(text: str, soak: str | None) -> list[dict[str, Any]]:
    """`1%,50,ring=early,100%` with `30m,1h,10m` (or one soak for all)."""
    parts = [part.strip() for part in text.split(",")]
    soaks = [seconds(part, "--soak") for part in soak.split(",")] if soak else []
    if len(soaks) not in (0, 1, len(parts)):
        raise UsageFault(f"--soak has {len(soaks)} times for {len(parts)} waves", hint="Give one for all, or one each.")
    return [{**_wave(part), **({"soak_s": soaks[min(i, len(soaks) - 1)]} if soaks else {})} for i, part in
            enumerate(parts)]  # fmt: skip


def _wave(text: str) -> dict[str, Any]:
    if text.endswith("%"):
        return {"percent": percent(text, "--waves")}
    if text.isdecimal():
        return {"count": int(text)}
    if "=" in text or text.startswith("!"):
        return {"selector": text}
    raise UsageFault(f"--waves: {text!r} is not a wave", hint="A wave is 10% or 50 (devices) or ring=canary (a label).")


def gate_of(pairs: Sequence[str]) -> dict[str, Any]:
    """`max_failed_pct=2` and the like; `none` switches a rule off."""
    gate: dict[str, Any] = {}
    plain = sorted(set(Gate.model_fields) - {"health", "accuracy", "shadow"})
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in plain:
            raise UsageFault(f"--gate: {pair!r}", hint=f"It is KEY=VALUE, KEY one of {', '.join(plain)}")
        gate[key] = None if value == "none" else seconds(value, "--gate") if key.endswith("_s") else value
    return gate
