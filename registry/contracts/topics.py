"""The MQTT topics, under a prefix that one fleet owns on its broker.

| topic | written by | QoS, retained |
|---|---|---|
| `<p>/devices/{device}/presence` | agent, and its will | 1, retained |
| `<p>/devices/{device}/desired` | registry | 1, retained |
| `<p>/devices/{device}/notice` | registry | 1 |
| `<p>/devices/{device}/reported` | agent | 1, retained |
| `<p>/devices/{device}/events` | agent | 1 |
| `<p>/devices/{device}/health` | agent | 1 |
| `<p>/devices/{device}/infer/{model}` | client | 0 or 1 |
| `<p>/devices/{device}/results/{model}` | agent | 1 |
| `<p>/devices/{device}/metadata` | client | 0 or 1 |
| `<p>/devices/{device}/metadata/{model}` | client | 0 or 1 |
| `<p>/infer/{model}` | client, taken through `$share/{pool}/` | 0 or 1 |
| `<p>/metadata/{model}` | client, to every agent of a pool with this model | 0 or 1 |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_PREFIX = "modelfleet/v1"
REPLIES = "modelfleet-replies"
"""First level of the topics for answers, outside of every fleet's tree. Where the broker knows users, the next level is
the name of who asked."""
NAME = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
"""Of a device, a model or a pool: it is one level of a topic (`registry.contracts.wire` says more)."""
MAX_TOPIC_BYTES = 1024
"""The longest response topic that an agent will publish to."""
MAX_TOPIC_LEVELS = 64
"""And its most levels. Mosquitto ends a connection that publishes to more than 200, EMQX to more than 128."""
_UNSENDABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff#+]")
"""Wildcards; NUL and surrogates, which no MQTT string may hold; control and non-characters, for which a broker may
end the connection (MQTT 5.0, 1.5.4). Of the non-characters, those above U+FFFF are looked at by number."""


_ANY_FLEET = DEFAULT_PREFIX.partition("/")[0]
_KINDS = "presence|desired|notice|reported|events|health|infer|results|metadata"
_OF_A_DEVICE = re.compile(rf"/devices/[^/]+/(?:{_KINDS})(?:/|\Z)")


@dataclass(frozen=True)
class Topics:
    """Builds the topics of one fleet."""

    prefix: str = DEFAULT_PREFIX
    """First levels of every topic; one fleet owns what is below it."""

    def __post_init__(self) -> None:
        levels = self.prefix.split("/")
        if not all(levels) or self.prefix.startswith("$") or any(c in self.prefix for c in "+#\0"):
            raise ValueError(f"MQTT prefix {self.prefix!r}: levels must not be empty, no + # or leading $")

    def device(self, device: str, kind: str) -> str:
        """`kind` is presence, desired, notice, reported, events or health; `+` for `device` subscribes to all."""
        return f"{self.prefix}/devices/{device}/{kind}"

    def infer(self, device: str, model: str) -> str:
        """Requests to one device."""
        return f"{self.prefix}/devices/{device}/infer/{model}"

    def results(self, device: str, model: str) -> str:
        """Results of requests that named no response topic."""
        return f"{self.prefix}/devices/{device}/results/{model}"

    def metadata(self, device: str, model: str | None = None) -> str:
        """Requests for the metadata of one device, or of a model on it."""
        return f"{self.prefix}/devices/{device}/metadata" + (f"/{model}" if model is not None else "")

    def pool_metadata(self, model: str) -> str:
        """Requests for a model's metadata to every agent that takes part in a pool with it."""
        return f"{self.prefix}/metadata/{model}"

    def pool(self, model: str) -> str:
        """Requests to any device of a pool."""
        return f"{self.prefix}/infer/{model}"

    def shared_pool(self, pool: str, model: str) -> str:
        """The subscription by which a pool's agents share the requests to a model."""
        return f"$share/{pool}/{self.pool(model)}"

    def parse_device(self, topic: str) -> tuple[str, str, str] | None:
        """(device, kind, model) of a device topic, model empty where there is none; None for another topic."""
        start = f"{self.prefix}/devices/"
        if not topic.startswith(start):
            return None
        levels = topic[len(start) :].split("/")
        if len(levels) == 2:
            return levels[0], levels[1], ""
        if len(levels) == 3:
            return levels[0], levels[1], levels[2]
        return None

    def allows_reply(self, topic: str) -> bool:
        """May a client make the agent publish here?

        No: what a broker would end the connection for (empty, too long, too many levels, wildcards, control and
        non-characters), `$…` (broker topics), and the tree of this or another fleet, where a reply could pose as
        desired state, a request or a report. Another fleet's is known by the default prefix, and by its topics of
        devices, whatever its prefix is.
        """
        return (
            0 < len(topic.encode("utf-8", "surrogatepass")) <= MAX_TOPIC_BYTES
            and not topic.startswith("$")
            and topic.count("/") < MAX_TOPIC_LEVELS
            and not _UNSENDABLE.search(topic)
            and not any(ord(c) & 0xFFFE == 0xFFFE for c in topic)
            and topic != self.prefix
            and not topic.startswith((self.prefix + "/", _ANY_FLEET + "/"))
            and not _OF_A_DEVICE.search(topic)
        )
