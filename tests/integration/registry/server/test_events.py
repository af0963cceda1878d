"""What happened in the fleet, as one list: devices' events, rollouts and aliases, by filters and pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from registry.services.fleet import activities, events
from tests.support.programs.registry_process import RegistryProcess, publish

AT = "2026-11-22T12:00:00Z"


def event(number: int, **said: Any) -> dict[str, Any]:
    """Of a device."""
    return {"event_id": f"e{number}", "seq": number, "at": AT, "kind": "deployment", **said}


@pytest.fixture(scope="module")
def filled(registry: RegistryProcess) -> Iterator[httpx.Client]:
    """Two devices that told something; an alias that was moved and removed; a rollout that was made."""
    with registry.client() as admin:
        for version in ("1", "2"):
            publish(admin, "told", version, b"weights").raise_for_status()
        for name, told in {
            "ev-1": [event(1, model="told", version="1", phase="serving"), event(2, kind="worker", code="run_failed")],
            "ev-2": [event(1, model="other", version="1", rollout="r-old", code="bad_file", message="=1+1")],
        }.items():
            token = admin.put(f"/v1/devices/{name}", json={}).raise_for_status().json()["token"]
            own = {"Authorization": f"Bearer {token}"}
            admin.post(f"/v1/devices/{name}/reports", json={"events": told}, headers=own).raise_for_status()
        path = "/v1/models/told/aliases/stable"
        admin.put(path, json={"version": "1"}, headers={"If-None-Match": "*"}).raise_for_status()
        admin.put(path, json={"version": "2"}, headers={"If-Match": '"1"'}).raise_for_status()
        admin.delete(path, headers={"If-Match": '"2"'}).raise_for_status()
        body = {"name": "first", "model": "told", "version": "1", "fleet": {"selector": "site=x"}}
        admin.put("/v1/rollouts/first", json=body).raise_for_status()
        yield admin


def ids(client: httpx.Client, **query: Any) -> list[str]:
    """Of all pages, with the numbers of rollouts and of what people did left out."""
    found: list[str] = []
    while True:
        page = client.get("/v1/events", params=query).raise_for_status().json()
        found += [each["id"] for each in page["items"]]
        if page["next"] is None:
            found = ["person" if name.startswith("person:") else name for name in found]
            return [":".join("R" if part.startswith("r-") else part for part in name.split(":")) for name in found]
        query["cursor"] = page["next"]


DEVICES = ["device:ev-2:e1", "device:ev-1:e2", "device:ev-1:e1"]
ALIASES = ["alias:told:stable:3", "alias:told:stable:2", "alias:told:stable:1"]


def test_everything_is_told_newest_first_and_each_once_whatever_the_page(filled: httpx.Client) -> None:
    everything = ids(filled)
    assert everything[1:4] == ALIASES
    assert sorted(everything[4:]) == sorted([*DEVICES, "person", "person"])
    assert everything[0].startswith("rollout:")
    for limit in (1, 2, 3):
        assert ids(filled, limit=limit) == everything


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"device": "ev-1"}, ["device:ev-1:e2", "device:ev-1:e1", "person"]),
        ({"device": "ev-1", "source": "device"}, ["device:ev-1:e2", "device:ev-1:e1"]),
        ({"severity": "error"}, DEVICES[:2]),
        ({"severity": "error", "code": "run_failed"}, DEVICES[1:2]),
        ({"by": "admin", "source": "alias"}, ALIASES),
        ({"by": "admin", "kind": "device_registered"}, ["person", "person"]),
        ({"by": "admin", "severity": "error"}, []),
        ({"by": "nobody"}, []),
        ({"source": "alias"}, ALIASES),
        ({"kind": "worker"}, ["device:ev-1:e2"]),
        ({"kind": "removed"}, ALIASES[:1]),
        ({"code": "any"}, DEVICES[:2]),
        ({"code": "bad_file"}, DEVICES[:1]),
        ({"source": "device", "model": "told"}, DEVICES[2:]),
        ({"rollout": "r-old"}, DEVICES[:1]),
        ({"id": "device:ev-1:e2"}, ["device:ev-1:e2"]),
        ({"id": "alias:told:stable:2"}, ALIASES[1:2]),
        ({"id": "alias:told:stable:2", "source": "device"}, []),
        ({"id": "device:ev-2:e2"}, []),
        ({"id": "nothing"}, []),
        ({"until": "2000-01-01T00:00:00Z"}, []),
        ({"since": "2000-01-01T00:00:00Z", "source": "alias", "kind": "moved"}, ALIASES[1:]),
    ],
)
def test_filters_hold_together(filled: httpx.Client, query: dict[str, str], wanted: list[str]) -> None:
    assert sorted(ids(filled, **query)) == sorted(wanted)
    assert sorted(ids(filled, **query, limit=1)) == sorted(wanted)


def test_a_rollout_is_named_by_its_id_or_its_name(filled: httpx.Client) -> None:
    (made,) = filled.get("/v1/events", params={"rollout": "first"}).json()["items"]
    assert (made["after"], made["by"], made["model"]) == ("draft", "admin", "told")
    assert filled.get("/v1/events", params={"rollout": made["rollout"]}).json()["items"] == [made]
    assert filled.get("/v1/events", params={"id": made["id"]}).json()["items"] == [made]


def test_moves_of_an_alias_say_who_from_what_to_what(filled: httpx.Client) -> None:
    found = filled.get("/v1/events", params={"source": "alias"}).json()["items"]
    said = [(each["kind"], each.get("before", ""), each.get("after", ""), each["by"]) for each in found]
    assert said == [("removed", "2", "", "admin"), ("moved", "1", "2", "admin"), ("moved", "", "1", "admin")]


def test_what_a_device_should_serve_is_among_its_events(filled: httpx.Client) -> None:
    body = {"version": "1", "force": True}
    filled.put("/v1/devices/ev-2/deployments/told", json=body).raise_for_status()
    for limit in (1, 100):
        assert sorted(ids(filled, device="ev-2", limit=limit)) == ["deployment:ev-2:told", "device:ev-2:e1", "person"]
    assert ids(filled, id="deployment:ev-2:told") == ["deployment:ev-2:told"]
    filled.delete("/v1/devices/ev-2/deployments/told").raise_for_status()


def test_a_time_limit_is_kept_to(filled: httpx.Client) -> None:
    times = {each["id"]: each["at"] for each in filled.get("/v1/events").json()["items"]}
    middle = datetime.fromisoformat(times["alias:told:stable:2"])
    later = (middle + timedelta(microseconds=1)).astimezone(timezone.utc).isoformat()
    assert "alias:told:stable:2" not in ids(filled, since=later)
    assert "alias:told:stable:2" in ids(filled, since=middle.isoformat())
    before = ids(filled, until=middle.isoformat())
    assert "alias:told:stable:1" in before
    assert "alias:told:stable:2" not in before


def test_filters_and_cursors_that_are_none_are_refused(filled: httpx.Client) -> None:
    for query in ({"source": "moon"}, {"since": "yesterday"}, {"since": "2026-11-28T01:00:00"}, {"cursor": "x"}):
        assert filled.get("/v1/events", params=query).status_code == 422, query
    assert filled.get("/v1/events", params={"device": "nobody"}).status_code == 404


@contextmanager
def many_events(client: httpx.Client, prefix: str) -> Iterator[None]:
    """More than one page looks at, of several devices: what one may say at once is bounded."""
    names = [f"{prefix}-{number}" for number in range(events.BUDGET // 4000 + 1)]
    for name in names:
        token = client.put(f"/v1/devices/{name}", json={}).raise_for_status().json()["token"]
        own = {"Authorization": f"Bearer {token}"}
        for start in range(0, 4000, 1000):
            told = {"events": [event(start + number, kind="agent") for number in range(1000)]}
            client.post(f"/v1/devices/{name}/reports", json=told, headers=own).raise_for_status()
    yield
    for name in names:
        client.delete(f"/v1/devices/{name}").raise_for_status()


def test_a_page_that_looked_at_enough_rows_is_short_and_has_a_next_one(filled: httpx.Client) -> None:
    with many_events(filled, "looked"):
        first = filled.get("/v1/events", params={"kind": "worker"}).json()
        assert first["items"] == []
        assert first["next"]
        assert ids(filled, kind="worker") == ["device:ev-1:e2"]


def test_who_changed_labels_credentials_and_versions_is_told(filled: httpx.Client) -> None:
    names = [f"did-{number}" for number in range(activities.MAX_EACH + 1)]
    for name in names:
        filled.put(f"/v1/devices/{name}", json={"labels": {"site": "x"}}).raise_for_status()
    filled.put("/v1/devices/did-0", json={"labels": {"site": "x"}}).raise_for_status()
    filled.put("/v1/devices/did-0", json={"labels": {"ring": "a"}}).raise_for_status()
    filled.post("/v1/labels", json={"devices": ["did-1"], "put": {"ring": "b"}}).raise_for_status()
    filled.post("/v1/labels", json={"devices": names, "put": {"part": "1"}}).raise_for_status()
    filled.post("/v1/devices/did-2/credential").raise_for_status()
    filled.delete("/v1/devices/did-2").raise_for_status()

    def told(**query: str) -> list[tuple[str, str, str]]:
        found = filled.get("/v1/events", params={"source": "person", **query}).json()["items"]
        return [(each["kind"], each["severity"], each["message"]) for each in found]

    assert told(device="did-0") == [
        ("labels_changed", "info", "ring=a, site removed"),
        ("device_registered", "info", "site=x"),
    ]
    assert told(device="did-1")[0] == ("labels_changed", "info", "ring=b")
    (every,) = [text for kind, _, text in told(by="admin") if "on 21 devices" in text and kind == "labels_changed"]
    assert every.startswith("part=1 on 21 devices: did-0, did-1, ")
    found = filled.get("/v1/events", params={"source": "person", "severity": "warning"}).json()["items"]
    assert ("device_removed", "did-2", "admin") in [(each["kind"], each["device"], each["by"]) for each in found]
    assert {each["kind"] for each in found} == {"device_removed"}
    for name in names:
        filled.delete(f"/v1/devices/{name}")


def test_a_rare_code_is_found_behind_any_number_of_other_events(filled: httpx.Client) -> None:
    with many_events(filled, "rare"):
        for query in ({"code": "run_failed"}, {"code": "bad_file"}, {"severity": "error"}):
            page = filled.get("/v1/events", params={**query, "limit": 1}).json()
            assert len(page["items"]) == 1, query
