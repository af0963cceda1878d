"""The form of a new rollout: what its fields are, the spec that they say, and the command line that says the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from registry.contracts.rollout.spec import OfflinePolicy, OnFailure, RolloutSpec, WaveSpec
from registry.core.rollouts import spec_texts
from registry.core.rollouts.waves import label
from registry.errors import InvalidError
from registry.server.console.filters import command_line
from registry.server.console.forms import Form, parsed

GATE = (
    ("max_failed_pct", "Failed, at most %", "Of the devices that began. none switches it off."),
    ("max_unknown_pct", "Silent, at most %", "Of the devices that began."),
    ("min_committed_pct", "Committed, at least %", "Of the wave, without devices that are away."),
    ("min_coverage_pct", "Heard from, at least %", "Of the wave."),
    ("deadline_s", "Deadline of a wave", "As 1d, 6h. A wave that has not passed by then asks a person."),
)
_DEFAULT = RolloutSpec.model_validate({"model": "m", "version": "1", "fleet": {"selector": "*"}})
_SPEC: TypeAdapter[RolloutSpec] = TypeAdapter(RolloutSpec)
FIELDS = (
    "reference", "selector", "groups", "devices", "waves", "soak", *(name for name, _, _ in GATE), "rate",
    "max_unavailable", "probation", "shadow", "max_nan", "on_failure", "offline", "approval", "start_at", "name",
    "note", "more",
)  # fmt: skip
PLAIN: dict[str, str] = {
    **dict.fromkeys(FIELDS, ""),
    "waves": "1%,10%,100%",
    "soak": "30m,1h,10m",
    "max_failed_pct": "5",
    "max_unknown_pct": "5",
    "min_committed_pct": "90",
    "min_coverage_pct": "50",
    "deadline_s": "1d",
    "rate": "600",
    "probation": "60s",
    "on_failure": OnFailure.PAUSE.value,
    "offline": OfflinePolicy.FOLLOW_LATER.value,
}
"""What the form says at first: the defaults of a spec."""


_OPTIONS = {
    "selector": "--fleet", "waves": "--waves", "soak": "--soak", "probation": "--probation", "shadow": "--shadow",
    "max_nan": "--max-nan", "rate": "--rate", "max_unavailable": "--max-unavailable", "on_failure": "--on-failure",
    "offline": "--offline", "start_at": "--start-at", "name": "--name", "note": "--note",
}  # fmt: skip
"""Of `registry rollout create`, by the field that says the same."""


def values_of(form: Form) -> dict[str, str]:
    """What was filled in."""
    return {name: form.text(name) for name in FIELDS}


def spec_of(values: Mapping[str, str]) -> RolloutSpec:
    """What the fields say. Raises InvalidError that says what is wrong."""
    try:
        body = _body(values)
    except spec_texts.SpecTextError as error:
        raise InvalidError(str(error).removeprefix("--"), (error.hint,) if error.hint else ()) from None
    spec = parsed(_SPEC, _merged(body, _more(values["more"])), "The rollout")
    unknown = spec.unknown_fields()
    if unknown:
        raise InvalidError("The rollout has fields that this registry does not know; are they misspelt?", unknown)
    return spec


def _body(values: Mapping[str, str]) -> dict[str, Any]:
    model, at, version = values["reference"].partition("@")
    if not (model and at and version):
        raise InvalidError("Which version? Write MODEL@VERSION or MODEL@ALIAS, for example lenet@1.1.0.")
    gate = [f"{name}={values[name]}" for name, _, _ in GATE if values[name]]
    limits = {"devices_per_minute": values["rate"], "max_unavailable": values["max_unavailable"]}
    said = {
        "on_failure": values["on_failure"],
        "offline": {"policy": values["offline"]} if values["offline"] else "",
        "requires_approval": bool(values["approval"]),
        "start_at": values["start_at"],
        "name": values["name"],
        "gate": spec_texts.gate_of(gate),
        "policy": spec_texts.policy_body(
            None, values["probation"] or None, values["max_nan"] or None, values["shadow"] or None
        ),
        "waves": spec_texts.waves_of(values["waves"], values["soak"] or None) if values["waves"] else "",
        "rate": {key: None if value == "none" else value for key, value in limits.items() if value},
    }
    return {
        "model": model,
        "version": version,
        "fleet": {"selector": values["selector"], "groups": _words(values["groups"]),
                  "devices": _words(values["devices"])},
        "note": values["note"],
        **{key: value for key, value in said.items() if value not in ("", {})},
    }  # fmt: skip


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _more(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"More fields: this is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise InvalidError('More fields: a JSON object is expected, as {"hold": "none"}.')
    return found


def _merged(body: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`more` over the body, field by field."""
    merged = dict(body)
    for key, value in more.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def values_from(spec: RolloutSpec, version: str) -> dict[str, str]:
    """The form of a rollout like this one, without its name; what has no field of its own stands in `more`."""
    values = {
        **PLAIN,
        "reference": f"{spec.model}@{version}",
        "selector": spec.fleet.selector,
        "groups": ", ".join(spec.fleet.groups),
        "devices": " ".join(spec.fleet.devices),
        "waves": ",".join(_wave_text(wave) for wave in spec.waves),
        "soak": ",".join(_span(wave.soak_s) for wave in spec.waves),
        "rate": _number(spec.rate.devices_per_minute),
        "max_unavailable": "" if spec.rate.max_unavailable is None else str(spec.rate.max_unavailable),
        "probation": _span(spec.policy.probation_s),
        "shadow": f"{100 * spec.policy.shadow.share:g}%" if spec.policy.shadow else "",
        "max_nan": f"{100 * spec.policy.probation.max_nan_share:g}%",
        "on_failure": spec.on_failure.value,
        "offline": spec.offline.policy.value,
        "approval": "yes" if spec.requires_approval else "",
        "note": spec.note,
    }
    for name, _, _ in GATE:
        limit = getattr(spec.gate, name)
        values[name] = _span(limit) if name.endswith("_s") else _number(limit)
    values["more"] = _rest(spec, values)
    return values


def _rest(spec: RolloutSpec, values: Mapping[str, str]) -> str:
    """As JSON: the fields in which the spec differs from what the other fields say."""
    said = spec_of({**values, "more": ""}).to_json()
    wanted = spec.model_copy(update={"name": None, "start_at": None, "valid_until": None, "version": said["version"]})
    rest = _differing(said, wanted.to_json())
    return json.dumps(rest, indent=1) if rest else ""


def _differing(said: Any, wanted: Any) -> Any:
    if not isinstance(said, dict) or not isinstance(wanted, dict):
        return wanted
    return {key: _differing(said.get(key), value) for key, value in wanted.items() if said.get(key) != value}


def _wave_text(wave: WaveSpec) -> str:
    return str(wave.count) if wave.count is not None else label(wave)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def command_of(values: Mapping[str, str]) -> str:
    """`registry rollout create ...`; with `more` the file that `apply` takes."""
    if values["more"]:
        return command_line("registry", "rollout", "apply", "-f", f"{values['name'] or 'rollout'}.json")
    words: list[str] = ["registry", "rollout", "create", values["reference"]]
    for name, option in _OPTIONS.items():
        if values[name] and (name in ("selector", "waves", "soak") or values[name] != PLAIN[name]):
            words += [option, values[name]]
    for name, option in (("groups", "--group"), ("devices", "--device")):
        for word in _words(values[name]):
            words += [option, word]
    for name, _, _ in GATE:
        if values[name] and values[name] != PLAIN[name]:
            words += ["--gate", f"{name}={values[name]}"]
    return command_line(*words, *(["--approval"] if values["approval"] else []))
