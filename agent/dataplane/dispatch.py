"""Between requests that wait and workers: hands out batches, takes answers, ends workers that die or hang."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable

from agent.core.events import WorkerDied
from agent.dataplane.admission import Admission
from agent.dataplane.answers import Answers
from agent.dataplane.long_requests import LongRequests
from agent.dataplane.slot import Lane, ModelSlot, Serving, move_to_arenas
from registry.contracts.codes import InferenceCode

_log = logging.getLogger(__name__)
Ready = Callable[[int], None]
"""What a selector key's data is: called with the events."""


class Dispatch:
    """All on the data thread."""

    def __init__(
        self,
        *,
        selector: selectors.BaseSelector,
        admission: Admission,
        long_requests: LongRequests,
        answers: Answers,
        discard_body: Callable[[], None],
        emit: Callable[[WorkerDied], None],
        clock: Callable[[], float],
    ) -> None:
        self._selector = selector
        self._admission = admission
        self._long_requests = long_requests
        self._answers = answers
        self._discard_body = discard_body
        self._emit = emit
        self._clock = clock
        self.again: set[Serving] = set()
        """Inline workers that have more to run in the next turn."""

    def watch(self, serving: Serving) -> None:
        """Listens to a new worker's doorbells."""
        for lane in serving.lanes:
            self._selector.register(lane.socket, selectors.EVENT_READ, self._listener(lane))

    def _listener(self, lane: Lane) -> Ready:
        return lambda _events: self._answered(lane)

    def _answered(self, lane: Lane) -> None:
        """A doorbell rang: one or more requests are done, or the worker is."""
        serving = lane.serving
        ids = lane.answers()
        if ids is None:
            self.lose(serving, InferenceCode.WORKER_CRASHED, "the worker that ran this request ended")
            return
        if not ids:
            return
        now = self._clock()
        stats = serving.slot.stats
        took = (now - lane.progress) * 1e6
        stats.run.record(took)
        serving.tally.run.record(took)
        stats.batches[len(ids)] += 1
        run_s, lane.progress = now - lane.progress, now
        if serving.slot.tap is not None:
            self._sample(serving, ids, run_s)
        self._answers.slots_done(serving, ids, now)
        self.released(serving)

    def released(self, serving: Serving) -> None:
        """Slots of this worker may have become free: what waits for them has its turn."""
        if serving.queued:
            self._admission.place_queued(serving)
        if serving.waiting:
            self._admission.ready.add(serving)
        elif serving.drained is not None:
            self.release_drained(serving)

    def run(self) -> None:
        """Hands every waiting request to a runner that has room."""
        ready = self._admission.ready
        ready.update(self.again)
        self.again.clear()
        while ready:
            serving = ready.pop()
            if serving.dead:
                continue
            if serving.lanes:
                self._hand_out(serving)
            else:
                self._run_inline(serving)

    def _hand_out(self, serving: Serving) -> None:
        now = self._clock()
        try:
            for lane, ids in serving.share():
                live = [id_ for id_ in ids if self._still_due(serving, id_, now)]
                if live and serving.slot.tap is not None:
                    self._sample(serving, live, None)
                if live:
                    lane.ring(live, now)
        except OSError:
            self.lose(serving, InferenceCode.WORKER_CRASHED, "the worker ended before this request could run")

    def _run_inline(self, serving: Serving) -> None:
        """One batch; the rest has its turn after the replies of this one are out."""
        now = self._clock()
        waiting = serving.waiting
        taken = [waiting.popleft() for _ in range(min(len(waiting), serving.max_batch))]
        live = [id_ for id_ in taken if self._still_due(serving, id_, now)]
        if live:
            if serving.slot.tap is not None:
                self._sample(serving, live, None)
            serving.worker.run(live)
            done = self._clock()
            if serving.slot.tap is not None:
                self._sample(serving, live, done - now)
            took = (done - now) * 1e6
            serving.slot.stats.run.record(took)
            serving.tally.run.record(took)
            serving.slot.stats.batches[len(live)] += 1
            self._answers.slots_done(serving, live, done)
        if serving.queued:
            self._admission.place_queued(serving)
        if waiting:
            self.again.add(serving)

    def _sample(self, serving: Serving, ids: list[int], run_s: float | None) -> None:
        """Lets the tap see slots before (`run_s` None) or after they ran. A tap that fails is taken off: the requests
        that it looks at are worth more than it is."""
        tap = serving.slot.tap
        if tap is None or serving is not serving.slot.active:
            return
        try:
            if run_s is None:
                tap.before(serving, ids)
            else:
                tap.after(serving, ids, run_s)
        except Exception:  # noqa: BLE001 - see above; logged with its traceback
            serving.slot.tap = None
            _log.exception("model %s: the shadow was taken off", serving.slot.model)

    def _still_due(self, serving: Serving, id_: int, now: float) -> bool:
        """The request runs now: how long it waited is counted. False: its deadline has passed, and it was told so."""
        request = serving.requests[id_]
        if request is None:
            return True
        if request.deadline > now:
            serving.slot.stats.queue_wait.record(now - request.arrived)
            if request.trace:
                request.handed = now
            return True
        self._answers.expired(request)
        serving.release(id_)
        return False

    def check(self, slots: list[ModelSlot], now: float) -> None:
        """Periodic: hung runs, doorbells that were full, workers that were replaced and hold nothing any more."""
        for serving in [each for slot in slots for each in slot.servings()]:
            if serving.overdue(now):
                serving.worker.kill()
                self.lose(
                    serving,
                    InferenceCode.RUN_TIMEOUT,
                    f"a run took longer than {serving.run_timeout_s:g} s; its worker was ended",
                )
                continue
            try:
                for lane in serving.lanes:
                    if lane.unsent:
                        lane.push()
            except OSError:
                self.lose(serving, InferenceCode.WORKER_CRASHED, "the worker ended before this request could run")
            if serving.to_move:
                move_to_arenas(serving)
                self._admission.ready.add(serving)
            for request in serving.expire_queued(now):
                self._answers.expired(request)
            if serving.queued:
                self._admission.place_queued(serving)
                self._admission.ready.add(serving)
            self.release_drained(serving)

    def lose(self, serving: Serving, code: InferenceCode, why: str) -> None:
        """A worker is gone: its requests get errors, the control thread is told."""
        if serving.dead:
            return
        serving.dead = True
        _log.error("model %s: %s", serving.slot.model, why)
        serving.worker.kill()
        if self._long_requests.holds(serving):
            self._long_requests.body = None
            self._discard_body()
        for id_, request in enumerate(serving.requests):
            if request is not None:
                self._answers.error(request, code, why)
                serving.release(id_)
        while serving.queued:
            self._answers.error(serving.unqueue().request, code, why)
        serving.waiting.clear()
        serving.to_move.clear()
        self._unwatch(serving)
        serving.slot.drop(serving)
        self._emit(WorkerDied(serving.slot.model, serving.worker, f"{code}: {why}"))

    def release_drained(self, serving: Serving) -> None:
        """Hands a worker that was replaced back, once it holds no request."""
        if serving.drained is not None and not serving.dead and serving.in_flight() == 0:
            serving.dead = True
            self._unwatch(serving)
            serving.slot.drop(serving)

    def _unwatch(self, serving: Serving) -> None:
        for lane in serving.lanes:
            self._selector.unregister(lane.socket)
