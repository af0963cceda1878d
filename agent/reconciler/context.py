"""What all slots share: the ports, the pools, the clock, the facts of this host once they are known; events for the
world, and slow work outside the control thread.

Events go through the data path's outbox. While the broker is away copies of the newest ones are kept here for the
report over HTTP; the registry drops what it gets twice.

INVARIANT: outcomes of slow work are handled in the control thread only, and never after `cancel`. A worker that was
started for a cancelled task is closed in the pool: nobody else knows it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import uuid4

from agent.core.slots import Choice, SlotRecord
from agent.core.trust import Freshness, Refusals
from agent.errors import AgentError, PermanentError, StepCancelledError, TransientError
from agent.reconciler.desired import DesiredState, EpochVerdict
from agent.reconciler.ports import Clock, DataPath, Journal, LocalPolicy, Pool, Steps, Unrestricted
from agent.worker.measure import Measurement
from agent.worker.spec import Worker
from registry import tracing
from registry.contracts.codes import AgentCode, DeploymentCode
from registry.contracts.device.messages import Event, Fault
from registry.contracts.fit.platforms import Platform
from registry.contracts.topics import Topics
from registry.contracts.wire import Digest
from registry.trust.faults import TrustFault, TrustRefusedError

log = logging.getLogger(__name__)
MAX_UNSENT = 500
MAX_MESSAGE = 2000
REPEAT_AFTER_S = 60.0
"""The same fault again is no new event before that."""


class EventPublisher:
    """Control thread only."""

    def __init__(self, device: str, topics: Topics, data_path: DataPath, journal: Journal, clock: Clock) -> None:
        self._topic = topics.device(device, "events")
        self._data_path = data_path
        self._journal = journal
        self._clock = clock
        self.unsent: deque[Event] = deque(maxlen=MAX_UNSENT)
        self.connected = False
        self._last_fault: tuple[str, str, str] | None = None
        self._fault_again_at = 0.0

    def publish(
        self, kind: str, *, phase: str, code: str = "", message: str = "", slot: SlotRecord | None = None
    ) -> None:
        """One event, to the log and to the registry. A disk that refuses it is logged: nothing waits for events."""
        if slot is None and code and self._is_repeated((phase, code, message)):
            return
        desired = slot.desired if slot else None
        model = slot.model if slot else None
        about = {
            "model": model,
            "version": desired.version if desired else None,
            "rollout": desired.rollout if desired else None,
        }
        log.log(logging.WARNING if code else logging.INFO, "%s", _line(kind, model, phase, code, message), extra=about)
        try:
            event = Event(
                event_id=uuid4().hex,
                seq=self._journal.next_number("event_seq"),
                at=self._clock.now(),
                kind=kind,
                model=model,
                version=desired.version if desired else None,
                generation=slot.generation if slot else 0,
                rollout=desired.rollout if desired else None,
                phase=phase,
                code=code[:64],
                message=message[:MAX_MESSAGE],
            )
            self._data_path.publish_durable(self._topic, event.canonical())
        except AgentError as error:
            log.error("an event could not be kept: %s", error)  # noqa: TRY400 - expected, the text says all
        else:
            if not self.connected:
                self.unsent.append(event)

    def _is_repeated(self, fault: tuple[str, str, str]) -> bool:
        now = self._clock.monotonic()
        if fault == self._last_fault and now < self._fault_again_at:
            return True
        self._last_fault, self._fault_again_at = fault, now + REPEAT_AFTER_S
        return False


def _line(kind: str, model: str | None, phase: str, code: str, message: str) -> str:
    line = ": ".join(part for part in (f"{kind} {model or ''}".strip(), phase, code, message) if part)
    return f"{line} (registry code {code})" if code else line


Result = TypeVar("Result")


@dataclass(frozen=True)
class TaskDone:
    """In the control queue: call it in the control thread."""

    finish: Callable[[], None]


class Task(Generic[Result]):
    """One piece of slow work."""

    def __init__(
        self,
        work: Callable[[threading.Event], Result],
        done: Callable[[Result], None],
        failed: Callable[[AgentError], None],
        discard: Callable[[Result], None] | None = None,
    ) -> None:
        self._work = work
        self._done = done
        self._failed = failed
        self._discard = discard
        self._cancel = threading.Event()

    def start(self, pool: Pool, put: Callable[[Any], None]) -> Task[Result]:
        """Runs the work in `pool`; the outcome goes into the control queue with `put`."""
        pool.submit(lambda: self._run(put))
        return self

    def cancel(self) -> None:
        """Nobody wants the outcome any more; the work is told to stop."""
        self._cancel.set()

    def _run(self, put: Callable[[Any], None]) -> None:
        try:
            finish = partial(self.succeed, self._work(self._cancel))
        except StepCancelledError:
            return
        except AgentError as error:
            finish = partial(self._fail, error)
        except Exception as error:
            log.exception("a step failed in a way that nobody foresaw")
            finish = partial(self._fail, TransientError("internal", f"{type(error).__name__}: {error}"))
        put(TaskDone(finish))

    def succeed(self, result: Result) -> None:
        """The work is done. Control thread."""
        if not self._cancel.is_set():
            self._done(result)
        elif self._discard is not None:
            self._discard(result)

    def _fail(self, error: AgentError) -> None:
        if not self._cancel.is_set():
            self._failed(error)


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
    refresh: bool = False
    """Signed metadata are to be asked for soon."""
    refusals: Refusals = field(default_factory=Refusals)
    """Desired documents that were not believed."""
    freshness: Freshness = field(default_factory=Freshness)
    """Of what is signed, as of the last look. Where no signature is checked it says that all is fresh."""
    fault: Fault | None = None
    """Why the journal refused last; None once it takes something again."""
    records: dict[str, SlotRecord] = field(default_factory=dict)
    """The newest record of every slot, as in the journal. Replaced whole, entry by entry: others may read it."""
    damage: Callable[[], Iterable[tuple[str, str]]] = tuple
    """What was found damaged on the disk since the last call: kind and message."""
    _trace: tuple[int, str] = (0, "")
    """The newest generation, and the `traceparent` that it came with."""

    def kept(self) -> set[Digest]:
        """Variants that are never evicted."""
        return {place.variant_digest for record in self.records.values() for place in record.places()}

    def facts_digest(self) -> str:
        """Of this host; of the last start's facts until the new ones are known."""
        if self.facts is not None:
            return self.facts.facts_digest()
        return (self.journal.get("facts_digest") or b"").decode()

    def offer(self, document: bytes, *, from_registry: bool = False, traceparent: str = "") -> None:
        """A desired state came in, from the broker or from the registry. Raises AgentError when it is not taken."""
        if not document:
            return  # a cleared retained message says nothing
        try:
            verdict = self.desired.offer(document, from_registry=from_registry)
        except TrustRefusedError as error:
            self._refused(error, from_registry=from_registry)
            return
        if verdict in (EpochVerdict.TAKE, EpochVerdict.RESTORED):
            self.changed, self.fault = True, None
            self._trace = (self.desired.generation, traceparent)
            text = f"generation {self.desired.generation}"
            if verdict is EpochVerdict.RESTORED:
                text += " of another epoch: the registry was put back from a backup"
            self.publisher.publish("agent", phase="desired", message=text)
        elif verdict is EpochVerdict.SIGNED_AGAIN or (verdict is EpochVerdict.KNOWN and from_registry):
            if self.fault is not None and self.fault.code == DeploymentCode.BAD_ANSWER:
                self.changed, self.fault = True, None  # It was refused before, and is right now.
        elif verdict is EpochVerdict.ASK or (verdict is EpochVerdict.STALE and not from_registry):
            self.ask = True
        elif verdict is EpochVerdict.STALE:
            raise PermanentError(
                DeploymentCode.BAD_ANSWER,
                f"the registry's desired state is older than generation {self.desired.generation}, which was seen: "
                "ignored. It was put back from a backup without `registry restore`; it notices that by this report",
            )

    def _refused(self, error: TrustRefusedError, *, from_registry: bool) -> None:
        """A document that is not believed changes nothing. From the broker it may be anybody's: it is counted, told now
        and then, and makes this device ask. Raises PermanentError: the registry itself answered with it."""
        new = self.refusals.add(error.fault, self.clock.monotonic())
        if new:
            self.changed = True
            where = "the registry" if from_registry else "the broker"
            text = f"{new} refused, the last from {where}: {error.message} Nothing of it was followed."
            self.publisher.publish(
                "agent", phase=f"refused_{error.fault}", code=AgentCode.DOCUMENT_REFUSED, message=text
            )
        if error.fault is TrustFault.SIGNATURE:
            self.refresh = True  # The director may have a new key.
        if from_registry:
            raise PermanentError(
                DeploymentCode.BAD_ANSWER,
                f"the registry's desired state is refused ({error.fault}): {error.message} What serves goes on. If "
                "the registry was set up anew, give this device its trust.json; if its database was put back from a "
                "backup, run `registry restore` there",
            )
        if new:
            self.ask = True

    def traced(self, name: str, record: SlotRecord, work: Callable[[Any], Result]) -> Callable[[Any], Result]:
        """The work, within a span of the trace that led to what the slot should serve; as it is where there is none."""
        generation, parent = self._trace
        if not parent or record.generation != generation or not tracing.is_on():
            return work
        version = record.desired.version if record.desired else ""
        about = {"modelfleet.model": record.model, "modelfleet.version": version}
        return lambda cancel: tracing.within(f"{name} {record.model}", parent, lambda: work(cancel), about)

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
