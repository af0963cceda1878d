"""How a deployment is carried out, as people say it on a command line: the same for one device and for a rollout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from registry.client.errors import UsageFault
from registry.contracts.device.deployments import DeploymentPolicy, ProbationLimits

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
