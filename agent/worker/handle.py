"""Loaded models, the agent's side: in a process of their own, or inline. For the control thread.

worker = start_worker(WorkerSpec(...))      blocks, with a deadline
worker.layout, worker.memory, worker.lanes  what the data path works with
worker.close(timeout_s)                     when the data path has let go of it
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from agent.backends.base import BackendError, optional_inputs
from agent.backends.catalog import CATALOG, open_backend
from agent.errors import AgentError, PermanentError, TransientError
from agent.worker.main import check_artifact
from agent.worker.measure import measure, read_samples, warm_again
from agent.worker.runner import Runner
from agent.worker.spawn import TrialTimeoutError, WorkerProcess, printable
from agent.worker.spec import Worker, WorkerSpec, checked_measurement
from registry.contracts.catalogue.manifest import Format
from registry.contracts.codes import DeploymentCode
from registry.contracts.fit.platforms import BackendFacts

_READY_S = 10.0
"""From loaded to ready there is only the mapping of memory."""


def start_worker(spec: WorkerSpec) -> Worker:
    """Loads a model as `spec.execution` says, warms it up and measures it.

    At most `spec.load_timeout_s` and a moment. Raises PermanentError (load_failed, signature_mismatch,
    backend_unavailable) or TransientError (load_timeout, worker_crashed, disk_error); nothing is left behind then.
    """
    if spec.execution == "inline":
        return InlineWorker(spec)
    deadline = time.monotonic() + spec.load_timeout_s
    try:
        return _started(spec, deadline, spec.known.trial if spec.known is not None else "")
    except TrialTimeoutError as error:
        return _started(spec, deadline, str(error))


def probe_backend(name: str, interpreter: str = sys.executable, timeout_s: float = 20.0) -> BackendFacts:
    """What a backend is on this host, found by using it in a process of its own. Never raises for what is missing.

    Only what the backend itself answers is a fact; when its process does not start, stalls, is killed or talks
    nonsense, the result is `unknown`.
    """
    formats = tuple(Format(each) for each in CATALOG[name].formats)
    with contextlib.ExitStack() as stack:
        try:
            process = WorkerProcess(interpreter, name)
            stack.callback(process.end, 0.5)
            facts = process.ask("probe", {"backend": name}, "probed", deadline=time.monotonic() + timeout_s)
            return BackendFacts.model_validate({**facts, "name": name, "formats": formats})
        except (AgentError, ValueError) as error:
            stalled = isinstance(error, TransientError) and error.code == DeploymentCode.LOAD_TIMEOUT
            reason = f"no answer within {timeout_s:.0f} s" if stalled else printable(str(error), 1000)
            return BackendFacts(name=name, usable=False, unknown=True, reason=reason, formats=formats)


class ProcessWorker(Worker):
    """A model in a process of its own. Every wait has a deadline."""

    def __init__(self, spec: WorkerSpec, process: WorkerProcess, facts: dict[str, Any], deadline: float) -> None:
        """Takes the process over once it has loaded. Raises PermanentError or TransientError."""
        try:
            sides = (facts["inputs"], facts["optional_inputs"], facts["outputs"])
            measured = checked_measurement(facts["measured"], spec)
            super().__init__(spec, sides, measured, printable(str(facts.get("provider", "")), 64))
        except (KeyError, TypeError, ValueError) as error:
            raise TransientError(
                DeploymentCode.WORKER_CRASHED,
                f"the worker described the model of {spec.model} in a way that cannot be: {error}",
            ) from None
        self.pid = process.pid
        self._process = process
        self.confined = printable(str(facts.get("confined", "")), 200)
        memory_fd = _sealed_memory(self.layout.total)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(self.measured.lanes)]
        self.lanes = tuple(mine for mine, _ in pairs)
        try:
            self._map = mmap.mmap(memory_fd, self.layout.total)
            self.memory = memoryview(self._map)
            for lane in self.lanes:
                lane.setblocking(False)
            request = {"layout": self.layout.to_json(), "max_batch": self.max_batch, "any_rank": self.any_rank}
            descriptors = [memory_fd, *(theirs.fileno() for _, theirs in pairs)]
            process.ask("serve", request, "ready", deadline=deadline, descriptors=descriptors)
        except BaseException:
            for lane in self.lanes:
                lane.close()
            raise
        finally:
            os.close(memory_fd)
            for _, theirs in pairs:
                theirs.close()

    def _run_alone(self) -> None:
        self._process.ask("alone", {}, "ready", deadline=time.monotonic() + _READY_S)

    def kill(self) -> None:
        """See Worker."""
        self._process.kill()

    def close(self, timeout_s: float) -> None:
        """See Worker."""
        for lane in self.lanes:
            lane.close()
        self._process.end(timeout_s)
        # When somebody still holds a view, a reply on its way for one, the memory goes with the last of them.
        with contextlib.suppress(BufferError):
            self.memory.release()
            self._map.close()

    def exit_reason(self) -> str:
        """See Worker."""
        return self._process.reason()


def _started(spec: WorkerSpec, deadline: float, untried: str) -> ProcessWorker:
    """`untried`: why no trial run is made; empty: they are."""
    process = WorkerProcess(spec.interpreter, spec.backend)
    try:
        with contextlib.ExitStack() as stack:
            descriptors = []
            if spec.samples is not None and not untried:
                descriptors.append(os.open(spec.samples.path, os.O_RDONLY | os.O_CLOEXEC))
                stack.callback(os.close, descriptors[0])
            request = _load_request(spec) | {"untried": untried}
            facts = process.ask("load", request, "loaded", deadline=deadline, descriptors=descriptors)
        return ProcessWorker(spec, process, facts, time.monotonic() + _READY_S)
    except BaseException:
        process.kill()
        process.end(0.0)
        raise


def _load_request(spec: WorkerSpec) -> dict[str, Any]:
    return {
        "backend": spec.backend,
        "directory": spec.directory,
        "entry": spec.entry,
        "options": spec.load_options()._asdict(),
        "optional_names": [tensor.name for tensor in spec.optional_inputs],
        "memory_bytes": spec.memory_bytes,
        "max_batch": spec.max_batch,
        "known": spec.known,
        "trial_s": spec.trial_s,
        "samples": spec.samples.cases if spec.samples is not None else [],
    }


def _sealed_memory(size: int) -> int:
    """A memory file without a name whose size is final: a worker that cut it would kill the agent with SIGBUS."""
    descriptor = os.memfd_create("modelfleet-worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class InlineWorker(Worker):
    """A model in the agent's own process, for trusted models only: a little faster, and its crash is the agent's.

    The same memory layout and the same code as in a worker process, run by the thread that calls `run`. No load
    timeout, no memory limit, no sandbox.
    """

    confined = "none: inline"
    lanes = ()

    def __init__(self, spec: WorkerSpec) -> None:
        """Loads, warms up, measures. Raises PermanentError."""
        if spec.entry_point is not None:
            raise PermanentError(
                DeploymentCode.ENTRY_POINT_DISABLED,
                f"the code that {spec.model} brings runs only in a worker process, never in the agent's own",
            )
        try:
            check_artifact(spec.directory)
            session = open_backend(spec.backend).load(spec.directory, spec.entry, spec.load_options())
            samples = spec.samples
            given = read_samples(os.open(samples.path, os.O_RDONLY | os.O_CLOEXEC), samples.cases) if samples else []
            if spec.known is not None:
                warm_again(session, given, spec.known)
            measured = spec.known or measure(session, cores=1, cap=spec.max_batch, profile=spec.profile, given=given)
        except BackendError as error:
            raise PermanentError(error.code, error.message) from None
        super().__init__(spec, (session.inputs, optional_inputs(session), session.outputs), measured, session.provider)
        self._session = session
        self.pid = os.getpid()
        self.memory = memoryview(mmap.mmap(-1, self.layout.total))
        self._runner = Runner(session, self.layout, self.memory, self.max_batch, self.any_rank)

    def run(self, ids: Sequence[int]) -> None:
        """Runs these slots now, in batches of at most max_batch."""
        self._runner.run(ids)

    def _run_alone(self) -> None:
        self._runner.run_alone()

    def kill(self) -> None:
        """Nothing: a run in this process cannot be stopped."""

    def close(self, timeout_s: float) -> None:
        """Frees the model; its memory goes with the last view of it. `timeout_s` is for processes."""
        self._session.close()

    def exit_reason(self) -> str:
        """It never ends by itself."""
        return "inline: it ends with the agent"
