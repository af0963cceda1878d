"""A rollout of a whole fleet as the registry carries it out: planning, offering, and the pause in the middle of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.fleet_world import MODEL, World

LOOK_S = 0.05
DEADLINE_S = 300.0
QUIET_S = 3.0
"""So long nothing may be offered any more after a pause."""


@dataclass(frozen=True)
class Planned:
    """Seconds of the two ways to a plan, and what they planned."""

    only: float
    """POST /v1/rollout-plans."""
    submitted: float
    """From the command `submit` to a frozen plan with a row for every device."""
    devices: int


@dataclass(frozen=True)
class Offered:
    """Devices, and seconds from the approval until they had all been offered it, and until the broker had it."""

    devices: int
    seconds: float
    published: float | None


@dataclass(frozen=True)
class Paused:
    """Seconds from the request to pause; `later` devices were offered it after the answer."""

    answered: float
    last_offer: float
    offered: int
    later: int
    left: int


def spec(version: str, selector: str) -> dict[str, Any]:
    """One wave, no limit to the rate; an approval separates planning from offering."""
    return {
        "model": MODEL, "version": version, "fleet": {"selector": selector}, "waves": [{"percent": 100}],
        "rate": {"devices_per_minute": None}, "requires_approval": True, "approved_by_another": False,
    }  # fmt: skip


def plans(here: World) -> Planned:
    """Both plans of the whole fleet; the draft is denied and thrown away."""
    with here.client() as http:
        begin = time.perf_counter()
        http.post("/v1/rollout-plans", json=spec("2", "*")).raise_for_status()
        only = time.perf_counter() - begin
        view, submitted = _submit(here, http, spec("2", "*"))
        plan = http.get(f"/v1/rollouts/{view['id']}/plan").raise_for_status().json()
        approval = {"plan": view["plan"], "revision": view["revision"], "approve": False}
        denied = http.post(f"/v1/rollouts/{view['id']}/approval", json=approval).raise_for_status().json()
        body = {"command": "delete", "revision": denied["revision"]}
        http.post(f"/v1/rollouts/{view['id']}/commands", json=body).raise_for_status()
    return Planned(only, submitted, plan["devices"])


def offers(here: World, selector: str, *, bridge: bool) -> Offered:
    """Everybody who matches is offered version 2 at once."""
    with here.client() as http:
        view, _ = _submit(here, http, spec("2", selector))
        rollout = _row(here, view)
        begin = time.perf_counter()
        _approve(http, view)
        devices = _until_offered(here, rollout, lambda planned: planned == 0)
        seconds, published = time.perf_counter() - begin, None
        if bridge:
            while here.scalar("SELECT count(*) FROM desired WHERE NOT published"):
                _check(begin)
            published = time.perf_counter() - begin
        _abort(http, view)
    return Offered(devices, seconds, published)


def pause(here: World, selector: str) -> Paused:
    """A pause after about a third of those who match was offered version 3."""
    with here.client() as http:
        view, _ = _submit(here, http, spec("3", selector))
        rollout = _row(here, view)
        total = here.scalar("SELECT count(*) FROM rollout_actions WHERE rollout_id = :id", id=rollout)
        _approve(http, view)
        _until_offered(here, rollout, lambda planned: planned < total * 2 / 3)
        revision = http.get(f"/v1/rollouts/{view['id']}").raise_for_status().json()["revision"]
        begin = time.perf_counter()
        body = {"command": "pause", "revision": revision}
        http.post(f"/v1/rollouts/{view['id']}/commands", json=body).raise_for_status()
        answered = time.perf_counter() - begin
        at_answer = seen = _offered(here, rollout)
        last = changed = time.perf_counter()
        while time.perf_counter() < last + QUIET_S:
            time.sleep(LOOK_S)
            if (now := _offered(here, rollout)) != seen:
                seen, last = now, time.perf_counter()
        ended = answered if last == changed else last - begin
        _abort(http, view)
    return Paused(answered, ended, seen, seen - at_answer, total - seen)


def _submit(here: World, http: httpx.Client, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The rollout as it waits for approval, and the seconds that its planning took."""
    view = http.post("/v1/rollouts", json=body).raise_for_status().json()
    path = f"/v1/rollouts/{view['id']}"
    begin = time.perf_counter()
    command = {"command": "submit", "revision": view["revision"]}
    view = http.post(f"{path}/commands", json=command).raise_for_status().json()
    while here.scalar("SELECT state FROM rollouts WHERE public = :id", id=view["id"]) == "planning":
        _check(begin)
    seconds = time.perf_counter() - begin
    view = http.get(path).raise_for_status().json()
    if view["state"] != "awaiting_approval":
        raise RuntimeError(f"the rollout is {view['state']}: {view['reason']}")
    return view, seconds


def _approve(http: httpx.Client, view: dict[str, Any]) -> None:
    body = {"plan": view["plan"], "revision": view["revision"]}
    http.post(f"/v1/rollouts/{view['id']}/approval", json=body).raise_for_status()


def _abort(http: httpx.Client, view: dict[str, Any]) -> None:
    """What was offered is taken back, so that the rollout is out of the next measurement's way."""
    path, begin = f"/v1/rollouts/{view['id']}", time.perf_counter()
    now = http.get(path).raise_for_status().json()
    command = {"command": "abort", "revision": now["revision"]}
    http.post(f"{path}/commands", json=command).raise_for_status()
    while http.get(path).raise_for_status().json()["state"] == "aborting":
        _check(begin)


def _row(here: World, view: dict[str, Any]) -> int:
    return int(here.scalar("SELECT id FROM rollouts WHERE public = :public", public=view["id"]))


def _offered(here: World, rollout: int) -> int:
    query = "SELECT count(*) FROM rollout_actions WHERE rollout_id = :id AND offered_at IS NOT NULL"
    return int(here.scalar(query, id=rollout))


def _until_offered(here: World, rollout: int, enough: Any) -> int:
    """Waits until `enough(devices that still wait for their turn)`; how many have been offered it."""
    begin = time.perf_counter()
    planned = "SELECT count(*) FROM rollout_actions WHERE rollout_id = :id AND state = 'planned'"
    while not enough(here.scalar(planned, id=rollout)):
        _check(begin)
    return _offered(here, rollout)


def _check(begin: float) -> None:
    if time.perf_counter() > begin + DEADLINE_S:
        raise RuntimeError(f"not within {DEADLINE_S:g} s")
    time.sleep(LOOK_S)
