"""Fits the data plane into the reconciler's port: a choice and a worker become a binding."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, cast

from agent.core.probation import Tally
from agent.core.slots import Choice
from agent.dataplane.loop import DataPlane
from agent.dataplane.oip.binding import Binding
from agent.dataplane.shadow import Shadow
from agent.errors import AgentError
from agent.reconciler.ports import LoadedWorker
from registry.contracts.catalogue.golden import Tolerance
from registry.contracts.device.deployments import ShadowFigures

if TYPE_CHECKING:
    from agent.worker.spec import Worker


class RunningShadow:
    """Implements `agent.reconciler.ports.ShadowRun`: looks on from the moment it is made."""

    def __init__(self, plane: DataPlane, model: str, shadow: Shadow) -> None:
        self._plane = plane
        self._model = model
        self._shadow = shadow
        plane.look_on(model, shadow)

    @property
    def failure(self) -> AgentError | None:
        """As the port says."""
        return self._shadow.failure

    def figures(self) -> ShadowFigures:
        """As the port says."""
        return self._shadow.figures()

    def end(self, timeout_s: float) -> bool:
        """As the port says."""
        off = self._plane.look_away(self._model, self._shadow)
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

    def serve(self, choice: Choice, worker: LoadedWorker, tally: Tally) -> Future[LoadedWorker | None]:
        """As the port says. `worker` came from `RealSteps.warm`, so it is a whole one."""
        loaded = cast("Worker", worker)
        done = self._plane.swap(choice.model, loaded, self._binding(choice, loaded), tally)
        return cast("Future[LoadedWorker | None]", done)

    def rebind(self, choice: Choice, worker: LoadedWorker) -> None:
        """As the port says."""
        loaded = cast("Worker", worker)
        self._plane.rebind(choice.model, loaded, self._binding(choice, loaded))

    def shadow(self, choice: Choice, worker: LoadedWorker, share: float) -> RunningShadow:
        """As the port says. By the top class of a classifier, else within the tolerance of the version's golden
        vectors, or the usual one."""
        tolerance = choice.golden.tolerance if choice.golden is not None else Tolerance()
        scores = choice.classification.output if choice.classification is not None else None
        return RunningShadow(self._plane, choice.model, Shadow(cast("Worker", worker), share, tolerance, scores))

    def clear(self, model: str) -> Future[LoadedWorker | None]:
        """As the port says."""
        return cast("Future[LoadedWorker | None]", self._plane.swap(model, None, None))

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

    def withdraw(self, model: str) -> Future[LoadedWorker | None]:
        """As the port says."""
        return cast("Future[LoadedWorker | None]", self._plane.withdraw(model))

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """As the port says."""
        self._plane.publish(topic, payload, 1, retain=retain)

    def publish_durable(self, topic: str, payload: bytes) -> None:
        """As the port says."""
        self._plane.publish_durable(topic, payload)
