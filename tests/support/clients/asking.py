"""A client that asks over MQTT, as a user's program would: paho, a reply topic of its own, correlation data."""

from __future__ import annotations

import itertools
import json
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from registry.contracts.tensors import HEADER_LENGTH_PROPERTY
from scripts.demo.paho_session import end_session

_numbers = itertools.count()


@dataclass
class Answer:
    """One reply."""

    topic: str
    payload: bytes
    qos: int
    correlation: bytes = b""
    content_type: str = ""
    header_length: int | None = None

    @property
    def head(self) -> dict[str, Any]:
        """The JSON part."""
        found: dict[str, Any] = json.loads(self.payload[: self.header_length])
        return found

    def tensor(self) -> NDArray[np.float32]:
        """The binary tensor after the header."""
        return np.frombuffer(self.payload[self.header_length :], np.float32)


def binary_request(x: NDArray[np.float32], *, id_: str = "", rows: int = 1) -> tuple[bytes, int]:
    """(payload, header length) of a request for tensor `x` of [rows, n] in the binary extension."""
    header = {
        **({"id": id_} if id_ else {}),
        "inputs": [
            {
                "name": "x",
                "shape": [rows, x.size // rows],
                "datatype": "FP32",
                "parameters": {"binary_data_size": x.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    raw = json.dumps(header, separators=(",", ":")).encode()
    return raw + x.tobytes(), len(raw)


@dataclass
class Asker:
    """Connects on construction, to loopback. `wait` has a deadline; `close` it at the end."""

    port: int
    topic: str
    protocol: int = mqtt.MQTTv5
    listen: tuple[str, ...] = ()
    """More topics to subscribe to."""
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = f"asker-{os.getpid()}-{next(_numbers)}"
        self.reply_topic = f"replies/{name}"
        self._news = threading.Condition()
        self._ready = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=self.protocol)
        self.client.max_inflight_messages_set(0)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()
        if not self._ready.wait(10):
            raise TimeoutError("no SUBACK")

    def _on_connect(self, *_: Any) -> None:
        self.client.subscribe([(topic, 1) for topic in (self.reply_topic, *self.listen)])

    def _on_message(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        answer = Answer(message.topic, bytes(message.payload), message.qos)
        properties = message.properties
        if properties is not None:
            answer.correlation = getattr(properties, "CorrelationData", b"")
            answer.content_type = getattr(properties, "ContentType", "")
            for key, value in getattr(properties, "UserProperty", ()):
                if key == HEADER_LENGTH_PROPERTY:
                    answer.header_length = int(value)
        with self._news:
            self.answers.append(answer)
            self._news.notify_all()

    def ask(
        self,
        payload: bytes,
        *,
        qos: int = 1,
        correlation: bytes = b"",
        header_length: int | None = None,
        reply_to: str | None = None,
        content_type: str = "",
        expiry: int | None = None,
        topic: str = "",
        retain: bool = False,
        extra: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Sends one request; `reply_to` "" leaves the response topic out."""
        properties = None
        if self.protocol == mqtt.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)
            if reply_to != "":
                properties.ResponseTopic = reply_to or self.reply_topic
            if correlation:
                properties.CorrelationData = correlation
            if content_type:
                properties.ContentType = content_type
            if expiry is not None:
                properties.MessageExpiryInterval = expiry
            pairs = list(extra)
            if header_length is not None:
                pairs.append((HEADER_LENGTH_PROPERTY, str(header_length)))
            if pairs:
                properties.UserProperty = pairs
        self.client.publish(topic or self.topic, payload, qos, retain, properties=properties)

    def wait(self, count: int = 1, seconds: float = 60.0) -> list[Answer]:
        """Until `count` answers have come in all; TimeoutError says how many there are."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.answers) >= count, seconds):
                raise TimeoutError(f"{len(self.answers)} of {count} answers: {self.answers[-3:]}")
            return list(self.answers)

    def one(self, payload: bytes, *, seconds: float = 60.0, **how: Any) -> Answer:
        """Asks and waits for the next answer."""
        before = len(self.answers)
        self.ask(payload, **how)
        return self.wait(before + 1, seconds)[before]

    def close(self) -> None:
        """Disconnects and ends its thread."""
        end_session(self.client)
