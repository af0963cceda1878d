"""The fleet's index says at any time what its rules make of the rows that it follows from."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from registry.contracts.device.deployments import DeploymentProgress, Phase
from registry.contracts.device.messages import Fault, Health, Reported, ReportedModel, ServingState
from registry.contracts.fit.platforms import Platform
from registry.contracts.rollout.states import Command
from registry.contracts.wire import digest_of
from registry.core import device_states as rules
from registry.core.device_states import WantedSlot
from registry.core.intake import checked
from registry.core.presence import as_of
from registry.db.fleet_rows import DeploymentRow, DeviceRow, DeviceStateRow, RegistryStateRow
from registry.db.index_rows import DeviceIndexRow, DeviceSlotRow
from registry.services.fleet.device_index import (
    IndexComparison,
    compare_index,
    forget_index,
    index,
    is_current,
    rebuild_index,
)
from registry.services.fleet.epochs import forget_presence
from registry.services.tallies import recount
from tests.integration.registry.rollouts.world import FACTS, SLOW, World

Index = dict[str, Any]


def written(world: World) -> Index:
    """The index as it lies in the database, without when things changed."""
    with world.database.read() as session:
        found: Index = {
            row.name: [row.connection, row.state, row.code, row.behind, row.hardware, {}]
            for row in session.scalars(select(DeviceIndexRow))
        }
        for slot in session.scalars(select(DeviceSlotRow)):
            found[slot.name][-1][slot.model] = [slot.version, slot.desired, slot.state, slot.code, slot.behind]
    return found


def recomputed(world: World) -> Index:
    """What the rules make of the raw rows now."""
    with world.database.read() as session:
        listened = session.scalar(select(RegistryStateRow.listened_at))
        judged = as_of(listened, world.now)
        found = session.execute(select(DeviceRow, DeviceStateRow).join(DeviceStateRow)).all()
        return {row.name: _device(session, row, state, judged) for row, state in found}


def _device(session: Session, row: DeviceRow, state: DeviceStateRow, judged: Any) -> list[Any]:
    slots = session.scalars(select(DeploymentRow).where(DeploymentRow.device_id == row.id))
    wanted = {slot.model: WantedSlot(slot.version, slot.manifest, slot.attempt) for slot in slots}
    made = rules.device(wanted, json.loads(state.reported) if state.reported else None)
    connection, _ = rules.connection(state.last_seen, state.heard_until, state.gone_at, state.online, judged)
    host = rules.hardware(json.loads(row.facts)) if row.facts else ""
    served = {m: [s.version, s.desired, s.state.value, s.code, s.behind] for m, s in made.slots.items()}
    return [connection.value, made.state.value, made.code, made.behind, host, served]


class Chance:
    """What may happen to a fleet, at random."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng, self.seq, self.rollout = world, rng, 0, ""
        self.names = [f"d{number}" for number in range(6)]

    def one(self) -> str:
        return self.rng.choice(sorted(self.world.fleet) or ["d0"])

    def add(self) -> None:
        name = self.rng.choice(self.names)
        if name not in self.world.fleet:
            self.world.add(
                name,
                behaviour=self.rng.choice(["good", "failing", "slow", "full"]),
                platform=self.rng.choice([FACTS, SLOW, None]),
            )

    def put(self) -> None:
        self.world.devices.put(self.rng.choice(self.names), {"site": "rome"}, self.world.now)

    def remove(self) -> None:
        name = self.one()
        if self.world.fleet.pop(name, None):
            self.world.devices.delete(name, self.world.now)

    def deploy(self) -> None:
        if self.world.fleet:
            self.world.deploy(self.one(), self.rng.choice(["1.0.0", "2.0.0", "3.0.0"]))

    def undeploy(self) -> None:
        if self.world.fleet:
            name = self.one()
            self.world.deploy(name, "1.0.0")
            self.world.deployments.remove(name, "lenet", "somebody", self.world.now)

    def answer(self) -> None:
        if self.world.fleet:
            self.world.answer(self.one())

    def say(self) -> None:
        """Anything that a message may hold."""
        rng, world = self.rng, self.world
        versions = [None, "1.0.0", "2.0.0"]
        digests = [digest_of(b"other"), *(_manifest(self.world, version) for version in ("1.0.0", "2.0.0"))]
        progress = DeploymentProgress(
            version="2.0.0", manifest=rng.choice(digests), phase=rng.choice(list(Phase)), since=world.now,
            code=rng.choice(["", "golden_mismatch", "insufficient_disk"]), attempt=rng.choice([0, 0, 50]),
        )  # fmt: skip
        model = ReportedModel(
            state=rng.choice(list(ServingState)), version=rng.choice(versions), manifest=rng.choice(digests),
            desired_version=rng.choice(versions), deployment=rng.choice([None, progress]),
            fault=rng.choice([None, Fault(code="load_failed")]),
        )  # fmt: skip
        body = Reported(
            device=self.rng.choice(self.names), session_id="s", generation=1, at=world.now,
            facts_digest=FACTS.facts_digest(), models=rng.choice([{}, {"lenet": model}, {"other": model}]),
            fault=rng.choice([None, None, Fault(code="journal_failed")]),
            heard_every_s=rng.choice([None, 30.0, 3600.0]),
        )  # fmt: skip
        world.telemetry.take([checked(body.device, body, world.now)])

    def health(self) -> None:
        self.seq += 1
        name = self.rng.choice(self.names)
        body = Health(device=name, session_id="h", seq=self.seq, at=self.world.now, window_s=1, uptime_s=1)
        self.world.telemetry.take([checked(name, body, self.world.now)])

    def facts(self) -> None:
        if self.world.fleet:
            self.world.telemetry.put_facts(self.one(), self.rng.choice([FACTS, SLOW]), self.world.now)

    def offline(self) -> None:
        if self.world.fleet:
            self.world.offline(self.one())

    def back(self) -> None:
        if self.world.fleet:
            self.world.back(self.one())

    def poll(self) -> None:
        self.world.presence.polled(self.rng.choice(self.names), self.world.now)

    def roll(self) -> None:
        if self.world.fleet and not self.rollout:
            self.rollout = self.world.start()

    def end(self) -> None:
        if self.rollout and self.world.state(self.rollout).value == "running":
            self.world.command(self.rollout, self.rng.choice([Command.ROLLBACK, Command.ABORT]))

    def wait(self) -> None:
        """Seconds, or long enough for a device to be late or silent, or the registry was away."""
        seconds = self.rng.choice([5, 20, 200, 400, 700])
        if self.rng.random() < 0.3:
            self.world.now += timedelta(seconds=seconds)
        else:
            for _ in range(0, seconds, 50):
                self.world.now += timedelta(seconds=50)
                self.world.presence.listen(self.world.now)
        self.world.presence.listen(self.world.now)
        self.world.tick()


def _manifest(world: World, version: str) -> str:
    from registry.db.catalog_rows import VersionRow

    with world.database.read() as session:
        return session.scalar(select(VersionRow.manifest).where(VersionRow.version == version)) or ""


@pytest.mark.parametrize("seed", range(8))
def test_the_index_is_always_what_its_rules_make_of_the_raw_rows(world: World, seed: int) -> None:
    chance = Chance(world, random.Random(seed))
    steps: list[Callable[[], None]] = [
        chance.add, chance.add, chance.put, chance.remove, chance.deploy, chance.undeploy, chance.answer, chance.answer,
        chance.say, chance.say, chance.health, chance.facts, chance.offline, chance.back, chance.poll, chance.roll,
        chance.end, chance.wait,
    ]  # fmt: skip
    world.presence.listen(world.now)
    done: list[str] = []
    for _ in range(60):
        world.now += timedelta(milliseconds=1)
        step = chance.rng.choice(steps)
        done.append(step.__name__)
        step()
        world.presence.listen(world.now)  # what only time changes follows by the presence job
        assert written(world) == recomputed(world), done
        assert recount(world.database) == {}, done
    before = written(world)
    with world.database.write() as session:
        session.execute(delete(DeviceIndexRow))
        session.execute(delete(DeviceSlotRow))
        forget_index(session)
    told: list[tuple[int, int]] = []
    assert rebuild_index(world.database, world.now, lambda *far: told.append(far)) == len(before)
    assert told == [(len(before), len(before))]
    assert written(world) == before


def connection(world: World, name: str) -> str:
    return str(written(world)[name][0])


def test_time_alone_makes_a_device_late_and_then_silent_and_a_sign_of_life_brings_it_back(world: World) -> None:
    world.add("edge")
    world.presence.listen(world.now)
    assert connection(world, "edge") == "online"
    seen = []
    for _ in range(14):
        world.now += timedelta(seconds=50)
        world.presence.listen(world.now)
        seen.append(connection(world, "edge"))
    assert list(dict.fromkeys(seen)) == ["online", "late", "silent"]
    world.answer("edge")
    assert connection(world, "edge") == "online"
    world.offline("edge")
    assert connection(world, "edge") == "offline"


def test_a_device_that_only_polls_over_http_is_told_apart_from_one_that_was_never_seen(world: World) -> None:
    for name in ("new", "polls"):
        world.devices.put(name, {}, world.now)
    world.presence.polled("polls", world.now)
    world.presence.listen(world.now)
    assert (connection(world, "new"), connection(world, "polls")) == ("never_seen", "http_only")


def test_a_pause_of_the_registry_makes_no_device_silent(world: World) -> None:
    world.add("edge")
    world.presence.listen(world.now)
    world.now += timedelta(hours=3)
    world.presence.listen(world.now)
    assert connection(world, "edge") in {"online", "late"}


def test_a_report_of_health_from_a_device_that_is_there_writes_nothing_into_the_index(world: World) -> None:
    world.add("edge")
    with world.database.write() as session:  # as if the row were wrong: only a write would mend it
        session.execute(update(DeviceIndexRow).values(state="idle"))
    body = Health(device="edge", session_id="h", seq=1, at=world.now, window_s=1, uptime_s=1)
    world.telemetry.take([checked("edge", body, world.now)])
    assert written(world)["edge"][1] == "idle"


def test_the_index_is_made_again_where_other_rules_made_it(world: World) -> None:
    world.add("edge")
    right = written(world)
    with world.database.write() as session:
        session.execute(update(DeviceIndexRow).values(state="idle"))
        session.execute(update(RegistryStateRow).values(index_rules=rules.RULES + 1))
    with world.database.read() as session:
        assert not is_current(session)
    assert rebuild_index(world.database, world.now) == 1
    assert written(world) == right
    assert rebuild_index(world.database, world.now) == 0


def test_a_comparison_names_the_devices_of_which_the_index_says_something_wrong(world: World) -> None:
    for name in ("edge-1", "edge-2", "edge-3"):
        world.add(name)
    look = partial(compare_index, world.database, world.now, lambda: False)
    assert look() == IndexComparison(devices=3, compared=3, wrong=())
    with world.database.write() as session:
        lost, other, _ = session.scalars(select(DeviceRow.id).order_by(DeviceRow.id)).all()
        session.execute(delete(DeviceIndexRow).where(DeviceIndexRow.device_id == lost))
        session.execute(update(DeviceIndexRow).where(DeviceIndexRow.device_id == other).values(state="failing"))
    assert look() == IndexComparison(devices=3, compared=3, wrong=(lost, other))
    with world.database.write() as session:
        index(session, look().wrong, world.now)
    assert look().wrong == ()


def test_after_a_restore_nobody_counts_as_online_until_heard(world: World) -> None:
    world.add("edge")
    with world.database.write() as session:
        forget_presence(session)
        forget_index(session)
    rebuild_index(world.database, world.now)
    assert connection(world, "edge") == "silent"


def test_hosts_are_told_apart_by_architecture_and_best_target() -> None:
    gpu = json.loads(FACTS.canonical())
    gpu["backends"][0]["targets"] = ["cpu", "gpu"]
    assert rules.hardware(gpu) == f"{FACTS.arch}/gpu"
    assert rules.hardware(json.loads(SLOW.canonical())) == "aarch64/cpu"
    assert rules.hardware(json.loads(Platform(os="linux", arch="x86_64").canonical())) == "x86_64/none"
