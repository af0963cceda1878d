"""Lists of devices and the fleet's figures over HTTP, as a client asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from registry.client.address import find_address
from registry.client.api import ApiClient
from registry.client.fleet import each_device, fleet_summary
from registry.contracts.api.devices import DeviceQuery
from registry.contracts.api.fleet import DeviceSort
from tests.integration.fleet.test_devices import CPU, deploy, register
from tests.support.clients.mqtt_device import now
from tests.support.programs.fleet_registry import FleetRegistry, eventually, facts


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetRegistry]:
    with FleetRegistry(tmp_path_factory.mktemp("registry"), None) as process:
        process.publish("lenet", "1.0.0", CPU)
        for number in range(5):
            register(process, f"edge-{number}", facts(), site="paris" if number < 2 else "rome")
        for number in range(3):
            deploy(process, f"edge-{number}")
        headers = register(process, "reports", facts(), site="oslo")
        deploy(process, "reports")
        report(process, "reports", headers)
        yield process


def report(registry: FleetRegistry, device: str, headers: dict[str, str]) -> None:
    desired = registry.ask("GET", f"/v1/devices/{device}/desired", headers=headers)
    wanted = desired["models"]["lenet"]
    serving = {"state": "serving", "version": "1.0.0", "manifest": wanted["manifest"], "desired_version": "1.0.0"}
    body = {"device": device, "session_id": "s", "generation": desired["generation"], "at": now(),
            "facts_digest": "sha256:" + "0" * 64, "models": {"lenet": serving}}  # fmt: skip
    registry.ask("POST", f"/v1/devices/{device}/reports", {"reported": body}, headers=headers)


@pytest.fixture
def client(registry: FleetRegistry) -> Iterator[ApiClient]:
    token = registry.http.headers["authorization"].removeprefix("Bearer ")
    with ApiClient(find_address(str(registry.http.base_url).rstrip("/"), token, None)) as made:
        yield made


def names(client: ApiClient, **query: Any) -> list[str]:
    return [device.name for device in each_device(client, DeviceQuery(**query))]


def test_filters_of_the_query_find_devices(client: ApiClient) -> None:
    everyone = [*(f"edge-{number}" for number in range(5)), "reports"]
    assert names(client) == everyone
    assert names(client, sort="-name") == everyone[::-1]
    assert names(client, serves="lenet@1.0.0") == names(client, serves="lenet") == ["reports"]
    assert names(client, state=["assigned"]) == names(client, behind=True) == ["edge-0", "edge-1", "edge-2"]
    assert names(client, state=["never_seen", "idle"]) == ["edge-3", "edge-4"]
    assert names(client, selector="site!=rome") == ["edge-0", "edge-1", "reports"]
    assert names(client, label=["site=rome"], name="EDGE-4") == ["edge-4"]
    assert names(client, state=["http_only"]) == names(client, online=True) == ["reports"]
    assert names(client, failing="any") == []
    assert names(client, sort=DeviceSort.LAST_SEEN_BACKWARDS)[0] == "reports"


def test_a_device_says_its_state_and_a_brief_list_leaves_its_documents_out(client: ApiClient) -> None:
    (whole,) = each_device(client, DeviceQuery(name="reports"))
    (brief,) = each_device(client, DeviceQuery(name="reports", brief=True))
    assert (brief.connection, brief.state, brief.code, brief.hardware) == ("http_only", "serving", "", "x86_64/cpu")
    assert (brief.slots["lenet"].version, brief.slots["lenet"].desired) == ("1.0.0", "1.0.0")
    assert whole.reported is not None
    assert whole.facts is not None
    assert brief == whole.model_copy(update={"reported": None, "facts": None, "health": None, "presence": None})


def test_pages_follow_one_another_in_the_order_of_the_list(registry: FleetRegistry) -> None:
    for sort in DeviceSort:
        found, cursor = [], None
        for _ in range(6):
            query = {"sort": sort.value, "limit": 2, "brief": "true"} | ({"cursor": cursor} if cursor else {})
            page = registry.http.get("/v1/devices", params=query).raise_for_status().json()
            found += [device["name"] for device in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert len(found) == len(set(found)) == 6, sort


def test_a_query_that_means_nothing_is_refused_with_what_there_is(registry: FleetRegistry) -> None:
    for query, text in (
        ({"state": "sleeping"}, "never_seen"),
        ({"serves": "@1"}, "MODEL@VERSION"),
        ({"selector": "site=("}, "selector"),
        ({"sort": "age"}, ""),
        ({"label": "site"}, "key=value"),
        ({"cursor": "e30"}, "cursor"),
    ):
        answer = registry.http.get("/v1/devices", params=query)
        assert answer.status_code == 422, query
        assert text in answer.text, answer.text
    first = registry.http.get("/v1/devices", params={"limit": 1}).json()["next"]
    for sort in ("changed", "-name"):
        assert registry.http.get("/v1/devices", params={"cursor": first, "sort": sort}).status_code == 422


def test_the_figures_of_the_fleet_are_at_hand(client: ApiClient) -> None:
    found = eventually(lambda: (s := fleet_summary(client)).devices == 6 and s)
    assert (found.connection["never_seen"], found.connection["http_only"]) == (5, 1)
    assert (found.serving["serving"], found.serving["assigned"], found.serving["idle"]) == (1, 3, 2)
    assert found.behind == 3
    assert found.storage.blobs == 1
    assert {(v.model, v.version, v.state, v.devices) for v in found.versions} == {
        ("lenet", "1.0.0", "serving", 1), ("lenet", None, "assigned", 3),
    }  # fmt: skip
