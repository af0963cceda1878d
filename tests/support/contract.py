"""docs/asyncapi.json and docs/schemas as a judge: which message of the contract is this, if any?"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from registry.contracts.tensors import BINARY_MAGIC, HEADER_LENGTH_PROPERTY
from registry.contracts.wire import Wire
from scripts.lib.asyncapi import SCHEMAS
from tests.support.paths import ROOT


@dataclass(frozen=True)
class Sent:
    """A message as a subscriber got it."""

    topic: str
    payload: bytes
    content_type: str = ""
    header_length: int | None = None
    """Of the user property."""


@dataclass
class Contract:
    """`judge` messages, then look at `seen` and `faults`."""

    seen: set[str] = field(default_factory=set)
    """Names of messages in the document."""
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.document: dict[str, Any] = json.loads((ROOT / "docs" / "asyncapi.json").read_text())
        self._messages = self.document["components"]["messages"]
        self._channels = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(channel["address"]))), list(channel["messages"]))
            for channel in self.document["channels"].values()
            if channel["address"] is not None
        ]
        self._reply = list(self.document["channels"]["reply"]["messages"])
        self._judges = {
            name: jsonschema.Draft7Validator(json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text()))
            for name in SCHEMAS
        }

    def judge(self, sent: Sent) -> None:
        """Notes which message it is, or what is wrong with it."""
        names = next((names for pattern, names in self._channels if pattern.fullmatch(sent.topic)), self._reply)
        head, form = _form(sent)
        found = []
        why = [f"{sent.topic}: none of {names} has the form {form}"]
        for name in names:
            message = self._messages[name]
            if _form_of(name, message) != form:
                continue
            schema = message.get("x-header", message["payload"]).get("schema", {}).get("$ref", "")
            faults = self.faults_of(schema.removeprefix("./schemas/").removesuffix(".json"), head) if schema else []
            if faults:
                why += [f"{sent.topic} as {name}: {fault}" for fault in faults]
            else:
                found.append(name)
        if len(found) == 1:
            self.seen.add(found[0])
        else:
            self.faults += [f"{sent.topic} may be {found}"] if found else why

    def faults_of(self, schema: str, text: bytes) -> list[str]:
        """What is wrong with a document, and members that the contract does not know."""
        try:
            value = json.loads(text or b"{}")
        except ValueError as error:
            return [str(error)]
        faults = [f"{error.json_path}: {error.message}" for error in self._judges[schema].iter_errors(value)]
        if not faults:
            kind: type[Wire] = SCHEMAS[schema]
            faults = [f"{name} is not in the contract" for name in kind.model_validate(value).unknown_fields()]
        return faults


class Recorder:
    """Everything that is published on a broker on loopback, from construction to `close`."""

    def __init__(self, port: int, stop: Callable[[mqtt.Client], None]) -> None:
        """`stop` ends a paho client."""
        self.sent: list[Sent] = []
        self._stop = stop
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._received
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(60)

    def _received(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        properties = message.properties
        pairs = dict(getattr(properties, "UserProperty", ()))
        length = pairs.get(HEADER_LENGTH_PROPERTY)
        kind = getattr(properties, "ContentType", "")
        self.sent.append(Sent(message.topic, bytes(message.payload), kind, int(length) if length else None))

    def close(self) -> None:
        """Disconnects."""
        self._stop(self._client)


def _form(sent: Sent) -> tuple[bytes, str]:
    """(the JSON of it, how it is framed)."""
    payload, start = sent.payload, len(BINARY_MAGIC) + 4
    if payload.startswith(BINARY_MAGIC):
        return payload[start : start + int.from_bytes(payload[start - 4 : start], "little")], "self-contained"
    if sent.header_length is not None:
        return payload[: sent.header_length], "binary"
    if sent.content_type.startswith("image/"):
        return b"", sent.content_type
    if payload.startswith((b"\x89PNG", b"\xff\xd8")):  # MQTT 3.1.1 has no content type
        return b"", "image/png" if payload.startswith(b"\x89PNG") else "image/jpeg"
    return payload, "JSON"


def _form_of(name: str, message: dict[str, Any]) -> str:
    if "x-header" in message:
        return "self-contained" if name.endswith("SelfContained") else "binary"
    return "JSON" if message["contentType"] == "application/json" else str(message["contentType"])
