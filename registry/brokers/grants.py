"""Who may read and write which topics: one table for every broker. Pure.

Three kinds of callers. A device is known by its name, and its rules hold for every device, so that their number does
not grow with the fleet. The registry is one caller. An application has rules of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from registry.brokers.access import ANY, Application
from registry.contracts.topics import REPLIES, Topics
from registry.contracts.wire import Name

REGISTRY = "registry"
"""The registry's user name."""
ME = "\0me"
"""Stands in a topic for the caller's own name."""


class TopicAccess(Enum):
    """What a caller may do with a topic."""

    READ = "read"
    WRITE = "write"
    BOTH = "readwrite"


@dataclass(frozen=True)
class Grant:
    """One topic filter, with MQTT's wildcards."""

    access: TopicAccess
    topic: str


def device_grants(topics: Topics, *, pools: bool, home_assistant: bool) -> Iterator[Grant]:
    """Of every device; `ME` is its name.

    Args:
        topics: Of the fleet.
        pools: Devices take part in pools. Each may read every request to a pool: a pool's devices are not known here.
        home_assistant: Devices announce sensors to Home Assistant, outside of the fleet's topics.
    """
    for kind in ("presence", "reported", "events", "health", "results/#"):
        yield Grant(TopicAccess.WRITE, topics.device(ME, kind))
    for kind in ("desired", "notice", "infer/#", "metadata/#"):  # `metadata/#` is `metadata`, too (MQTT 5.0, 4.7.1.2)
        yield Grant(TopicAccess.READ, topics.device(ME, kind))
    yield Grant(TopicAccess.BOTH, topics.device(ME, "doctor"))
    if pools:
        yield Grant(TopicAccess.READ, topics.pool("#"))
        yield Grant(TopicAccess.READ, topics.pool_metadata("#"))
    yield Grant(TopicAccess.WRITE, f"{REPLIES}/#")
    if home_assistant:
        yield Grant(TopicAccess.WRITE, "homeassistant/sensor/#")


def registry_grants(topics: Topics) -> Iterator[Grant]:
    """Of the registry: it reads what devices say, writes what they should do, and asks them for the console."""
    for kind in ("health", "results/#"):
        yield Grant(TopicAccess.READ, topics.device("+", kind))
    for kind in ("desired", "notice"):
        yield Grant(TopicAccess.WRITE, topics.device("+", kind))
    for kind in ("presence", "reported", "events"):
        # Written, too: to take back what is retained of a device that was removed, and for `registry doctor`.
        yield Grant(TopicAccess.BOTH, topics.device("+", kind))
    yield from _asking(topics, "+", "+")
    yield from _asking_pools(topics, "+")
    yield Grant(TopicAccess.BOTH, f"{REPLIES}/{REGISTRY}/#")


def application_grants(topics: Topics, name: Name, application: Application) -> Iterator[Grant]:
    """Of one application: what it may ask, and its own topics for answers."""
    for device in map(_level, application.devices):
        yield Grant(TopicAccess.READ, topics.device(device, "presence"))
        for model in map(_level, application.models):
            yield from _asking(topics, device, model)
            if application.results:
                yield Grant(TopicAccess.READ, topics.results(device, model))
    if application.pools:
        for model in map(_level, application.models):
            yield from _asking_pools(topics, model)
    yield Grant(TopicAccess.BOTH, f"{REPLIES}/{name}/#")


def _asking(topics: Topics, device: str, model: str) -> Iterator[Grant]:
    yield Grant(TopicAccess.WRITE, topics.infer(device, model))
    yield Grant(TopicAccess.WRITE, topics.metadata(device))
    yield Grant(TopicAccess.WRITE, topics.metadata(device, model))


def _asking_pools(topics: Topics, model: str) -> Iterator[Grant]:
    yield Grant(TopicAccess.WRITE, topics.pool(model))
    yield Grant(TopicAccess.WRITE, topics.pool_metadata(model))


def _level(name: str) -> str:
    return "+" if name == ANY else name
