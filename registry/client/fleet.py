"""The devices of a registry, what state they are in, and what happened: lists with filters, and figures of them all."""

from __future__ import annotations

from collections.abc import Iterator

from registry.client.api import MAX_LISTED, ApiClient
from registry.contracts.api.devices import DeviceQuery, DeviceView
from registry.contracts.api.events import EventQuery, FleetEvent
from registry.contracts.api.fleet import FleetSummary
from registry.contracts.api.over_time import HealthSeries, HealthSpan
from registry.contracts.paths import devices_path, events_path, fleet_path, health_series_path


def fleet_summary(client: ApiClient) -> FleetSummary:
    """How the fleet is. Raises ClientError."""
    return client.get(fleet_path(), FleetSummary)


def health_series(client: ApiClient, span: HealthSpan = HealthSpan.DAY, model: str | None = None) -> HealthSeries:
    """The fleet's health over time: by model, or by version of one model. Raises ClientError."""
    return client.get(health_series_path(), HealthSeries, span=span.value, model=model)


def each_device(client: ApiClient, query: DeviceQuery | None = None, limit: int = MAX_LISTED) -> Iterator[DeviceView]:
    """The devices for which a query holds, in its order, each as soon as its page is there.

    Args:
        client: Of the registry.
        query: Which; None: all, by name, with everything that is known of them.
        limit: How many at most.

    Raises:
        ClientError: also while they are read.
    """
    asked = (query or DeviceQuery()).to_json()
    return client.each(devices_path(), DeviceView, limit, **asked)


def each_event(client: ApiClient, query: EventQuery | None = None, limit: int = MAX_LISTED) -> Iterator[FleetEvent]:
    """What happened, newest first, each event as soon as its page is there.

    Args:
        client: Of the registry.
        query: Which; None: all.
        limit: How many at most.

    Raises:
        ClientError: also while they are read.
    """
    asked = (query or EventQuery()).to_json()
    return client.each(events_path(), FleetEvent, limit, **asked)
