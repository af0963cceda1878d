"""Fleet rollouts with real agents: a good version reaches all, a bad one stops in its first wave, and the way back
needs no download."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from registry.client.devices import Client, DeviceError
from registry.contracts.paths import device_path
from scripts.demo.processes import wait_until
from tests.support.models import rollout_models
from tests.support.models.rollout_models import MODEL, X
from tests.support.programs.fleet import Fleet

DEVICES = ("edge-1", "edge-2", "edge-3")
BASE, GOOD, OTHER = "1.0.0", "2.0.0", "3.0.0"
WAVES = ("--fleet", "site=hall", "--waves", "1,100%", "--soak", "1s")
NOT_LATENCY = [{"metric": "error_share", "success": 0.02, "failure": 0.05},
               {"metric": "nan_share", "success": 0, "failure": 0}]  # fmt: skip
"""What the gate looks at when a version is good or the device is to judge by itself: the latency of runs of 30 us says
nothing on a machine that runs all tests at once."""
LATENCY = {"metric": "run_p99_ratio", "success": 3, "failure": 5, "required": True, "min_requests": 30}
"""No wave passes before it was measured."""
BAD = {
    "wrong-answers": rollout_models.good(7),
    "no-load": rollout_models.unloadable(),
    "slow": rollout_models.slow(),
    "nan": rollout_models.not_a_number(),
    "slow-gate": rollout_models.slow(2),
    "slow-held": rollout_models.slow(3),
    "again": rollout_models.unloadable(2),
}
"""Each for one rollout only: any device may be its canary, and what one has put into quarantine it refuses."""


@pytest.fixture(scope="module")
def halls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Broker, registry and three agents that came to serve the first version by a rollout."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        fleet.start_broker()
        fleet.start_registry()
        rollout_models.publish(fleet, BASE, rollout_models.good(1), expected=10)
        rollout_models.publish(fleet, GOOD, rollout_models.good(2), expected=20)
        rollout_models.publish(fleet, OTHER, rollout_models.good(3), expected=30)
        for version, content in BAD.items():
            expected = {"wrong-answers": 10.0}.get(version)
            rollout_models.publish(fleet, version, content, expected=expected)
        for device in DEVICES:
            token = str(fleet.registry("devices", "add", device, "--label", "site=hall")["token"])
            fleet.start_agent(device, token, lambda: True, MODELFLEET_AGENT_HEALTH_INTERVAL_S="1")
        wait_until(lambda: all(each.get("facts") for each in shown(fleet).values()), "the facts of every device")
        made = run(fleet, BASE, "first", 1)
        assert made["state"] == "succeeded", made["reason"]
        yield fleet


def shown(fleet: Fleet) -> dict[str, Any]:
    """Each device as the registry sees it."""
    with rollout_models.client_of(fleet) as http:
        return {device: http.get(device_path(device)).raise_for_status().json() for device in DEVICES}


def run(fleet: Fleet, version: str, name: str, probation_s: float, latency: float | None = None, **more: Any) -> Any:
    """Applies a rollout and follows it until it is over or waits for a person: the canary, then the others.

    `latency`: times the previous version's, which the device's watchdog allows.
    """
    spec = {
        "name": name,
        "model": MODEL,
        "version": version,
        "fleet": {"selector": "site=hall"},
        "waves": [{"count": 1, "soak_s": 1}, {"percent": 100, "soak_s": 1}],
        "policy": {"probation_s": probation_s, "probation": {"max_latency_ratio": latency}},
        "gate": {"health": NOT_LATENCY},
        **more,
    }
    file = fleet.folder / f"{name}.json"
    file.write_text(json.dumps(spec))
    fleet.registry("rollout", "apply", "-f", str(file))
    return follow(fleet, name)


def follow(fleet: Fleet, name: str) -> Any:
    """Where it is when it is over or waits for a person."""
    return fleet.registry("rollout", "status", name, "--watch", check=False)


def serving(fleet: Fleet) -> dict[str, str]:
    """What each device says that it serves."""
    return {device: found["reported"]["models"][MODEL]["version"] for device, found in shown(fleet).items()}


def answers(fleet: Fleet) -> dict[str, float]:
    """What each device answers for X."""
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        return {device: float(client.infer(device, MODEL, {"x": X})["y"].flat[0]) for device in DEVICES}


def counts(fleet: Fleet, name: str) -> Any:
    """Devices of a rollout by state."""
    return fleet.registry("rollout", "status", name)["counts"]


def everyone(version: str) -> dict[str, str]:
    return dict.fromkeys(DEVICES, version)


def blob_bytes_sent(fleet: Fleet) -> float:
    """By the registry since it was started."""
    with rollout_models.client_of(fleet) as http:
        lines = http.get("/metrics").raise_for_status().text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("modelfleet_blob_bytes_sent_total "))


@contextmanager
def requests(fleet: Fleet) -> Iterator[Counter[str]]:
    """Every device is asked again and again, until the block ends; counts `answered` and each error's code."""
    outcomes: Counter[str] = Counter()
    done = threading.Event()

    def ask() -> None:
        with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
            while not done.wait(0.01):
                for device in DEVICES:
                    try:
                        client.infer(device, MODEL, {"x": X}, timeout=5, retries=0)
                        outcomes["answered"] += 1
                    except DeviceError as error:
                        outcomes[error.code] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcomes
    finally:
        done.set()
        thread.join(20)


def test_a_good_version_reaches_everybody_canary_first_and_no_request_is_lost(halls: Fleet) -> None:
    plan = halls.registry("rollout", "plan", f"{MODEL}@{GOOD}", *WAVES[:4])
    assert [wave["devices"] for wave in plan["waves"]] == [1, 2]
    with requests(halls) as outcomes:
        view = run(halls, GOOD, "good", 2)
    assert view["state"] == "succeeded", view["reason"]
    assert view["counts"] == {"committed": 3}
    assert [wave["state"] for wave in view["waves"][:2]] == ["passed", "passed"]
    assert [wave["counts"] for wave in view["waves"][:2]] == [{"committed": 1}, {"committed": 2}]
    assert serving(halls) == everyone(GOOD)
    assert answers(halls) == dict.fromkeys(DEVICES, 20.0)
    assert set(outcomes) == {"answered"}, "the switch lost requests"

    devices = halls.registry("rollout", "devices", "good")
    (canary,) = (each["device"] for each in devices if each["wave"] == 0)
    steps = {each: halls.registry("rollout", "why", each, "--rollout", "good")[0]["device"] for each in DEVICES}
    committed = {name: at_of(step, "committed") for name, step in steps.items()}
    assert all(committed[canary] < at_of(step, "offered") for name, step in steps.items() if name != canary)
    for step in steps.values():
        seen = [each["state"] for each in step["history"]]
        assert seen.index("offered") < seen.index("warming") < seen.index("probation") < seen.index("committed")
    causes = [entry["cause"] for entry in reversed(halls.registry("rollout", "history", "good"))]
    assert causes == ["create", "submit", "planned", "due", "finished"]


def at_of(device: Any, state: str) -> str:
    """When the device came to that state, as ISO 8601."""
    return str(next(step["at"] for step in device["history"] if step["state"] == state))


def test_a_rollback_brings_every_device_back_while_no_blob_can_be_had(halls: Fleet) -> None:
    sent = blob_bytes_sent(halls)
    blobs, away = halls.registry_data / "blobs", halls.registry_data / "blobs-away"
    blobs.rename(away)
    try:
        with requests(halls) as outcomes:
            halls.registry("rollout", "rollback", "good", "--yes")
            view = follow(halls, "good")
    finally:
        away.rename(blobs)
    assert view["state"] == "rolled_back", view["reason"]
    assert serving(halls) == everyone(BASE)
    assert answers(halls) == dict.fromkeys(DEVICES, 10.0)
    assert set(outcomes) == {"answered"}
    assert blob_bytes_sent(halls) == sent


@pytest.mark.parametrize(
    ("version", "state", "code"),
    [
        ("wrong-answers", "failed", "golden_mismatch"),
        ("no-load", "failed", "load_failed"),
        ("slow", "rolled_back", "probation_latency"),
        ("nan", "rolled_back", "probation_nan"),
    ],
)
def test_a_bad_version_stops_in_its_first_wave_and_nobody_keeps_it(
    halls: Fleet, version: str, state: str, code: str
) -> None:
    before = serving(halls)
    with requests(halls):
        view = run(halls, version, f"bad-{version}", 20, latency=5)
        sent = blob_bytes_sent(halls)
        wait_until(lambda: serving(halls) == before, "everybody to serve what they served before")
    assert (view["state"], view["reason"]["code"]) == ("paused", "failed_budget")
    assert view["counts"] == {state: 1, "planned": 2}
    (canary,) = halls.registry("rollout", "devices", f"bad-{version}", "--trouble")
    assert (canary["wave"], canary["code"]) == (0, code), canary
    assert blob_bytes_sent(halls) == sent
    halls.registry("rollout", "abort", f"bad-{version}", "--yes")
    assert follow(halls, f"bad-{version}")["state"] == "aborted"
    assert serving(halls) == before


def test_what_only_the_registry_finds_slow_stops_in_its_first_wave_and_is_taken_back(halls: Fleet) -> None:
    before = serving(halls)
    with requests(halls):
        view = run(halls, "slow-gate", "slow-gate", 1, gate={"health": [LATENCY]}, on_failure="rollback")
    assert view["state"] == "rolled_back", view
    # The history has what stopped it; the wave's verdict is today's, which also knows of the way back.
    (stop,) = [e for e in halls.registry("rollout", "history", "slow-gate") if e["after"] == "rolling_back"]
    assert stop["reason"]["code"] == "health", stop
    assert "run_p99_ratio" in stop["reason"]["text"]
    assert view["counts"] == {"committed": 1, "cancelled": 2}
    wait_until(lambda: serving(halls) == before, "everybody to serve what they served before")


def test_a_canary_whose_gate_failed_stays_in_probation_until_a_person_takes_it_back(halls: Fleet) -> None:
    before = serving(halls)
    with requests(halls):
        view = run(halls, "slow-held", "slow-held", 10, gate={"health": [LATENCY]})
        assert (view["state"], view["reason"]["code"]) == ("paused", "health"), view
        assert view["counts"] == {"probation": 1, "planned": 2}

        def canary() -> Any:
            (found,) = halls.registry("rollout", "devices", "slow-held", "--state", "probation")
            return found

        wait_until(lambda: canary()["code"] == "held", "the canary to hear of the pause")
        assert "roll it back" in canary()["why"]
        halls.registry("rollout", "rollback", "slow-held", "--yes")
        view = follow(halls, "slow-held")
    assert (view["state"], view["counts"]) == ("rolled_back", {"committed": 1, "cancelled": 2}), view
    wait_until(lambda: serving(halls) == before, "everybody to serve what they served before")


def test_a_retry_offers_it_again_to_who_failed_and_nobody_else(halls: Fleet) -> None:
    before = serving(halls)
    assert run(halls, "again", "again", 1)["state"] == "paused"
    assert halls.registry("rollout", "retry", "again", "--failed")["generation"] == 2
    view = follow(halls, "again")
    assert (view["state"], view["counts"]) == ("paused", {"failed": 1, "planned": 2})
    (failed,) = halls.registry("rollout", "devices", "again", "--trouble")
    (told,) = halls.registry("rollout", "why", failed["device"], "--rollout", "again")
    steps = [step["state"] for step in told["device"]["history"]]
    assert steps.count("offered") == steps.count("failed") == 2, "its quarantine was not lifted"
    halls.registry("rollout", "abort", "again", "--yes")
    assert serving(halls) == before


def start_and_pause_while_agents_stand_still(fleet: Fleet, name: str) -> None:
    """A rollout of OTHER that was paused after its canary was offered it and before that could act."""
    fleet.registry("rollout", "create", f"{MODEL}@{OTHER}", "--name", name, *WAVES, "--probation", "1s")
    pids = [fleet.processes[device].pid for device in DEVICES]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        fleet.registry("rollout", "start", name)
        wait_until(lambda: counts(fleet, name).get("offered"), "the first offer")
        assert fleet.registry("rollout", "pause", name, "--note", "lunch")["state"] == "paused"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: counts(fleet, name) == {"staged": 1, "planned": 2}, "the canary to be held before its switch")
    (canary,) = fleet.registry("rollout", "devices", name, "--state", "staged")
    assert "resume the rollout" in canary["why"]


def test_a_paused_rollout_offers_no_more_and_what_it_offered_does_not_switch(halls: Fleet) -> None:
    before = serving(halls)
    start_and_pause_while_agents_stand_still(halls, "held")
    assert serving(halls) == before
    assert halls.registry("rollout", "resume", "held")["state"] == "running"
    assert (follow(halls, "held")["state"], serving(halls)) == ("succeeded", everyone(OTHER))
    halls.registry("rollout", "rollback", "held", "--yes")
    assert (follow(halls, "held")["state"], serving(halls)) == ("rolled_back", before)


def test_an_aborted_rollout_withdraws_what_has_not_switched(halls: Fleet) -> None:
    before = serving(halls)
    start_and_pause_while_agents_stand_still(halls, "dropped")
    halls.registry("rollout", "abort", "dropped", "--yes")
    view = follow(halls, "dropped")
    assert (view["state"], view["counts"]) == ("aborted", {"cancelled": 3})
    assert serving(halls) == before
