"""What a device sent, checked: from bytes on a topic, or a body over HTTP, to one value for the registry's writer.

Everything is bounded here; what passes can be stored. Fields that this registry does not know are not kept, but those
of the facts of a host: their digest covers them, and a newer agent's would never be had.
A message that does not pass is poison: the caller counts
and drops it. Of a recorded result it is read what it says of itself: version, request id, error code. It is Open
Inference Protocol JSON, or its binary extension with the header's length in a user property or behind BINARY_MAGIC.
Whatever else comes as a result is kept as bytes with nothing known about it: never refused, never run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from registry.contracts.codes import AgentCode
from registry.contracts.device.messages import MAX_CONTROL_BYTES, MAX_GENERATION, Event, Health, Presence, Reported
from registry.contracts.tensors import BINARY_MAGIC, CONTENT_BINARY, CONTENT_JSON, MAX_HEADER_BYTES
from registry.contracts.wire import VersionName

MAX_READ_BYTES = 1 << 20
"""A longer JSON result is not even looked into."""
MAX_BODY_BYTES = 64 << 10
"""A longer result is kept as its metadata with a note."""
_VERSION: TypeAdapter[str] = TypeAdapter(VersionName)


@dataclass(frozen=True)
class Result:
    """One result as it is stored. `body` is None when it was too long; `note` says so."""

    content_type: str
    version: str | None
    request_id: str
    code: str
    body: bytes | None
    size: int
    header_length: int | None
    """Bytes of the JSON header at the start of a binary body, after the magic if there is one."""
    note: str = ""
    rollout: str = ""
    """Id of the rollout that put the version there; empty: none did, or the result does not say."""


def describe(payload: bytes, content_type: str = "", header_length: str = "") -> Result:
    """Reads what can be read; nothing in `payload` makes it fail."""
    start, length = _header(payload, header_length)
    binary = length is not None
    header = _object(payload[start : start + length] if length is not None else payload[:MAX_READ_BYTES])
    too_long = len(payload) > MAX_BODY_BYTES
    return Result(
        content_type=content_type[:128] or _guess(binary, bool(header), payload),
        version=_version(header),
        request_id=_text(header, "id") or "",
        code=_text(header, "code") or "",
        body=None if too_long else payload,
        size=len(payload),
        header_length=length,
        rollout=_text(_parameters(header), "rollout") or "",
        note=f"{len(payload)} bytes; only results up to {MAX_BODY_BYTES} bytes are kept" if too_long else "",
    )


def _header(payload: bytes, header_length: str) -> tuple[int, int | None]:
    """Where the JSON header starts and how long it is; (0, None) when the payload is not binary."""
    if payload.startswith(BINARY_MAGIC) and len(payload) >= 8:
        start, length = 8, int.from_bytes(payload[4:8], "little")
    elif header_length.isascii() and header_length.isdigit() and len(header_length) <= 9:
        start, length = 0, int(header_length)
    else:
        return 0, None
    fits = 0 < length <= min(MAX_HEADER_BYTES, len(payload) - start)
    return (start, length) if fits else (0, None)


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(header: dict[str, Any], key: str) -> str | None:
    value = header.get(key)
    return value[:64] if isinstance(value, str) else None


def _parameters(header: dict[str, Any]) -> dict[str, Any]:
    found = header.get("parameters")
    return found if isinstance(found, dict) else {}


def _version(header: dict[str, Any]) -> str | None:
    try:
        return _VERSION.validate_python(header.get("model_version"))
    except ValidationError:
        return None


def _guess(binary: bool, is_object: bool, payload: bytes) -> str:
    if binary or not (is_object or payload[:1] == b"{"):
        return CONTENT_BINARY
    return CONTENT_JSON


KINDS = ("presence", "reported", "events", "health", "results")
"""The kinds of topic that the registry reads."""
MAX_COUNT = 1 << 53
"""A counter above this is not one: JSON readers lose its last digits, databases refuse it."""
MAX_ID_CHARS = 64
_TYPES: dict[str, type[Presence | Reported | Event | Health]] = {
    "presence": Presence,
    "reported": Reported,
    "events": Event,
    "health": Health,
}


@dataclass(frozen=True)
class Recorded:
    """A result on a device's results topic."""

    model: str
    result: Result


@dataclass(frozen=True)
class DeviceMessage:
    """One thing that a device said."""

    device: str
    at: datetime
    """When the registry got it."""
    body: Presence | Reported | Event | Health | Recorded
    retained: bool = False
    """The broker had kept it: nobody knows since when, so it is no sign of life."""
    text: str = ""
    """Canonical JSON of `body`, as it is stored; empty for a result."""

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return next((kind for kind, type_ in _TYPES.items() if isinstance(self.body, type_)), "results")


def is_sign_of_life(intake: DeviceMessage) -> bool:
    """Did the device itself say this just now? A will is the broker's, and nobody knows the age of what it kept."""
    return not intake.retained and not (isinstance(intake.body, Presence) and not intake.body.online)


def two_agents(intake: DeviceMessage, sessions: Sequence[str]) -> DeviceMessage:
    """The registry's own event for the device's history: two agents have its name."""
    text = (
        f"Two agents run under the name {intake.device!r}, the sessions {' and '.join(s[:16] for s in sessions)}: each "
        "takes the connection from the other. Give one of them another name, or stop it."
    )
    event = Event(
        event_id=f"two-agents-{intake.at.timestamp():.6f}",
        seq=0,
        at=intake.at,
        kind="agent",
        phase="presence",
        code=AgentCode.TWO_AGENTS,
        message=text,
    )
    return checked(intake.device, event, intake.at)


def read_message(
    device: str,
    kind: str,
    model: str,
    payload: bytes,
    at: datetime,
    *,
    retained: bool = False,
    content_type: str = "",
    header_length: str = "",
) -> DeviceMessage:
    """Check a message from a topic.

    Args:
        device, kind, model: The topic's levels; `model` is empty but for results.
        header_length: The user property of a binary result.

    Raises:
        ValueError: it is not what its topic promises; the text says why.
    """
    if (kind == "results") != bool(model):
        raise ValueError(f"not a topic of the registry: {kind!r}")
    if kind == "results":
        return DeviceMessage(device, at, Recorded(model, describe(payload, content_type, header_length)), retained)
    if kind not in _TYPES:
        raise ValueError(f"not a topic of the registry: {kind!r}")
    if len(payload) > MAX_CONTROL_BYTES:
        raise ValueError(f"{len(payload)} bytes; {MAX_CONTROL_BYTES} are the most")
    body = _TYPES[kind].model_validate_json(payload, extra="ignore")
    if isinstance(body, Reported) and body.facts is not None:
        body = body.model_copy(update={"facts": Reported.model_validate_json(payload).facts})
    return checked(device, body, at, retained=retained)


def known(body: Presence | Reported | Event | Health) -> Presence | Reported | Event | Health:
    """Without the fields that this registry does not know, but those of facts."""
    if not body.unknown_fields():
        return body
    kept = type(body).model_validate(body.model_dump(by_alias=True), extra="ignore")
    if isinstance(body, Reported) and body.facts is not None:
        return kept.model_copy(update={"facts": body.facts})
    return kept


def checked(
    device: str, body: Presence | Reported | Event | Health, at: datetime, *, retained: bool = False
) -> DeviceMessage:
    """Check what pydantic cannot: that it speaks of this device, and that it can be stored.

    Raises:
        ValueError: another device's name, NaN, an id or a count beyond its bounds.
    """
    if not isinstance(body, Event) and body.device != device:
        raise ValueError(f"device {device!r} speaks for {body.device!r}")
    if not isinstance(body, Event) and not 0 < len(body.session_id) <= MAX_ID_CHARS:
        raise ValueError(f"a session id has 1 to {MAX_ID_CHARS} characters")
    if isinstance(body, Reported) and body.generation > MAX_GENERATION:
        raise ValueError(f"a generation over {MAX_GENERATION}")
    if isinstance(body, Health):
        counts = [body.seq, *(m.requests for m in body.models.values())]
        counts += [count for m in body.models.values() for count in m.errors.values()]
        durations = [each for m in body.models.values() for each in (m.latency, m.queue_wait, m.run, m.decode)]
        counts += [count for each in durations for count in each.counts]
        if max(*counts, *(each.sum_s for each in durations), 0) > MAX_COUNT:
            raise ValueError(f"a count over {MAX_COUNT}")
    text = body.canonical()
    if len(text) > MAX_CONTROL_BYTES:
        raise ValueError(f"{len(text)} bytes; {MAX_CONTROL_BYTES} are the most")
    return DeviceMessage(device, at, body, retained, text.decode())
