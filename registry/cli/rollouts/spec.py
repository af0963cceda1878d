"""From a command line or a file to a `RolloutSpec` or a `DeploymentPolicy`.

Waves, durations, rates, gates and policies are taken as people write them. A policy is said in the same way for one
device and for a rollout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from pydantic import ValidationError

from registry.client.errors import UsageFault
from registry.client.versions import split_version
from registry.contracts.device.deployments import DeploymentPolicy, ProbationLimits
from registry.contracts.faults import fault_lines
from registry.contracts.rollout.spec import RolloutSpec
from registry.core.rollouts import spec_texts

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
MAX_SPEC_BYTES = 4 << 20
_HINT = "registry rollout create --help shows examples; docs/rollouts.md explains every field."


_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def _said(reads: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """The same, with a UsageFault for what is not right."""

    @wraps(reads)
    def read(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        try:
            return reads(*args, **kwargs)
        except spec_texts.SpecTextError as error:
            raise UsageFault(str(error), hint=error.hint) from None

    return read


policy_body = _said(spec_texts.policy_body)
seconds = _said(spec_texts.seconds)
waves_of = _said(spec_texts.waves_of)
gate_of = _said(spec_texts.gate_of)


def policy_of(body: Mapping[str, Any]) -> DeploymentPolicy:
    """The policy. UsageFault lists every fault, unknown fields too."""
    try:
        policy = DeploymentPolicy.model_validate(body)
    except ValidationError as error:
        raise UsageFault("The policy is not valid", errors=fault_lines(error.errors())) from None
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
        faults = fault_lines(error.errors(), "rollout")
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
