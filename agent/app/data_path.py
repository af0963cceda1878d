"""Fits the data plane into the reconciler's port: a choice and a worker become a binding."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from agent.core.probation import Tally
from agent.core.slots import Choice
from agent.dataplane.loop import DataPlane
from agent.dataplane.oip.binding import Binding
from agent.dataplane.shadow import Shadow
from agent.errors import AgentError
from agent.worker.spec import Worker
from registry.contracts.catalogue.golden import Tolerance
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
        """As the port says."""
        return self._shadow.failure

    def figures(self) -> ShadowFigures:
        """As the port says."""
        return self._shadow.figures()

    def end(self, timeout_s: float) -> bool:
        """As the port says."""
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

    def assign(self, model: str) -> None:
        """As the port says."""
        self._plane.swap(model, None, None)

    def serve(self, choice: Choice, worker: Worker, tally: Tally) -> Future[Worker | None]:
        """As the port says."""
        return self._plane.swap(choice.model, worker, self._binding(choice, worker), tally)

    def rebind(self, choice: Choice, worker: Worker) -> None:
        """As the port says."""
        self._plane.rebind(choice.model, worker, self._binding(choice, worker))

    def shadow(self, choice: Choice, worker: Worker, share: float) -> RunningShadow:
        """As the port says. By the top class of a classifier, else within the tolerance of the version's golden
        vectors, or the usual one."""
        tolerance = choice.golden.tolerance if choice.golden is not None else Tolerance()
        scores = choice.classification.output if choice.classification is not None else None
        return RunningShadow(self._plane, choice.model, Shadow(worker, share, tolerance, scores))

    def clear(self, model: str) -> Future[Worker | None]:
        """As the port says."""
        return self._plane.swap(model, None, None)

    def _binding(self, choice: Choice, loaded: Worker) -> Binding:
        return Binding(
            model=choice.model,
            version=choice.version,
            manifest_digest=choice.manifest,
            variant=choice.variant.name,
            variant_digest=choice.variant_digest,
            device=self._device,
            inputs=loaded.inputs,
            outputs=loaded.outputs,
            optional_inputs=loaded.optional_inputs,
            rollout=choice.rollout,
            image=choice.image,
            classification=choice.classification,
            max_payload=self._max_payload,
            record_results=choice.record_results,
        )

    def withdraw(self, model: str) -> Future[Worker | None]:
        """As the port says."""
        return self._plane.withdraw(model)

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """As the port says."""
        self._plane.publish(topic, payload, 1, retain=retain)

    def publish_durable(self, topic: str, payload: bytes) -> None:
        """As the port says."""
        self._plane.publish_durable(topic, payload)
