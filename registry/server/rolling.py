"""What moves rollouts beside the requests: threads that tick and plan when something happened, and the metrics.

The clock's ticks are the scheduler's. Events come together: after a tick the next one waits PAUSE_S, so that a
thousand reports a second are not a thousand ticks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool

from registry.contracts.rollout.states import ActionState, RolloutState
from registry.db.engine import Database
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.errors import InTheWayError, RegistryError, TemporaryError
from registry.services.rollouts.store import ACTIVE
from registry.services.rollouts.ticker import Ticker

PAUSE_S = 0.2
JOIN_S = 10.0
log = logging.getLogger(__name__)


class Waker:
    """Takes steps soon after `wake`, each kind in a thread of its own. Thread-safe; `wake` never waits for a step."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wakes = 0
        self._stopping = threading.Event()

    def wake(self) -> None:
        """Something happened that a rollout may wait for."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """No more steps."""
        self._stopping.set()
        self.wake()

    def run(self, step: Callable[[Callable[[], bool]], object]) -> None:
        """Until `stop`; `step` gets what tells it to end early."""
        seen = 0
        while True:
            with self._changed:
                while self._wakes == seen:
                    self._changed.wait()
                seen = self._wakes
            if self._stopping.is_set():
                return
            try:
                step(self._stopping.is_set)
            except InTheWayError as error:
                log.info("rollouts: %s", error.message)
            except TemporaryError:
                pass  # the database has said it; the scheduler tries again
            except RegistryError as error:
                log.warning("rollouts: %s; the scheduler tries again", error.message)
            except Exception:
                log.exception("rollouts: a step failed; the scheduler tries again")
            self._stopping.wait(PAUSE_S)


class RolloutMetrics(Collector):
    """Counted when somebody asks: how often another transaction was in the way and how often the database could not do
    its work; and, while it can be read, rollouts by state, and by state the devices of those that are under way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """The gauges with every state, and the counters."""
        yield CounterMetricFamily(
            "modelfleet_database_conflicts",
            "Writes that another process was in the way of, and that are done again",
            self._database.conflicts,
        )
        refusals = CounterMetricFamily(
            "modelfleet_database_refusals", "Reads and writes that the database could not do, by code", labels=["code"]
        )
        for code, number in sorted(self._database.refusals.items()):
            refusals.add_metric([code], number)
        yield refusals
        try:
            yield from self._states()
        except TemporaryError:
            return

    def _states(self) -> list[Metric]:
        rollouts = GaugeMetricFamily("modelfleet_rollouts", "Rollouts by state", labels=["state"])
        devices = GaugeMetricFamily(
            "modelfleet_rollout_devices", "Devices in rollouts that are under way, by state", labels=["state"]
        )
        with self._database.read() as session:
            by_state = select(RolloutRow.state, func.count()).group_by(RolloutRow.state)
            found = {state: number for state, number in session.execute(by_state)}  # noqa: C416 - rows are no pairs
            of_devices = select(ActionRow.state, func.count()).join(RolloutRow).where(RolloutRow.state.in_(ACTIVE))
            counted = {s: number for s, number in session.execute(of_devices.group_by(ActionRow.state))}  # noqa: C416
        for state in RolloutState:
            rollouts.add_metric([state.value], found.get(state.value, 0))
        for each in ActionState:
            devices.add_metric([each.value], counted.get(each.value, 0))
        return [rollouts, devices]


@asynccontextmanager
async def rolling(
    waker: Waker, ticker: Ticker, database: Database, clock: Callable[[], datetime]
) -> AsyncIterator[None]:
    """The threads and the metrics, as long as the server runs."""
    metrics = RolloutMetrics(database)
    steps = {
        "rollouts": lambda stop: ticker.tick(clock(), stop),
        "plans": lambda stop: ticker.plan(clock, stop),
    }
    threads = [threading.Thread(target=waker.run, args=(step,), name=name, daemon=True) for name, step in steps.items()]
    for thread in threads:
        thread.start()
    waker.wake()  # what a killed process left undone
    REGISTRY.register(metrics)
    try:
        yield
    finally:
        REGISTRY.unregister(metrics)
        waker.stop()
        for thread in threads:
            await run_in_threadpool(thread.join, JOIN_S)
