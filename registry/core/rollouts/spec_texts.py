"""From what people write to the fields of a `RolloutSpec` or a `DeploymentPolicy`: waves, durations, gates, policies.

For the command line and for forms. Pure; what it makes is checked by the classes themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from registry.contracts.rollout.spec import Gate

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class SpecTextError(ValueError):
    """A text says none of what it should; the message begins with the option's name. `hint`: what it may look like."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


def policy_body(
    policy: Sequence[str] | None, probation: str | None, max_nan: str | None, shadow: str | None
) -> dict[str, Any]:
    """The policy's fields that were given, for `DeploymentPolicy` to check. Raises SpecTextError."""
    body: dict[str, Any] = {}
    for text in policy or ():
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise SpecTextError(f"--policy {text!r} is not KEY=VALUE", "--policy probation.max_nan_share=0.1")
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
            raise SpecTextError(f"{'.'.join(path)} and {name} cannot both be given")
        body = inner
    if last in body:
        raise SpecTextError(f"{'.'.join(path)} is given twice")
    body[last] = value


def _value(text: str) -> Any:
    """`null`, `true` and `false` as in JSON; numbers stay text, which the field's own type reads."""
    return {"null": None, "none": None, "true": True, "false": False}.get(text.strip().lower(), text.strip())


def seconds(text: str, option: str) -> float:
    """`90s`, `30m`, `2h`, `1d` or plain seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise SpecTextError(f"{option}: {text!r} is not a duration", "Examples: 90s, 30m, 2h, 1d.")
    return float(found[1]) * _UNITS[found[2] or "s"]


def percent(text: str, option: str) -> float:
    """`10%`, or plain 10."""
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        raise SpecTextError(f"{option}: {text!r} is not a percentage", "Example: 10%.") from None


def waves_of(text: str, soak: str | None) -> list[dict[str, Any]]:
    """`1%,50,ring=early,100%` with `30m,1h,10m` (or one soak for all)."""
    parts = [part.strip() for part in text.split(",")]
    soaks = [seconds(part, "--soak") for part in soak.split(",")] if soak else []
    if len(soaks) not in (0, 1, len(parts)):
        raise SpecTextError(f"--soak has {len(soaks)} times for {len(parts)} waves", "Give one for all, or one each.")
    return [{**_wave(part), **({"soak_s": soaks[min(i, len(soaks) - 1)]} if soaks else {})} for i, part in
            enumerate(parts)]  # fmt: skip


def _wave(text: str) -> dict[str, Any]:
    if text.endswith("%"):
        return {"percent": percent(text, "--waves")}
    if text.isdecimal():
        return {"count": int(text)}
    if "=" in text or text.startswith("!"):
        return {"selector": text}
    raise SpecTextError(f"--waves: {text!r} is not a wave", "A wave is 10% or 50 (devices) or ring=canary (a label).")


def gate_of(pairs: Sequence[str]) -> dict[str, Any]:
    """`max_failed_pct=2` and the like; `none` switches a rule off."""
    gate: dict[str, Any] = {}
    plain = sorted(set(Gate.model_fields) - {"health", "accuracy", "shadow"})
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in plain:
            raise SpecTextError(f"--gate: {pair!r}", f"It is KEY=VALUE, KEY one of {', '.join(plain)}")
        gate[key] = None if value == "none" else seconds(value, "--gate") if key.endswith("_s") else value
    return gate
