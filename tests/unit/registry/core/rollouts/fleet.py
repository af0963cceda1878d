"""A rollout in memory: what the services do with decisions, on simulated devices."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

from registry.contracts.device.deployments import DeploymentProgress, Phase
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState, Command, RolloutState, WaveState
from registry.core.rollouts import actions
from registry.core.rollouts import decide as decisions
from registry.core.rollouts.actions import Action, Report
from registry.core.rollouts.decide import decide
from registry.core.rollouts.gates import Cohorts, Kind, WaveFacts, accepted_of
from registry.core.rollouts.machine import Move, RolloutTrigger, advance
from registry.core.rollouts.rates import Bucket, Candidate
from registry.core.rollouts.waves import Member, assign, tail

S, R = ActionState, RolloutState
NEW, OLD = "sha256:" + "1" * 64, "sha256:" + "0" * 64
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
ROAD = (Phase.DOWNLOADING, Phase.VERIFIED, Phase.WARMING, Phase.SWITCHING, Phase.PROBATION, Phase.COMMITTED)


@dataclass
class Device:
    """A simulated device: it does what its desired state says, and its words may be late, twice or lost."""

    name: str
    online: bool = True
    seen: datetime = START
    desired: str = OLD
    attempt: int = 0
    serving: str = OLD
    step: int = -1
    fault: Phase | None = None
    """It fails here."""
    said: list[Report] = field(default_factory=list)
    """Every word so far; any of them may be delivered, again and in any order."""

    def wish(self, digest: str, attempt: int) -> None:
        if (digest, attempt) != (self.desired, self.attempt):
            self.desired, self.attempt, self.step = digest, attempt, -1

    def work(self, now: datetime) -> None:
        """One step further on the way to what is desired."""
        if self.step + 1 >= len(ROAD):
            return
        self.step += 1
        phase = ROAD[self.step]
        if self.fault is phase and self.desired == NEW:
            self.step = len(ROAD)
            switched = phase in (Phase.SWITCHING, Phase.PROBATION)
            self.serving = OLD
            self.say(Phase.ROLLED_BACK if switched else Phase.FAILED, now)
            return
        if phase is Phase.SWITCHING:
            self.serving = self.desired
        self.say(phase, now)

    def say(self, phase: Phase, now: datetime) -> None:
        progress = DeploymentProgress(
            version="2", manifest=self.desired, rollout="r", attempt=self.attempt, phase=phase, since=now
        )
        self.said.append(Report(progress, self.serving, steady=True, at=now))


class Fleet:
    """The registry's rows, and the application of decisions by compare-and-set."""

    def __init__(self, spec: RolloutSpec, names: list[str]) -> None:
        self.spec = spec
        self.now = START
        self.state = R.SCHEDULED
        self.since = START
        self.revision = 0
        self.generation = 0
        self.bucket = Bucket()
        self.devices = {name: Device(name) for name in names}
        place = assign("r", spec.waves, [Member(name, "cpu") for name in names])
        self.wave_of = dict(place)
        self.rows = {name: Action("r", 0, NEW, S.PLANNED, START) for name in place}
        self.spoke: set[str] = set()
        self.waves = [
            WaveFacts(i, soak_s=w.soak_s, min_committed=w.min_committed) for i, w in enumerate(spec.waves)
        ] + [WaveFacts(tail(spec), Kind.TAIL)]
        self.offered: list[tuple[str, RolloutState]] = []
        self.valid_until = START + timedelta(days=30)

    # -- what decide sees

    def facts(self, wave: WaveFacts) -> WaveFacts:
        names = [name for name, index in self.wave_of.items() if index == wave.index]
        counts = Counter(self.rows[name].state for name in names)
        return replace(wave, counts=counts, spoke=len(self.spoke & set(names)))

    def snapshot(self) -> decisions.Snapshot:
        started = {wave.index for wave in self.waves if wave.state is not WaveState.PENDING}
        open_rows = {n: r for n, r in self.rows.items() if self.wave_of[n] in started}
        back = [n for n, r in open_rows.items() if r.state is S.EXCLUDED and self.devices[n].online]
        planned = [n for n, r in open_rows.items() if r.state is S.PLANNED]
        return decisions.Snapshot(
            self.spec,
            self.state,
            self.since,
            self.valid_until,
            tuple(map(self.facts, self.waves)),
            tuple(Candidate(n, 1) for n in sorted([*planned, *back], key=lambda n: (self.wave_of[n], n))),
            tuple(self.overdue()),
            tuple(
                decisions.Away(n, self.devices[n].seen)
                for n, r in open_rows.items()
                if r.state in (S.PLANNED, S.OFFERED) and not self.devices[n].online
            ),
            sum(self.lost().values()),
            self.bucket,
            cohorts=Cohorts(),
        )

    def lost(self) -> Counter[int]:
        away = {n for n, device in self.devices.items() if not device.online}
        lost = [n for n, r in self.rows.items() if r.state in actions.HOLDS_SLOT_WHILE_AWAY and n in away]
        dead = [n for n, r in self.rows.items() if r.state in actions.LOST]
        return Counter(self.wave_of[n] for n in (*lost, *dead))

    def overdue(self) -> list[decisions.Overdue]:
        found = []
        for name, row in self.rows.items():
            end = actions.due(row.state, row.since, self.spec.timeouts, self.spec.policy)
            if end is not None and end <= self.now:
                found.append(decisions.Overdue(name, row.state, end))
        return found

    # -- what the services do

    def apply(self, decided: tuple[decisions.Decision, ...], revision: int) -> bool:
        """Each decision, if what it rests on still holds. True: one of them leads on, ask again."""
        again = False
        for one in decided:
            if revision != self.revision:
                return True
            if isinstance(one, decisions.Shift):
                self.judge(one)
                self.move(one.event)
                return True
            again = self.apply_to_wave(one) or again
            self.apply_to_devices(one)
            self.revision += 1  # stands for the compare-and-set on what this decision rested on
            revision = self.revision
        return again

    def apply_to_wave(self, one: decisions.Decision) -> bool:
        match one:
            case decisions.StartWave(index) if self.waves[index].state is WaveState.PENDING:
                self.set_wave(index, state=WaveState.RELEASING, started_at=self.now)
                return True
            case decisions.PassWave(index):
                self.set_wave(index, state=WaveState.PASSED)
                return True
            case decisions.Soak(index):
                self.set_wave(index, state=WaveState.SOAKING, soak_since=self.now)
            case decisions.Unsoak(index):
                self.set_wave(index, state=WaveState.RELEASING, soak_since=None)
        return False

    def apply_to_devices(self, one: decisions.Decision) -> None:
        match one:
            case decisions.Offer(names, bucket):
                self.offer(names, bucket)
            case decisions.TimeOut(late):
                for each in late:
                    if self.rows[each.device].state is each.state:
                        self.put(each.device, S.TIMED_OUT)
            case decisions.ExcludeOffline(names):
                for name in self.take_back(names, S.EXCLUDED):
                    self.wave_of[name] = tail(self.spec)
            case decisions.FailOffline(names):
                self.take_back(names, S.FAILED)
            case decisions.Withdraw():
                self.take_back(tuple(self.rows), S.CANCELLED)
                for name, row in self.rows.items():
                    if row.state in actions.REQUEST_ENDS:
                        self.devices[name].wish(OLD, row.attempt)

    def take_back(self, names: tuple[str, ...], state: ActionState) -> list[str]:
        """The device is no longer to change: as it was is what is desired."""
        done = [name for name in names if self.put(name, state)]
        for name in done:
            self.devices[name].wish(OLD, self.devices[name].attempt)
        return done

    def judge(self, shift: decisions.Shift) -> None:
        if shift.wave is not None and shift.event in (RolloutTrigger.GATE_FAILED, RolloutTrigger.INCONCLUSIVE):
            state = WaveState.INCONCLUSIVE if shift.event is RolloutTrigger.INCONCLUSIVE else WaveState.FAILED
            if self.waves[shift.wave].state is not WaveState.PASSED:
                self.set_wave(shift.wave, state=state)

    def set_wave(self, index: int, **change: object) -> None:
        self.waves[index] = replace(self.waves[index], **change)  # type: ignore[arg-type]

    def put(self, name: str, state: ActionState) -> bool:
        changed = actions.set_by_registry(self.rows[name], state, self.now)
        if changed is not None:
            self.rows[name] = changed
        return changed is not None

    def offer(self, names: tuple[str, ...], bucket: Bucket) -> None:
        self.bucket = bucket
        for name in names:
            if self.put(name, S.OFFERED):
                self.offered.append((name, self.state))
                target = self.rows[name].target
                assert target is not None
                self.devices[name].wish(target, self.rows[name].attempt)

    def move(self, move: Move) -> None:
        after = advance(self.state, move)
        assert after is not None
        self.revision += 1
        self.state, self.since = after, self.now
        if move in (Command.ROLLBACK, RolloutTrigger.GATE_FAILED_ROLLBACK):
            self.begin_rollback()
        if move is Command.RESUME:
            for wave in self.waves:
                self.resume(wave)

    def resume(self, wave: WaveFacts) -> None:
        accepted = accepted_of(self.facts(wave).counts, self.lost()[wave.index])
        live = wave.state in (WaveState.PENDING, WaveState.PASSED)
        self.set_wave(
            wave.index,
            accepted=accepted,
            started_at=self.now if wave.started_at else None,
            soak_since=wave.soak_since if live else None,
            state=wave.state if live else WaveState.RELEASING,
        )

    def begin_rollback(self) -> None:
        self.generation += 1
        kept = [w for w in self.waves if w.kind is not Kind.ROLLBACK]
        index = len(kept)
        for name, row in list(self.rows.items()):
            if actions.goes_back(row.state, returning=self.wave_of[name] == index):
                self.rows[name] = Action("r", self.generation, OLD, S.PLANNED, self.now)
                self.wave_of[name] = index
            elif row.state is S.PLANNED:
                self.put(name, S.CANCELLED)
        self.waves = [*kept, WaveFacts(index, Kind.ROLLBACK, WaveState.RELEASING, started_at=self.now)]

    def deliver(self, name: str, report: Report) -> None:
        self.devices[name].seen = self.now
        row = self.rows[name]
        wanted = self.devices[name].desired == row.target
        changed = actions.take(row, replace(report, wanted=wanted), self.now)
        if changed is not None:
            self.rows[name] = changed
            self.spoke.add(name)

    def tick(self) -> None:
        for _ in range(50):
            snapshot = self.snapshot()
            if self.state is R.ROLLING_BACK:
                snapshot = replace(snapshot, waves=tuple(w for w in snapshot.waves if w.kind is Kind.ROLLBACK))
            if not self.apply(decide(snapshot, self.now), self.revision):
                return
        raise AssertionError("deciding does not end")
