"""What `agent doctor` tries at the broker: to connect as the agent does, to have a message of the device passed on, to
find what the registry retained for it.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt

from agent.adapters.network.mqtt import SessionSettings
from agent.config.settings import AgentConfig, secret_reader
from registry.contracts.topics import Topics

ANSWER_S = 10.0
RETAINED_S = 3.0
"""For a retained message, after its subscription was granted."""


class BrokerVisit:
    """One connection, driven by the calling thread, each step with a deadline.

    Its client id is another than the agent's, whose connection must not be taken over.
    """

    def __init__(self, config: AgentConfig, settings: SessionSettings) -> None:
        self._settings = settings
        topics = Topics(config.mqtt.prefix)
        self.topics = topics.device(config.device, "x").rpartition("/")[0]
        """The levels before this device's topics."""
        self._desired = topics.device(config.device, "desired")
        self._own = f"{self.topics}/doctor"
        """Nobody else reads or writes this one."""
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,  # type: ignore[attr-defined]
            client_id=f"{self._settings.client_id}-doctor-{os.getpid()}",
            protocol=mqtt.MQTTv5 if self._settings.v5 else mqtt.MQTTv311,
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._refused = ""
        self._heard: dict[str, bytes] = {}

    def connect(self) -> str:
        """Empty when the broker welcomes us; else why not. Raises what the network, TLS or the settings have."""
        broker, tls, client = self._settings.broker, self._settings.broker.tls_files(), self._client
        if broker.username is not None:
            client.username_pw_set(broker.username, secret_reader(broker.password, broker.password_file)())
        if tls is not None:
            client.tls_set_context(tls.context())
        client.on_connect = lambda _c, _u, _f, reason, _p: self._answers.put(str(reason) if reason.is_failure else "")
        client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self._answers.put(
            "; ".join(str(reason) for reason in reasons if reason.is_failure)
        )
        client.on_publish = self._published
        client.on_message = lambda _c, _u, message: self._heard.update({message.topic: bytes(message.payload)})
        client.connect(broker.host, broker.port, keepalive=10)
        return self._answer("CONNECT")

    def pass_on(self) -> str:
        """Empty when a message to a topic of this device comes back; else why not."""
        self._client.subscribe(self._own, qos=1)
        fault = self._answer("SUBSCRIBE")
        if fault:
            return f"the subscription to {self._own} is refused: {fault}"
        payload = os.urandom(8)
        self._client.publish(self._own, payload, qos=1)
        self._until(lambda: bool(self._refused) or self._heard.get(self._own) == payload)
        if self._refused:
            return f"a message to {self._own} is refused: {self._refused}"
        return "" if self._heard.get(self._own) == payload else f"a message to {self._own} does not come back"

    def finds_desired(self) -> bool:
        """Is what the registry wants of this device retained here?"""
        self._client.subscribe(self._desired, qos=1)
        return self._answer("SUBSCRIBE") == "" and self._until(lambda: self._desired in self._heard, RETAINED_S)

    def leave(self) -> None:
        """Says goodbye."""
        self._client.disconnect()

    def _published(self, _client: mqtt.Client, _data: Any, _mid: int, reason: Any, _properties: Any) -> None:
        self._refused = str(reason) if reason.is_failure else ""

    def _answer(self, what: str) -> str:
        return self._answers.get() if self._until(lambda: not self._answers.empty()) else f"no answer to {what}"

    def _until(self, true: Callable[[], bool], seconds: float = ANSWER_S) -> bool:
        deadline = time.monotonic() + seconds
        while not true() and time.monotonic() < deadline:
            self._client.loop(timeout=0.2)
        return true()
