"""The control thread: compares what is desired with what serves, does one step, looks again.

Level-triggered: it keeps no plan. Events only say that it is time to look; when one is lost, the next look finds the
same difference. What serves is touched only by a switch to something that is loaded, checked and warm. The host is
looked at when the agent starts, and again and again: drivers, chips and packages come and go.

INVARIANT: slots, journal and context belong to this thread. Others put events into the queue.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from agent.core.backoff import HOST_LOOK_S, LOOK_AGAIN
from agent.core.events import Connected, ControlMessage, Disconnected, Tick, WorkerDied
from agent.core.slots import Choice, SlotRecord
from agent.errors import AgentError
from agent.reconciler.context import Context, Task, TaskDone
from agent.reconciler.exchange import ASK_PAUSE_S, Exchange
from agent.reconciler.freshness import FreshnessLook
from agent.reconciler.ports import JobWork
from agent.reconciler.slot import Slot
from agent.worker.spec import Worker
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import Desired, Fault, Health, Notice, Reported
from registry.contracts.fit.platforms import Platform
from registry.contracts.topics import Topics


class HostLook:
    """Control thread only; the looks run in a pool."""

    def __init__(self, context: Context, changed: Callable[[], None]) -> None:
        """`changed` is called when the host is another than it was."""
        self._context = context
        self._changed = changed
        self.next_due: float | None = None
        """Monotonic time of the next look; None: one is under way."""
        self._unknown = 0
        """Looks in a row that left something unknown."""

    def begin(self) -> None:
        """The agent starts: what an earlier start found may do."""
        self._look(self._context.steps.facts)

    def tend(self) -> None:
        """Looks again when it is time."""
        if self.next_due is not None and self._context.clock.monotonic() >= self.next_due:
            self._look(self._context.steps.look_again)

    def take(self, facts: Platform) -> None:
        """This is what the host is now. Where it is another than before, the next report says so, the registry chooses
        again, and what had failed because of the host is tried again."""
        context, before = self._context, self._context.facts
        self._plan(unknown=bool(facts.failed()))
        context.facts = facts
        if before is not None and before.facts_digest() == facts.facts_digest():
            return
        context.changed = True
        if before is not None:
            self._changed()
        context.journal.put("facts_digest", facts.facts_digest().encode())

    def _look(self, work: Callable[[], Platform]) -> None:
        self.next_due = None
        Task(lambda _: work(), self.take, self._failed).start(self._context.network, self._context.put)

    def _plan(self, *, unknown: bool) -> None:
        self._unknown = self._unknown + 1 if unknown else 0
        pause = LOOK_AGAIN.delay(self._unknown, self._context.clock.chance()) if unknown else HOST_LOOK_S
        self.next_due = self._context.clock.monotonic() + pause

    def _failed(self, error: AgentError) -> None:
        self._plan(unknown=True)
        self._context.publisher.publish("agent", phase="facts", code=error.code, message=error.message)


log = logging.getLogger(__name__)
LONGEST_LOOK_S = 10.0
"""It looks at least so often, whatever happens: a lost event costs no more than that."""
OFFER_AGAIN_S = 5.0
"""A desired state that the disk refused is offered to it again so often; the broker does not send it again."""
QUEUE_LIMIT = 4096
EVENTS_BEFORE_A_LOOK = 256

HealthMaker = Callable[[Mapping[str, int]], Health]
"""Makes a health report; takes the worker restarts by model."""


class Reconciler:
    """`start`, then events through `queue`, then `stop`."""

    def __init__(
        self,
        *,
        device: str,
        session_id: str,
        topics: Topics,
        context: Context,
        exchange: Exchange | None,
        events: queue.Queue[Any],
        on_report: Callable[[Reported], None],
        make_health: HealthMaker,
        jobs: JobWork | None = None,
        heard_every_s: float | None = None,
        freshness: FreshnessLook | None = None,
    ) -> None:
        self._device = device
        self._session_id = session_id
        self._topics = topics
        self._context = context
        self._exchange = exchange
        self._events = events
        self._on_report = on_report
        self._make_health = make_health
        self._jobs = jobs
        self._heard_every_s = heard_every_s
        self._freshness = freshness or FreshnessLook(context, None, context.network)
        self._slots: dict[str, Slot] = {}
        self._reported: Reported | None = None
        self._health: Health | None = None
        self.host = HostLook(context, self._host_changed)
        self._loaded = False
        """The journal was read."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control")
        self.revived = threading.Event()
        """What served before has a worker again, or could not get one at the first try."""
        self._offer_again_at = 0.0
        self.looked_at = 0.0
        """Monotonic time of the last look: a watchdog's sign of life."""

    def start(self) -> None:
        """What served is being started when this returns."""
        self.begin()
        self._thread.start()

    def begin(self) -> None:
        """Takes up what the journal says: first the workers of what served, then what was under way."""
        self._guard(self._load)
        self.host.begin()
        if self._loaded:
            self._go_on()

    def _load(self) -> None:
        """What the journal says. While the disk does not give it, nothing is decided: it is asked again."""
        self._context.desired.load()
        records = self._context.journal.slots()
        self._loaded = True
        self._freshness.judge()
        for model, record in records.items():
            self._slots[model] = Slot(self._context, record)
        for slot in self._slots.values():
            self._guard(slot.take_up)

    def _go_on(self) -> None:
        for slot in self._slots.values():
            self._guard(slot.restart)
        if self._jobs is not None:
            self._guard(self._jobs.begin)

    def stop(self, timeout_s: float) -> list[Worker]:
        """Ends the thread; steps under way are cancelled. The workers that still serve, for the caller to close."""
        self._stopping.set()
        self.put(Tick("stop"))
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._exchange is not None:
            self._exchange.cancel()
        self._freshness.cancel()
        if self._jobs is not None:
            self._jobs.stop()
        return [worker for slot in self._slots.values() for worker in slot.stop()]

    def put(self, event: Any) -> None:
        """From any thread. A full queue drops the event and says so: the next look makes up for it."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            log.error("the control queue is full: %s is dropped", type(event).__name__)  # noqa: TRY400

    def restarts(self) -> dict[str, int]:
        """How often the worker of each model was started again after it died. Any thread."""
        return {model: slot.supervisor.restarts for model, slot in dict(self._slots).items()}

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._guard(self.look)
            self.handle_waiting(self.patience())

    def look(self) -> None:
        """One comparison of all slots with the desired state, at most one step for each."""
        context = self._context
        self.looked_at = context.clock.monotonic()
        if not self._loaded:
            self._guard(self._load)
            if not self._loaded:
                return
            self._go_on()
        self._slots = {model: slot for model, slot in self._slots.items() if not slot.gone}
        self._offer_again()
        self._guard(self._freshness.tend)
        desired = context.desired.current
        if desired is not None:
            for model in desired.models:
                if model not in self._slots:
                    self._slots[model] = Slot(context, SlotRecord(model=model))
            for model, slot in self._slots.items():
                self._guard(lambda s=slot, m=model: s.want(desired.models.get(m), desired.generation))  # type: ignore[misc]
        for slot in self._slots.values():
            self._guard(slot.tend)
        self._do_jobs(desired)
        self.host.tend()
        for kind, message in context.damage():
            context.publisher.publish(
                "agent", phase=f"damaged_{kind}", code=DeploymentCode.DIGEST_MISMATCH, message=message
            )
        self._guard(self._ask)
        if not any(slot.supervisor.starting for slot in self._slots.values()):
            self.revived.set()
        if context.changed and context.facts is not None:
            context.changed = False
            self._report(context.facts)

    def _offer_again(self) -> None:
        """A desired state that the disk refused."""
        unwritten = self._context.desired.unwritten
        if unwritten is not None and self.looked_at >= self._offer_again_at:
            self._offer_again_at = self.looked_at + OFFER_AGAIN_S
            data, from_registry = unwritten
            self._guard(lambda: self._context.offer(data, from_registry=from_registry))

    def _ask(self) -> None:
        """The registry over HTTP, where the broker is not enough."""
        if self._context.ask and self._exchange is not None:
            self._context.ask = not self._exchange.ask(self._reported, self._health)

    def _do_jobs(self, desired: Desired | None) -> None:
        jobs = self._jobs
        if jobs is not None:
            if desired is not None:
                self._guard(lambda: jobs.want(desired.jobs))
            self._guard(jobs.tend)

    def handle_waiting(self, patience_s: float = 0.0) -> None:
        """Handles the events that are there; waits `patience_s` for the first one."""
        try:
            event = self._events.get(timeout=patience_s) if patience_s > 0 else self._events.get_nowait()
            for _ in range(EVENTS_BEFORE_A_LOOK):
                self._guard(lambda event=event: self._handle(event))  # type: ignore[misc]
                event = self._events.get_nowait()
            self.put(event)
        except queue.Empty:
            return

    def patience(self) -> float:
        """Seconds until something is due."""
        now = self._context.clock.monotonic()
        dues = [due for slot in self._slots.values() if (due := slot.next_due()) is not None]
        if self._jobs is not None and (due := self._jobs.next_due()) is not None:
            dues.append(due)
        longest = ASK_PAUSE_S if self._context.ask else LONGEST_LOOK_S
        if self.host.next_due is not None:
            dues.append(self.host.next_due)
        if (due := self._freshness.next_due()) is not None:
            dues.append(due)
        return min([max(due - now, 0.0) for due in dues] + [longest])

    def _handle(self, event: Any) -> None:
        publisher = self._context.publisher
        if isinstance(event, TaskDone):
            event.finish()
        elif isinstance(event, ControlMessage):
            if event.topic == self._topics.device(self._device, "desired"):
                self._context.offer(event.payload, traceparent=event.traceparent)
            elif event.topic == self._topics.device(self._device, "notice"):
                self._noticed(event.payload)
        elif isinstance(event, WorkerDied):
            if event.model in self._slots:
                self._slots[event.model].died(event.worker, event.reason)
        elif isinstance(event, Connected):
            self._context.changed = True
            publisher.connected = event.whole
        elif isinstance(event, Disconnected):
            self._context.changed |= publisher.connected
            publisher.connected = False
        elif isinstance(event, Tick):
            self._tick(event.what)

    def _noticed(self, payload: bytes) -> None:
        """The registry asks for something. What is no notice, or another device's, says nothing."""
        try:
            notice = Notice.model_validate_json(payload)
        except ValidationError as error:
            log.warning("this is no notice of the registry: %d faults", error.error_count())
            return
        if notice.device != self._device or self._exchange is None:
            return
        if notice.facts_wanted:
            self._exchange.forget_facts()
        self._context.ask |= notice.poll or notice.facts_wanted

    def _tick(self, what: str) -> None:
        if what == "poll" and self._exchange is not None:
            self._exchange.poll(self._reported, self._health)
        elif what == "health":
            self._health = self._make_health(self.restarts())
            self._context.data_path.publish(
                self._topics.device(self._device, "health"), self._health.canonical(), retain=False
            )
        elif what == "sweep" and not any(slot.busy for slot in self._slots.values()):
            self._context.steps.sweep(list(self._context.records.values()))

    def _report(self, facts: Platform) -> None:
        known = self._exchange is not None and self._exchange.facts_are_known
        now = self._context.clock.now()  # which may be set back: the registry takes an older report for a late one
        self._reported = Reported(
            device=self._device,
            session_id=self._session_id,
            generation=self._context.desired.generation,
            epoch=self._context.desired.epoch,
            epoch_began=self._context.desired.epoch_began,
            at=now if self._reported is None else max(now, self._reported.at),
            facts_digest=facts.facts_digest(),
            facts=None if known else facts,
            models={model: slot.report() for model, slot in self._slots.items()},
            jobs=self._jobs.statuses() if self._jobs is not None else {},
            heard_every_s=self._heard_every_s,
            fault=self._context.fault,
            trust=self._freshness.report(),
        )
        self._context.data_path.publish(
            self._topics.device(self._device, "reported"), self._reported.canonical(), retain=True
        )
        self._on_report(self._reported)

    def damaged(self, choice: Choice) -> None:
        """Files of a choice were found damaged while nothing was being loaded: they are pulled again now, so that they
        are there when a worker has to be started. What answers has its own copy. Control thread."""
        context = self._context
        if choice.variant_digest not in context.kept() or any(slot.busy for slot in self._slots.values()):
            return  # The next start, or the next check, sees to it.
        keep = context.kept()
        Task(
            lambda cancel: context.steps.download(choice, keep, cancel),
            lambda _: context.publisher.publish("agent", phase="healed", message=f"{choice.version}: whole again"),
            lambda error: log.warning("damaged files of %s are not there yet: %s", choice.version, error),
        ).start(context.network, context.put)

    def _host_changed(self) -> None:
        for slot in self._slots.values():
            self._guard(slot.host_changed)

    def _guard(self, work: Callable[[], None]) -> None:
        """Nothing that goes wrong with one event or one slot stops the others."""
        try:
            work()
        except AgentError as error:
            fault = Fault(code=error.code[:64], message=error.message[:2000])
            self._context.changed |= fault != self._context.fault
            self._context.fault = fault
            self._context.publisher.publish("agent", phase="control", code=error.code, message=error.message)
        except Exception as error:
            log.exception("the control thread goes on after a fault of its own")
            self._context.publisher.publish("agent", phase="control", code="internal", message=str(error))
        else:
            return
        for slot in self._slots.values():
            slot.postpone()
