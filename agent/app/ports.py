"""Fits the agent's parts into the reconciler's ports: the data plane, where a choice and a worker become a binding, and
the local policy of this host, by its settings, leases and network.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime

from agent.adapters.disk.leases import Leases
from agent.core.local_policy import HostNow, HostPolicy, Wait, may_download, may_switch
from agent.core.probation import Tally
from agent.core.slots import Choice
from agent.dataplane.loop import DataPlane
from agent.dataplane.oip.plan import Binding
from agent.dataplane.shadow import Shadow
from agent.errors import AgentError
from agent.worker.spec import Worker
from registry.contracts.catalogue.manifest import Tolerance
from registry.contracts.device.deployments import DeploymentPolicy, ShadowFigures


class HostLocalPolicy:
    """Implements `agent.reconciler.ports.LocalPolicy`."""

    def __init__(
        self,
        policy: HostPolicy,
        leases: Leases,
        metered: Callable[[], bool],
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._leases, self._metered, self._now = policy, leases, metered, now
        self._monotonic = monotonic

    def may_download(
        self, model: str, policy: DeploymentPolicy, offered_at: datetime, missing_bytes: int
    ) -> Wait | None:
        """None: now; else why it waits, by the window, the size and the network."""
        at = HostNow(self._now(), offered_at, metered=self._metered())
        return may_download(model, policy, self._policy, at, missing_bytes)

    def may_switch(self, model: str, policy: DeploymentPolicy, offered_at: datetime) -> Wait | None:
        """None: now; else why it waits, by the window and the leases of local programs."""
        now = self._now()
        leases = self._leases.living(now, self._monotonic())
        return may_switch(model, policy, self._policy, HostNow(now, offered_at, leases=leases))


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
            inputs=loaded.inputs,
            outputs=loaded.outputs,
            optional_inputs=loaded.optional_inputs,
            rollout=choice.rollout,
            image=choice.image,
            classification=choice.classification,
            max_payload=self._max_payload,
            record_results=choice.record_results,
        )
