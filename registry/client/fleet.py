"""The devices of a registry and what state they are in: lists with filters, and the whole fleet in figures."""

from __future__ import annotations

from collections.abc import Iterator

from registry.client.api import MAX_LISTED, ApiClient
from registry.contracts.api.devices import DeviceQuery, DeviceView
from registry.contracts.api.fleet import FleetSummary
from registry.contracts.paths import devices_path, fleet_path


def fleet_summary(client: ApiClient) -> FleetSummary:
    """How the fleet is. Raises ClientError."""
    return client.get(fleet_path(), FleetSummary)


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
