"""Shadow: a candidate answers a share of the live requests too; its answers are compared, never sent.

The data thread copies a sampled request's tensors and the active model's answer once that is there, into a short
queue. A thread of the shadow's own asks the candidate and compares. The live path never waits for it: what finds the
queue full is counted as skipped. A candidate that dies here takes nothing with it but its shadow.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from agent.dataplane.slot import Serving
from agent.errors import AgentError
from agent.worker.caller import Caller, RunFailedError, array_of
from agent.worker.channel import ArenaTensor, read_arena
from agent.worker.spec import Worker
from registry.contracts.catalogue.classes import scores_of
from registry.contracts.catalogue.manifest import Parity, Tolerance
from registry.contracts.device.deployments import ShadowFigures
from registry.contracts.golden_vectors import Array, Comparison
from registry.contracts.tensors import Datatype

QUEUE = 8
"""Samples that may wait for the candidate."""
MAX_SAMPLE_BYTES = 64 << 20
"""Of one request with its answer; a longer one is skipped."""
KEPT_TIMES = 512
"""Runs whose times the latency ratio is taken from: the newest."""
Pairs = Mapping[str, tuple[Datatype, Array, Array]]
"""By output: (datatype, the candidate's, the active model's)."""
_log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """A live request and its answer."""

    request: Mapping[str, ArenaTensor]
    answer: Mapping[str, ArenaTensor]
    run_s: float | None
    """What the active model's run took, where it ran alone; None: in a batch, which says nothing about one."""


class Shadow:
    """Made with a worker that the data path does not have; `close` gives it back idle."""

    def __init__(self, worker: Worker, share: float, tolerance: Tolerance, scores: str | None = None) -> None:
        """Args:
        worker: The candidate.
        share: 0..1 of the active model's requests, evenly spread over them.
        tolerance: As golden vectors of the version are judged by.
        scores: The output of a classifier, see `verdict`.
        """
        self._caller = Caller(worker)
        self._outputs = {spec.name: spec for spec in worker.outputs}
        self._inputs = {spec.name: str(spec.datatype) for spec in worker.inputs}
        self._share = share
        self._due = 0.0
        self._tolerance = tolerance
        self._scores = scores
        self._kept: dict[int, dict[str, ArenaTensor]] = {}
        """Tensors of requests in arenas, by slot id: the answer is written over them."""
        self._samples: queue.Queue[Sample | None] = queue.Queue(QUEUE)
        self._lock = threading.Lock()
        self._compared = self._agreed = self._errors = self._skipped = 0
        self._max_abs = self._sum_abs = 0.0
        self._times: list[tuple[float, float]] = []
        """(candidate, active) seconds."""
        self._closing = False
        self.failure: AgentError | None = None
        """The candidate ended: nothing is compared any more."""
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    # --- on the data thread -------------------------------------------------------------------------------------------

    def before(self, serving: Serving, ids: Sequence[int]) -> None:
        """These slots are about to run: of sampled requests in arenas the tensors are copied now."""
        for id_ in ids:
            self._kept.pop(id_, None)  # of an earlier request, whose run failed with its worker
            if id_ >= serving.layout.slots and self._wanted():
                self._kept[id_] = _arena(serving, id_)

    def after(self, serving: Serving, ids: Sequence[int], run_s: float) -> None:
        """These slots are done and not yet released."""
        alone = run_s if len(ids) == 1 else None
        for id_ in ids:
            kept = self._kept.pop(id_, None)
            if serving.statuses[id_]:
                continue
            if id_ >= serving.layout.slots:
                if kept is not None:
                    self._offer(Sample(kept, _arena(serving, id_), alone))
            elif self._wanted():
                self._offer(Sample(*_fixed(serving, id_), alone))

    def _wanted(self) -> bool:
        self._due += self._share
        if self._due < 1.0:
            return False
        self._due -= 1.0
        if self._closing or self.failure is not None:
            return False
        if self._samples.full():
            self._skip()
            return False
        return True

    def _offer(self, sample: Sample) -> None:
        size = sum(len(tensor.data) for tensors in sample[:2] for tensor in tensors.values())
        if size > MAX_SAMPLE_BYTES:
            self._skip()
            return
        try:
            self._samples.put_nowait(sample)
        except queue.Full:
            self._skip()

    def _skip(self) -> None:
        with self._lock:
            self._skipped += 1

    # --- for the control thread ---------------------------------------------------------------------------------------

    def figures(self) -> ShadowFigures:
        """What was found so far."""
        with self._lock:
            ratio = None
            if self._times:
                candidate, active = (float(np.median(side)) for side in zip(*self._times, strict=True))
                ratio = round(candidate / active, 3) if active > 0 else None
            return ShadowFigures(
                compared=self._compared,
                skipped=self._skipped,
                errors=self._errors,
                agreement=self._agreed / self._compared if self._compared else None,
                max_abs=self._max_abs if self._compared else None,
                mean_abs=self._sum_abs / self._compared if self._compared else None,
                latency_ratio=ratio,
            )

    def close(self, timeout_s: float) -> bool:
        """No more samples. True: the candidate is idle and may serve. False: it ended, or runs on after `timeout_s`."""
        self._closing = True
        try:
            self._samples.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        if self.failure is None:
            try:
                self._caller.check()
            except AgentError as error:
                self.failure = error
        return self.failure is None

    # --- the shadow's own thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (sample := self._samples.get()) is not None:
            if self._closing or self.failure is not None:
                continue
            try:
                self._compare(sample)
            except RunFailedError:
                with self._lock:
                    self._errors += 1
            except AgentError as error:
                self.failure = error
                _log.error("the candidate ended in its shadow: %s", error.message)
            except Exception:  # noqa: BLE001 - whatever a strange answer leads to ends the shadow, not the agent
                _log.exception("a shadow comparison failed")
                with self._lock:
                    self._errors += 1

    def _compare(self, sample: Sample) -> None:
        if {name: tensor.datatype for name, tensor in sample.request.items()} != self._inputs:
            raise RunFailedError("wrong_shape", "the candidate takes other inputs")
        begun = time.perf_counter()
        got = self._caller.call(sample.request)
        took = time.perf_counter() - begun
        pairs = {
            name: (Datatype(want.datatype), got[name], array_of(want.data, want.datatype, want.shape))
            for name, want in sample.answer.items()
            if name in got and want.datatype != "BYTES"
        }
        found = verdict(pairs, self._tolerance, self._scores)
        agrees = found.passed and len(pairs) == len(sample.answer)
        with self._lock:
            self._compared += 1
            self._agreed += agrees
            self._max_abs = max(self._max_abs, found.max_abs)
            self._sum_abs += found.max_abs
            if sample.run_s is not None:
                self._times = [*self._times[-KEPT_TIMES + 1 :], (took, sample.run_s)]


def verdict(pairs: Pairs, tolerance: Tolerance, scores: str | None) -> Parity:
    """How an answer compares; `passed`: it agrees. Judged as golden vectors are.

    Args:
        pairs: The outputs.
        tolerance: Whose distances must be kept, and whose `top1_agreement`.
        scores: The output of a classifier: there only `top1_agreement` counts, and the
            distances are measured. None, or where it has no top class: no classifier.
    """
    found = _compared(pairs, tolerance)
    if scores is None or scores not in pairs or not tolerance.top1_agreement:
        return found
    datatype, *sides = pairs[scores]
    got, want = (_scores(side) for side in sides)
    top = _compared({scores: (datatype, got, want)}, tolerance.model_copy(update={"absolute": float("inf")}))
    return found if top.top1_agreement is None else found.model_copy(update={"passed": top.passed})


def _scores(side: Array) -> Array:
    shape = scores_of(side.shape, side.size)
    return side if shape is None else side.reshape(shape)


def _compared(pairs: Pairs, tolerance: Tolerance) -> Parity:
    comparison = Comparison(tolerance)
    comparison.add(0, pairs)
    return comparison.parity(1, [])


def _arena(serving: Serving, id_: int) -> dict[str, ArenaTensor]:
    """What an arena holds, copied."""
    content = read_arena(serving.layout.arena_view(serving.memory, id_))
    return {tensor.name: tensor._replace(data=bytes(tensor.data)) for tensor in content.tensors}


def _fixed(serving: Serving, id_: int) -> tuple[dict[str, ArenaTensor], dict[str, ArenaTensor]]:
    """Request and answer of a fixed slot."""
    layout, memory = serving.layout, serving.memory
    request, answer = (
        {
            tensor.name: ArenaTensor(
                tensor.name,
                str(tensor.datatype),
                layout.request_shape(tensor),
                bytes(layout.slot_view(memory, tensor, id_)),
            )
            for tensor in side
        }
        for side in (layout.inputs, layout.outputs)
    )
    return request, answer
