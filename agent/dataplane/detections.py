"""Replies with detections: after the run, a thread and a process find the boxes, and the data thread goes on.

A request keeps its slot until its reply is made: so their number is bounded as runs are, its outputs are read where the
worker put them, and a worker that was replaced is not let go before. The memory of one that dies stays as long as
somebody holds a view of it. The processes are those that decode pictures, with their limits of time and memory
(`agent.pictures`). The threads are their own, so that a reply does not wait behind pictures that have not run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agent.dataplane.answers import Answers
from agent.dataplane.oip.detector import Detector, no_detections
from agent.dataplane.oip.plan import RequestPlan
from agent.dataplane.pool import DecodePool
from agent.dataplane.slot import Request, Serving
from agent.errors import TransientError
from registry.contracts.codes import InferenceCode
from registry.inference.errors import RequestError
from registry.inference.packets import Buffer
from registry.inference.reply import OutputTensor
from registry.pictures.detections import DetectionError, DetectionLimits, RawOutput, Reading
from registry.pictures.placement import Placement

_log = logging.getLogger(__name__)
Outputs = Sequence[OutputTensor]


class FindBoxes(Protocol):
    """`agent.pictures.process.PictureProcesses.detect`."""

    def __call__(
        self, reading: Reading, placement: Placement, limits: DetectionLimits, outputs: Mapping[str, RawOutput]
    ) -> tuple[Buffer, Buffer, Buffer]:
        """Boxes, scores and classes. Raises DetectionError, TransientError."""


class Detections:
    """On the data thread, but for the jobs."""

    def __init__(
        self,
        pool: DecodePool,
        find_boxes: FindBoxes,
        answers: Answers,
        released: Callable[[Serving], None],
        clock: Callable[[], float],
    ) -> None:
        """`released`: told that a slot of this worker has become free."""
        self._pool = pool
        self._find_boxes = find_boxes
        self._answers = answers
        self._released = released
        self._clock = clock
        answers.detections = self.begin

    def begin(self, serving: Serving, request: Request, outputs: Outputs) -> None:
        """The request's run is done, and its outputs are still in its slot. Raises RequestError: they are not used."""
        plan, detector = request.plan, serving.codec.detector
        if plan is None or plan.detect is None or detector is None:
            raise no_detections("the manifest does not say how")
        raw = {asked.name for asked in plan.outputs} - plan.detect.names
        kept = [output for output in outputs if output.name in raw or output.name in detector.declared.outputs]
        self._pool.submit(lambda: self._find(plan, detector, kept), lambda done: self._done(serving, request, done))

    def _find(self, plan: RequestPlan, detector: Detector, outputs: Outputs) -> Outputs:
        """In a thread: the outputs of the reply. Raises RequestError."""
        if plan.detect is None:
            raise no_detections("none were asked for")
        try:
            found = self._find_boxes(
                detector.reading, plan.placement or detector.own, plan.detect.limits, detector.read(outputs)
            )
        except DetectionError as error:
            raise no_detections(str(error)) from None
        except TransientError as error:
            raise RequestError(InferenceCode.OVERLOADED, error.message) from None
        except RequestError:
            raise
        except Exception:  # noqa: BLE001 - a fault of ours, or of a worker, must not keep the slot
            _log.exception("detections could not be made")
            raise no_detections("the agent failed: see its log") from None
        made = [each for each in detector.tensors(*found) if each.name in plan.detect.names]
        return [*(each for each in outputs if each.name not in plan.detect.names), *made]

    def _done(self, serving: Serving, request: Request, done: Outputs | RequestError) -> None:
        if request.plan is None or serving.requests[request.id] is not request:
            return  # its worker ended meanwhile, and it was answered so
        try:
            if isinstance(done, RequestError):
                raise done
            self._answers.result(request, serving.codec.encode_reply(request.plan, done))
        except RequestError as error:
            self._answers.error(request, error.code, error.message)
        finally:
            serving.slot.stats.latency.record((self._clock() - request.arrived) * 1e6)
            serving.release(request.id)
            self._released(serving)
