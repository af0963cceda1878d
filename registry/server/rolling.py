"""What moves rollouts beside the requests: a thread that ticks when something happened, and the metrics of rollouts.

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
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool

from registry.contracts.rollout_states import ActionState, RolloutState
from registry.db.engine import Database
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.errors import RegistryError
from registry.services.rollouts.store import ACTIVE
from registry.services.rollouts.ticker import Ticker

PAUSE_S = 0.2
JOIN_S = 10.0
log = logging.getLogger(__name__)


class Waker:
    """Ticks soon after `wake`. Thread-safe; `wake` never blocks."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._stopping = threading.Event()

    def wake(self) -> None:
        """Something happened that a rollout may wait for."""
        self._event.set()

    def stop(self) -> None:
        """No more ticks."""
        self._stopping.set()
        self._event.set()

    def run(self, ticker: Ticker, clock: Callable[[], datetime]) -> None:
        """Until `stop`."""
        while not self._stopping.is_set():
            self._event.wait()
            self._event.clear()
            if self._stopping.is_set():
                return
            try:
                ticker.tick(clock(), self._stopping.is_set)
            except RegistryError as error:
                log.warning("rollouts: %s; the scheduler's next tick tries again", error.message)
            except Exception:
                log.exception("rollouts: a tick failed; the scheduler's next one tries again")
            self._stopping.wait(PAUSE_S)


class RolloutMetrics(Collector):
    """Rollouts by state, and devices by state in the rollouts that are under way; counted when somebody asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """Both gauges, with every state."""
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
        yield rollouts
        yield devices


@asynccontextmanager
async def rolling(
    waker: Waker, ticker: Ticker, database: Database, clock: Callable[[], datetime]
) -> AsyncIterator[None]:
    """The thread and the metrics, as long as the server runs."""
    metrics = RolloutMetrics(database)
    thread = threading.Thread(target=waker.run, args=(ticker, clock), name="rollouts", daemon=True)
    thread.start()
    waker.wake()  # what a killed process left undone
    REGISTRY.register(metrics)
    try:
        yield
    finally:
        REGISTRY.unregister(metrics)
        waker.stop()
        await run_in_threadpool(thread.join, JOIN_S)
