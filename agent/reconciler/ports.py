"""What the reconciler needs of others, in its own words. `agent.app` fits the real ones in, tests their fakes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from agent.core.fitness import Room
from agent.core.local_policy import Wait
from agent.core.probation import Tally
from agent.core.slots import Choice, SlotRecord
from agent.core.trust import CheckedDocument, TrustStanding
from agent.errors import AgentError
from agent.worker.measure import Measurement
from agent.worker.spec import Worker
from registry.contracts.catalogue.manifest import Parity
from registry.contracts.device.deployments import DeploymentPolicy, Job, JobStatus, ShadowFigures
from registry.contracts.device.messages import DesiredModel
from registry.contracts.fit.platforms import Platform
from registry.contracts.wire import Digest

if TYPE_CHECKING:
    from registry.contracts.api.devices import DeviceReports  # Takes 40 ms to import: nobody waits for it at a start.


class ShadowRun(Protocol):
    """A candidate that is asked what the active version is asked; only compared."""

    @property
    def failure(self) -> AgentError | None:
        """Why the candidate's worker ended; None: it lives."""

    def figures(self) -> ShadowFigures:
        """What was found so far."""

    def end(self, timeout_s: float) -> bool:
        """Nothing is compared any more. Slow; may be called twice. True: the candidate lives, is idle and may serve."""


class DataPath(Protocol):
    """Requests in, results out. All methods may be called from the control thread and never block."""

    def assign(self, model: str) -> None:
        """The model is this device's, though nothing serves it yet: its requests are refused as not ready."""

    def serve(self, choice: Choice, worker: Worker, tally: Tally) -> Future[Worker | None]:
        """From the next batch on `worker` answers, and `tally` counts what it does. The future brings the one that
        answered before, drained."""

    def rebind(self, choice: Choice, worker: Worker) -> None:
        """From the next batch on `worker`, if it still serves, answers under the rollout and options of `choice`."""

    def shadow(self, choice: Choice, worker: Worker, share: float) -> ShadowRun:
        """From the next batch on `worker`, which is not with the data path, is asked a share (0..1) of what the model's
        active one is asked. To be ended before anything else happens to it."""

    def clear(self, model: str) -> Future[Worker | None]:
        """Requests are refused as not ready from now on; the future as in `serve`."""

    def withdraw(self, model: str) -> Future[Worker | None]:
        """Requests to the model are refused from now on; the future as in `serve`."""

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """QoS 1; the newest of each retained topic is sent again after a reconnect."""

    def publish_durable(self, topic: str, payload: bytes) -> None:
        """QoS 1; on disk before this returns, sent in order, kept until the broker has it."""


class Steps(Protocol):
    """The slow parts of a deployment. They run in a pool, may be cancelled, and raise AgentError."""

    def facts(self) -> Platform:
        """What this host is. Slow once."""

    def look_again(self) -> Platform:
        """What this host is by now: quick while nothing that matters has changed, and everything is known."""

    def resolve(self, model: str, desired: DesiredModel, cancel: threading.Event) -> Choice:
        """Fetches the manifest and chooses."""

    def download(self, choice: Choice, keep: Set[Digest], cancel: threading.Event) -> None:
        """Brings all files of the choice, and its golden vectors, into the cache; may evict what is not in `keep`."""

    def received(self, choice: Choice) -> int:
        """Bytes of the choice's files that are on this disk. Quick."""

    def verify(self, choice: Choice, cancel: threading.Event) -> None:
        """Every byte in the cache is what its digest says."""

    def warm(self, choice: Choice, measured: Measurement | None, cancel: threading.Event) -> Worker:
        """Starts a worker. `measured`: what an earlier start found on this host, so that it need not be measured."""

    def compare(self, choice: Choice, worker: Worker, cancel: threading.Event) -> Parity:
        """How the worker, which nobody else uses, answers the version's golden vectors."""

    def room(self, active: Worker | None) -> Room:
        """The memory that is free, and what the active worker takes. Quick."""

    def sweep(self, slots: Sequence[SlotRecord]) -> None:
        """Removes from the cache what no slot needs. Only while nothing is being installed."""


class Uplink(Protocol):
    """The registry over HTTP, for when the broker is away."""

    def desired(self, etag: str | None) -> tuple[bytes, str | None, str] | None:
        """The desired document, its ETag and its `traceparent`; None when it is still the one with `etag`."""

    def put_facts(self, facts: Platform) -> None:
        """Tells what this host is."""

    def post_reports(self, reports: DeviceReports) -> bool:
        """Tells what would have gone over MQTT. True: the registry asks for the facts, which it does not have."""


class SignedMetadata(Protocol):
    """What this host checks signatures by. `document` and `standing` are quick, and called from any thread."""

    def document(self, body: bytes, after: bytes | None) -> CheckedDocument:
        """The desired document in these bytes, judged by the place of the latest that was accepted, None: none was.

        Raises:
            TrustRefusedError: it is not signed, not for this device, or not later.
        """

    def standing(self) -> TrustStanding:
        """What there is now."""

    def refresh(self) -> None:
        """Asks the registry for what it signed since. Slow. Raises AgentError."""


class JobWork(Protocol):
    """One-time work; see `agent.jobs.executor`. Control thread only."""

    def begin(self) -> None:
        """Takes up what the journal says."""

    def want(self, jobs: Mapping[str, Job]) -> None:
        """What the desired document asks for now."""

    def tend(self) -> None:
        """Begins and ends what it is time for."""

    def statuses(self) -> dict[str, JobStatus]:
        """For the report."""

    def next_due(self) -> float | None:
        """Monotonic time at which `tend` has something to do."""

    def stop(self) -> None:
        """The agent ends."""


class Journal(Protocol):
    """What survives a power cut. Each write is on disk when it returns; TransientError when the disk refuses."""

    def slots(self) -> dict[str, SlotRecord]:
        """All slots."""

    def save(self, record: SlotRecord) -> None:
        """Keeps a slot."""

    def forget(self, model: str) -> None:
        """Drops a slot."""

    def get(self, key: str) -> bytes | None:
        """A small fact."""

    def put(self, key: str, value: bytes) -> None:
        """Keeps a small fact."""

    def next_number(self, key: str) -> int:
        """1, 2, 3, ... across restarts."""

    def measured(self, variant: str, facts: str) -> Measurement | None:
        """What warming up found before."""

    def keep_measure(self, variant: str, facts: str, found: Measurement) -> None:
        """Remembers a measurement."""


class LocalPolicy(Protocol):
    """When this host lets a deployment download and switch: `agent.core.local_policy` with what is true now.

    Asked again at every look while a deployment is deferred. Control thread, quick.
    """

    def may_download(
        self, model: str, policy: DeploymentPolicy, offered_at: datetime, missing_bytes: int
    ) -> Wait | None:
        """Before a download. None: go on."""

    def may_switch(self, model: str, policy: DeploymentPolicy, offered_at: datetime) -> Wait | None:
        """Before a worker is loaded for the switch, and once more before the switch itself. None: go on."""


class Unrestricted:
    """A host without a policy of its own."""

    def may_download(
        self, model: str, policy: DeploymentPolicy, offered_at: datetime, missing_bytes: int
    ) -> Wait | None:
        """At any time."""
        return None

    def may_switch(self, model: str, policy: DeploymentPolicy, offered_at: datetime) -> Wait | None:
        """At any time."""
        return None


class Pool(Protocol):
    """Runs slow work elsewhere; ThreadPoolExecutor is one."""

    def submit(self, work: Callable[[], None], /) -> object:
        """Runs `work` soon. It never raises."""


@dataclass(frozen=True)
class Clock:
    """Time and chance, as arguments."""

    now: Callable[[], datetime]
    """UTC; for documents and their expiry."""
    monotonic: Callable[[], float]
    """Seconds; for delays."""
    chance: Callable[[], float]
    """0..1; spreads retries."""
