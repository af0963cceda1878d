"""What all slots share: the ports, the pools, the clock, and the facts of this host once they are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from agent.core.epochs import EpochVerdict
from agent.core.slots import Choice, SlotRecord
from agent.errors import PermanentError
from agent.reconciler.desired import DesiredState
from agent.reconciler.ports import Clock, DataPath, Journal, LocalPolicy, Pool, Steps, Unrestricted
from agent.reconciler.publisher import EventPublisher
from agent.reconciler.tasks import TaskDone
from agent.worker.measure import Measurement
from agent.worker.spec import Worker
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import Fault
from registry.contracts.digest import Digest
from registry.contracts.fit.platforms import Platform


@dataclass
class Context:
    """Control thread only."""

    journal: Journal
    steps: Steps
    data_path: DataPath
    clock: Clock
    desired: DesiredState
    publisher: EventPublisher
    network: Pool
    """Downloads: few at once, each may take hours."""
    loads: Pool
    """Hashing, starting and ending workers: never behind a download."""
    put: Callable[[Any], None]
    """Into the control queue."""
    drain_timeout_s: float
    boot: str = ""
    """This boot of the host, as the kernel names it."""
    host: LocalPolicy = field(default_factory=Unrestricted)
    """When this host lets a deployment download and switch."""
    facts: Platform | None = None
    changed: bool = True
    """Something that a report says has changed."""
    ask: bool = False
    """The registry is to be asked over HTTP, soon: the broker brought what is not to be believed from it, or less than
    the registry has."""
    fault: Fault | None = None
    """Why the journal refused last; None once it takes something again."""
    records: dict[str, SlotRecord] = field(default_factory=dict)
    """The newest record of every slot, as in the journal. Replaced whole, entry by entry: others may read it."""
    damage: Callable[[], Iterable[tuple[str, str]]] = tuple
    """What was found damaged on the disk since the last call: kind and message."""

    def kept(self) -> set[Digest]:
        """Variants that are never evicted."""
        return {place.variant_digest for record in self.records.values() for place in record.places()}

    def facts_digest(self) -> str:
        """Of this host; of the last start's facts until the new ones are known."""
        if self.facts is not None:
            return self.facts.facts_digest()
        return (self.journal.get("facts_digest") or b"").decode()

    def offer(self, document: bytes, *, from_registry: bool = False) -> None:
        """A desired state came in, from the broker or from the registry. Raises AgentError when it is not taken."""
        if not document:
            return  # a cleared retained message says nothing
        verdict = self.desired.offer(document, from_registry=from_registry)
        if verdict in (EpochVerdict.TAKE, EpochVerdict.RESTORED):
            self.changed, self.fault = True, None
            why = (
                " of another epoch: the registry was put back from a backup" if verdict is EpochVerdict.RESTORED else ""
            )
            self.publisher.publish("agent", phase="desired", message=f"generation {self.desired.generation}{why}")
        elif verdict is EpochVerdict.ASK or (verdict is EpochVerdict.STALE and not from_registry):
            self.ask = True
        elif verdict is EpochVerdict.STALE:
            raise PermanentError(
                DeploymentCode.BAD_ANSWER,
                f"the registry's desired state is older than generation {self.desired.generation}, which was seen: "
                "ignored. It was put back from a backup without `registry restore`; it notices that by this report",
            )

    def load_task(self, choice: Choice) -> Callable[[Any], Worker]:
        """The work that verifies and loads an artifact that is in the cache."""
        measured = self.measured(choice)

        def work(cancel: Any) -> Worker:
            self.steps.verify(choice, cancel)
            return self.steps.warm(choice, measured, cancel)

        return work

    def measured(self, choice: Choice) -> Measurement | None:
        """What an earlier start on this host found of it."""
        return self.journal.measured(_measure_key(choice), self.facts_digest())

    def keep_measure(self, choice: Choice, worker: Worker) -> None:
        """Spares the next start the measuring."""
        self.journal.keep_measure(_measure_key(choice), self.facts_digest(), worker.measured)

    def discard(self, worker: Worker) -> None:
        """Ends a worker that serves nobody, elsewhere: ending takes time."""
        self.loads.submit(lambda: worker.close(self.drain_timeout_s))

    def end(self, leaving: Future[Worker | None], then: Callable[[], None]) -> None:
        """Ends the worker that a swap sets free, once it has drained; `then` runs in the control thread after it."""
        # The data thread fulfils the future: it only hands over.
        leaving.add_done_callback(lambda done: self.loads.submit(lambda: self._end(done, then)))

    def _end(self, leaving: Future[Worker | None], then: Callable[[], None]) -> None:
        """In the pool."""
        fault = leaving.exception()
        if fault is not None:
            self.put(
                TaskDone(lambda: self.publisher.publish("worker", phase="switch", code="internal", message=str(fault)))
            )
        else:
            worker = leaving.result()
            if worker is not None:
                worker.close(self.drain_timeout_s)
        self.put(TaskDone(then))


def _measure_key(choice: Choice) -> str:
    return f"{choice.variant_digest}/{choice.profile}"
