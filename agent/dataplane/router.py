"""Topics to models: which messages are requests, whom they are for, who looks on, and where a reply may go."""

from __future__ import annotations

from agent.dataplane.oip.plan import Binding
from agent.dataplane.slot import ModelSlot, Tap
from agent.dataplane.stats import ModelStats
from agent.worker.spec import Worker
from registry.contracts.codes import InferenceCode
from registry.contracts.topics import Topics
from registry.inference.errors import RequestError
from registry.inference.packets import text

MAX_KEPT_COUNTS = 1024
"""Withdrawn models whose totals go on when they are assigned again; when there are more, the oldest start again."""
MAX_KEPT_TOPICS = 1024
"""Response topics whose check is remembered; clients use theirs again and again."""
_UNKNOWN = "unknown"
"""The results topic's last level for models that are not assigned; their names come from outside."""


class Router:
    """Only the data thread is in here."""

    def __init__(self, topics: Topics, device: str, pools: tuple[tuple[str, str], ...] = ()) -> None:
        self.slots: dict[str, ModelSlot] = {}
        self._told = False
        """Has anything ever been assigned? Until then nobody can say that a model is unknown: desired state may be on
        its way, after the first start or after the journal was lost."""
        self._topics = topics
        self._device = device
        self._pools = {model for _, model in pools}
        self._leaving: list[ModelSlot] = []
        self.counted: dict[str, ModelStats] = {}
        """Totals of models that were withdrawn."""
        self._routes: dict[bytes, ModelSlot] = {}
        self._infer = topics.infer(device, "").encode()
        self._pool_topics = {topics.pool(model).encode() for model in self._pools}
        self._allowed: dict[bytes, bool] = {}
        self.unassigned = self._make(_UNKNOWN)
        """For requests to models that are not assigned."""

    def _make(self, model: str) -> ModelSlot:
        return ModelSlot(model, text(self._topics.results(self._device, model).encode()))

    def assign(self, model: str) -> ModelSlot:
        """The model is assigned to this device from now on."""
        self._told = True
        slot = self.slots.get(model)
        if slot is None:
            slot = self.slots[model] = self._make(model)
            slot.stats = self.counted.pop(model, slot.stats)  # a session's totals only rise
            self._routes[self._topics.infer(self._device, model).encode()] = slot
            if model in self._pools:
                self._routes[self._topics.pool(model).encode()] = slot
        return slot

    def attach(self, model: str, tap: Tap) -> None:
        """`tap` sees what the active worker of the model answers, until another one takes its place."""
        self.assign(model).tap = tap

    def detach(self, model: str, tap: Tap) -> None:
        """`tap` sees nothing any more; another one that has taken its place goes on."""
        slot = self.slots.get(model)
        if slot is not None and slot.tap is tap:
            slot.tap = None

    def rebind(self, model: str, worker: Worker, binding: Binding) -> None:
        """`worker`, if it still serves the model, goes on under another binding."""
        slot = self.slots.get(model)
        if slot is not None and slot.active is not None and slot.active.worker is worker:
            slot.active.rebind(binding)

    def withdraw(self, model: str) -> ModelSlot | None:
        """The model is not assigned any more; its requests are refused as `unknown_model`."""
        slot = self.slots.pop(model, None)
        if slot is not None:
            self._leaving.append(slot)
            if len(self.counted) >= MAX_KEPT_COUNTS:
                self.counted.pop(next(iter(self.counted)))
            self.counted[model] = slot.stats
        self._routes = {topic: kept for topic, kept in self._routes.items() if kept is not slot}
        return slot

    def live(self) -> list[ModelSlot]:
        """The assigned models, and those that were withdrawn while their worker still drains."""
        self._leaving = [slot for slot in self._leaving if slot.draining]
        return [*self.slots.values(), *self._leaving]

    def is_request_topic(self, topic: bytes) -> bool:
        """True for every topic that only clients' requests come on."""
        return topic in self._routes or topic.startswith(self._infer) or topic in self._pool_topics

    def find(self, topic: bytes) -> ModelSlot:
        """Whom a request topic is for; a slot that never serves when the model is not assigned."""
        return self._routes.get(topic) or self.unassigned

    def not_served(self, slot: ModelSlot) -> RequestError:
        """Why a slot without a worker refuses."""
        if self.slots.get(slot.model) is slot:
            return RequestError(
                InferenceCode.MODEL_NOT_READY, f"{slot.model} is assigned to {self._device} but nothing serves it yet"
            )
        if not self._told:
            return RequestError(InferenceCode.MODEL_NOT_READY, f"{self._device} has not been told yet what to serve")
        return RequestError(InferenceCode.UNKNOWN_MODEL, f"no such model is assigned to {self._device}")

    def allows_reply(self, reply_to: bytes) -> bool:
        """May a client make this agent publish there? `reply_to` has its u16 length."""
        allowed = self._allowed.get(reply_to)
        if allowed is None:
            try:
                allowed = self._topics.allows_reply(reply_to[2:].decode())
            except UnicodeDecodeError:
                allowed = False
            if len(self._allowed) >= MAX_KEPT_TOPICS:
                self._allowed.clear()
            self._allowed[reply_to] = allowed
        return allowed
