"""A paho client that plays a device: presence with a will, what it says, and the desired documents that it gets."""

from __future__ import annotations

import json
import socket
import threading
import time
from datetime import datetime, timezone
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties

from registry.contracts.fit.platforms import Platform
from registry.contracts.topics import Topics
from scripts.demo.paho_session import end_session
from tests.support.programs.fleet_registry import as_json


def now() -> str:
    """As documents say it."""
    return datetime.fromtimestamp(time.time(), tz=timezone.utc).isoformat()


class MqttDevice:
    """Connected from construction to `close` or `die`."""

    def __init__(
        self,
        port: int,
        prefix: str,
        name: str,
        session: str = "s1",
        *,
        kinds: tuple[str, ...] = ("desired",),
        will: bool = True,
    ) -> None:
        self.name = name
        self.session = session
        self._topics = Topics(prefix)
        self._kinds = kinds
        self._facts_digest = "sha256:" + 64 * "0"
        self.desired: list[bytes] = []
        self.notices: list[dict[str, Any]] = []
        self.subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_socket_open = self._opened
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_message = self._received
        if will:
            death = as_json({"device": name, "online": False, "session_id": session})
            self._client.will_set(self.topic("presence"), death, qos=1, retain=True)
        self._client.connect("127.0.0.1", port, keepalive=30)
        self._client.loop_start()
        assert self.subscribed.wait(10)

    def topic(self, kind: str) -> str:
        """One of this device's topics."""
        return self._topics.device(self.name, kind)

    def say(self, kind: str, value: Any, *, retain: bool = False, properties: Properties | None = None) -> None:
        """Publish and wait for the broker; `value` may be bytes."""
        payload = value if isinstance(value, bytes) else as_json(value)
        info = self._client.publish(self.topic(kind), payload, qos=1, retain=retain, properties=properties)
        info.wait_for_publish(10)
        assert info.is_published()

    def birth(self) -> None:
        """Say that it is online."""
        self.say(
            "presence", {"device": self.name, "online": True, "session_id": self.session, "at": now()}, retain=True
        )

    def health(self, seq: int, requests: int, version: str = "1.0.0", model: str = "lenet", **more: Any) -> None:
        """A health report with these totals."""
        models = {model: {"version": version, "requests": requests, **more}}
        report = {"device": self.name, "session_id": self.session, "seq": seq, "at": now()}
        self.say("health", {**report, "window_s": 1.0, "uptime_s": 1.0, "models": models})

    def report(self, facts: dict[str, Any] | None = None, generation: int = 0) -> None:
        """What it is: with its facts, or with the digest of those that it sent last."""
        if facts is not None:
            self._facts_digest = Platform.model_validate(facts).facts_digest()
        report = {"device": self.name, "session_id": self.session, "generation": generation, "at": now()}
        more = {"facts": facts} if facts is not None else {}
        self.say("reported", {**report, "facts_digest": self._facts_digest, **more}, retain=True)

    def newest(self) -> dict[str, Any]:
        """The last desired document; empty before the first."""
        return dict(json.loads(self.desired[-1])) if self.desired and self.desired[-1] else {}

    def die(self) -> None:
        """The connection breaks as when the host loses power: the broker sends the will."""
        self._socket.shutdown(socket.SHUT_RDWR)
        end_session(self._client)

    def close(self) -> None:
        """Leave without a will."""
        end_session(self._client)

    def _opened(self, _client: Any, _data: Any, sock: socket.socket) -> None:
        self._socket = sock

    def _connected(self, client: paho.Client, *_: Any) -> None:
        client.subscribe([(self.topic(kind), 1) for kind in self._kinds])

    def _received(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        if message.topic == self.topic("notice"):
            self.notices.append(json.loads(message.payload))
        else:
            self.desired.append(bytes(message.payload))
