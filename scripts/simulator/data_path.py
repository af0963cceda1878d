"""The data path of a simulated host: who answers which model, and who looks on. Requests are numbers: so many for the
simulated time that passed, so that a world that falls behind makes up for them and no probation sees too few."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from zlib import crc32

from agent.core.probation import Tally
from agent.core.slots import Choice
from agent.errors import AgentError
from agent.worker.spec import Worker
from registry.contracts.counters import DURATION_BOUNDS_S
from registry.contracts.device.deployments import ShadowFigures
from registry.contracts.device.messages import DurationTotals, ModelHealth, Quantiles
from scripts.simulator.faults import Bad, Fault
from scripts.simulator.host import RUN_US, SimulatedSteps

REQUESTS_A_SECOND = 5.0


@dataclass
class _Serving:
    choice: Choice
    worker: Worker
    tally: Tally
    answered_to_s: float
    """Requests up to this moment of simulated time are answered."""


class SimulatedShadow:
    """Compares the share of the made-up requests: all alike, or none."""

    failure: AgentError | None = None

    def __init__(self, model: str, share: float, agrees: bool) -> None:
        self._model = model
        self._share = share
        self._agrees = agrees
        self._due = 0.0
        self.ended = False

    def ask(self, model: str, count: int) -> None:
        """So many requests to a model were answered."""
        if model == self._model and not self.ended:
            self._due += count * self._share

    def figures(self) -> ShadowFigures:
        """As the port says."""
        compared = int(self._due)
        if not compared:
            return ShadowFigures()
        off = 0.0 if self._agrees else 9.0
        agreement = 1.0 if self._agrees else 0.0
        return ShadowFigures(compared=compared, agreement=agreement, max_abs=off, mean_abs=off, latency_ratio=1.0)

    def end(self, timeout_s: float) -> bool:
        """As the port says."""
        self.ended = True
        return True


class SimulatedDataPath:
    """Who answers which model. Requests are made up by `catch_up`, at a steady rate."""

    def __init__(
        self, publish: Callable[[str, bytes, bool], None], steps: SimulatedSteps, seconds: Callable[[], float]
    ) -> None:
        self._publish = publish
        self._steps = steps
        self._seconds = seconds
        self.serving: dict[str, _Serving | None] = {}
        self._totals: dict[str, tuple[int, int]] = {}
        self._not_finite: dict[str, int] = {}
        self._latency: dict[str, list[int]] = {}
        self._shadows: list[SimulatedShadow] = []

    def assign(self, model: str) -> None:
        """As the port says."""
        self.serving.setdefault(model, None)

    def serve(self, choice: Choice, worker: Worker, tally: Tally) -> Future[Worker | None]:
        """As the port says."""
        return self._swap(choice.model, _Serving(choice, worker, tally, self._seconds()))

    def rebind(self, choice: Choice, worker: Worker) -> None:
        """As the port says."""
        place = self.serving.get(choice.model)
        if place is not None and place.worker is worker:
            place.choice = choice

    def shadow(self, choice: Choice, worker: Worker, share: float) -> SimulatedShadow:
        """As the port says."""
        agrees = self._steps.bad(choice) not in (Bad.WRONG, Bad.NAN)
        self._shadows = [shadow for shadow in self._shadows if not shadow.ended]
        self._shadows.append(SimulatedShadow(choice.model, share, agrees))
        return self._shadows[-1]

    def clear(self, model: str) -> Future[Worker | None]:
        """As the port says."""
        return self._swap(model, None)

    def withdraw(self, model: str) -> Future[Worker | None]:
        """As the port says."""
        done = self._swap(model, None)
        self.serving.pop(model, None)
        return done

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """As the port says."""
        self._publish(topic, payload, retain)

    def publish_durable(self, topic: str, payload: bytes) -> None:
        """As the port says."""
        self._publish(topic, payload, False)

    def catch_up(self) -> None:
        """Answers the requests of the time since the last call."""
        now = self._seconds()
        for place in self.serving.values():
            if place is not None:
                count = int((now - place.answered_to_s) * REQUESTS_A_SECOND)
                place.answered_to_s += count / REQUESTS_A_SECOND
                self._answer(place, count)
                for shadow in self._shadows:
                    shadow.ask(place.choice.model, count)

    def _answer(self, place: _Serving, count: int) -> None:
        steps, tally, model = self._steps, place.tally, place.choice.model
        bad = steps.bad(place.choice)
        if steps.fault is Fault.ROLLING_BACK and place.choice.version != steps.first:
            bad = Bad.ERRORS
        failed = (count + 2) // 3 if bad is Bad.ERRORS else 0
        tally.run.record(RUN_US * (10 if bad is Bad.SLOW else 1), count)
        tally.answered += count - failed
        if bad is Bad.NAN and tally.watching:
            tally.not_finite += count
            tally.specials[0] += count  # NaN, of the kinds that probation tells apart
            tally.unexpected[0] += count
            self._not_finite[model] = self._not_finite.get(model, 0) + count
        if failed:
            tally.errors["run_failed"] += failed
        requests, errors = self._totals.get(model, (0, 0))
        self._totals[model] = (requests + count, errors + failed)
        latency = self._latency.setdefault(model, [0] * (len(DURATION_BOUNDS_S) + 1))
        for more, number in enumerate(_spread(count, place.choice.version)):
            latency[_bucket(RUN_US * (10 if bad is Bad.SLOW else 1)) + more] += number

    def health(self) -> dict[str, ModelHealth]:
        """For the health report."""
        found = {}
        for model, place in self.serving.items():
            requests, errors = self._totals.get(model, (0, 0))
            quick = Quantiles(p50=RUN_US, p90=RUN_US, p99=RUN_US, max=RUN_US)
            slow = place is not None and self._steps.bad(place.choice) is Bad.SLOW
            run = Quantiles(p50=RUN_US * 10, p90=RUN_US * 10, p99=RUN_US * 10, max=RUN_US * 10) if slow else quick
            found[model] = ModelHealth(
                version=place.choice.version if place else None,
                requests=requests,
                errors={"run_failed": errors} if errors else {},
                run_us=run,
                latency_us=run,
                latency=DurationTotals(counts=tuple(self._latency.get(model, ())), sum_s=requests * RUN_US / 1e6),
                queue_limit=256,
                not_finite=self._not_finite.get(model, 0),
            )
        return found

    def _swap(self, model: str, place: _Serving | None) -> Future[Worker | None]:
        old, self.serving[model] = self.serving.get(model), place
        done: Future[Worker | None] = Future()
        done.set_result(old.worker if old else None)
        return done


def _bucket(us: float) -> int:
    return sum(bound * 1e6 < us for bound in DURATION_BOUNDS_S)


def _spread(count: int, version: str) -> tuple[int, int, int]:
    """How many take about as long as one run, twice and five times as long: of each version always the same shares."""
    twice, long = (
        count * (20 + crc32(version.encode()) % 5 * 6) // 100,
        count * (2 + crc32(version.encode()) % 3) // 100,
    )
    return count - twice - long, twice, long
