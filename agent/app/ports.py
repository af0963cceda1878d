"""Fits the data plane into the reconciler's port: a choice and a worker become a binding."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from agent.core.probation import Tally
from agent.core.slots import Choice
from agent.dataplane.loop import DataPlane
from agent.dataplane.oip.plan import Binding
from agent.dataplane.shadow import Shadow
from agent.errors import AgentError
from agent.worker.spec import Worker
from registry.contracts.catalogue.manifest import Tolerance
from registry.contracts.device.deployments import ShadowFigures


class RunningShadow:
    """Implements `agent.reconciler.ports.ShadowRun`: looks on from the moment it is made."""

    def __init__(self, plane: DataPlane, model: str, shadow: Shadow) -> None:
        self._plane = plane
        self._model = model
        self._shadow = shadow
        plane.attach(model, shadow)

    @property
    def failure(self) -> AgentError | None:
        """Why the candidate ended; None: it lives."""
        return self._shadow.failure

    def figures(self) -> ShadowFigures:
        """What was found so far."""
        return self._shadow.figures()

    def end(self, timeout_s: float) -> bool:
        """Detaches it. True: the candidate is idle and may serve."""
        off = self._plane.detach(self._model, self._shadow)
        with contextlib.suppress(FutureTimeoutError):  # The data thread has ended: it shows the shadow nothing more.
            off.result(timeout_s)
        return self._shadow.close(timeout_s)


class DataPathPort:
    """Implements `agent.reconciler.ports.DataPath`."""

    def __init__(self, plane: DataPlane, device: str, max_payload: int) -> None:
        self._plane = plane
        self._device = device
        self._max_payload = max_payload
        self.withdraw = plane.withdraw
        self.publish = plane.publish
        self.publish_durable = plane.publish_durable

    def assign(self, model: str) -> None:
        """The model is this device's; nothing serves it yet."""
        self.clear(model)

    def serve(self, choice: Choice, worker: Worker, tally: Tally) -> Future[Worker | None]:
        """From the next batch on the worker answers for `choice`."""
        return self._plane.swap(choice.model, worker, self._binding(choice, worker), tally)

    def rebind(self, choice: Choice, worker: Worker) -> None:
        """From the next batch on under the rollout and options of `choice`."""
        self._plane.rebind(choice.model, worker, self._binding(choice, worker))

    def shadow(self, choice: Choice, worker: Worker, share: float) -> RunningShadow:
        """Answers are compared by the top class of a classifier, else within the tolerance of the version's golden
        vectors, or the usual one."""
        tolerance = choice.golden.tolerance if choice.golden is not None else Tolerance()
        scores = choice.classification.output if choice.classification is not None else None
        return RunningShadow(self._plane, choice.model, Shadow(worker, share, tolerance, scores))

    def clear(self, model: str) -> Future[Worker | None]:
        """Nothing serves the model; its requests are refused as not ready."""
        return self._plane.swap(model, None, None)

    def _binding(self, choice: Choice, loaded: Worker) -> Binding:
        return Binding(
            model=choice.model,
            version=choice.version,
            manifest_digest=choice.manifest,
            variant=choice.variant.name,
            variant_digest=choice.variant_digest,
            device=self._device,
            format=str(choice.variant.format),
            target=str(choice.variant.target),
            inputs=loaded.inputs,
            outputs=loaded.outputs,
            optional_inputs=loaded.optional_inputs,
            rollout=choice.rollout,
            image=choice.image,
            classification=choice.classification,
            detection=choice.detection,
            max_payload=self._max_payload,
            record_results=choice.record_results,
        )
