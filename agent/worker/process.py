"""A loaded model in a process of its own, the agent's side. From the control thread; every wait has a deadline."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Literal

from agent.errors import TransientError
from agent.worker import signature
from agent.worker.measure import MAX_VERDICT, Measurement
from agent.worker.spawn import TrialTimeoutError, WorkerProcess, printable
from agent.worker.spec import WorkerSpec, batching_outcome, build_facts, checked_measurement, layout_for
from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.codes import DeploymentCode

_READY_S = 10.0
"""From loaded to ready there is only the mapping of memory."""


class ProcessWorker:
    """See spec.Worker."""

    execution: Literal["process", "inline"] = "process"

    def __init__(self, spec: WorkerSpec, process: WorkerProcess, facts: dict[str, Any], deadline: float) -> None:
        """Takes the process over once it has loaded. Raises PermanentError or TransientError."""
        self.spec = spec
        self.backend = spec.backend
        self.pid = process.pid
        self._process = process
        self.inputs, self.optional_inputs, self.outputs, self.measured = _checked_facts(spec, facts)
        self.provider = printable(str(facts.get("provider", "")), 64)
        self.confined = printable(str(facts.get("confined", "")), 200)
        self.max_batch = self.measured.max_batch
        self.batching = batching_outcome(spec, self.measured)
        self.run_us = self.measured.run_us
        self.layout = layout_for(spec, self.inputs, self.outputs)
        memory_fd = _sealed_memory(self.layout.total)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(self.measured.lanes)]
        self.lanes = tuple(mine for mine, _ in pairs)
        try:
            self._map = mmap.mmap(memory_fd, self.layout.total)
            self.memory = memoryview(self._map)
            for lane in self.lanes:
                lane.setblocking(False)
            request = {
                "layout": self.layout.to_json(),
                "max_batch": self.max_batch,
                "any_rank": [tensor.name for tensor in (*self.inputs, *self.optional_inputs) if tensor.any_rank],
            }
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

    def run(self, ids: Sequence[int]) -> None:
        """Never: a process runs what its lanes say."""
        raise RuntimeError(f"slots {list(ids)} belong to a worker process: ring a lane")

    def run_alone(self, why: str) -> None:
        """See Worker."""
        self._process.ask("alone", {}, "ready", deadline=time.monotonic() + _READY_S)
        self.measured = self.measured._replace(max_batch=1, verdict=why[:MAX_VERDICT])
        self.max_batch, self.batching = 1, batching_outcome(self.spec, self.measured)

    def kill(self) -> None:
        """See Worker."""
        self._process.kill()

    def close(self, timeout_s: float) -> None:
        """See Worker."""
        for lane in self.lanes:
            lane.close()
        self._process.end(timeout_s)
        try:
            self.memory.release()
            self._map.close()
        except BufferError:
            # Somebody still holds a view, a reply on its way for one: the memory goes with the last of them.
            return

    def exit_reason(self) -> str:
        """See Worker."""
        return self._process.reason()


def start_process(spec: WorkerSpec) -> ProcessWorker:
    """Starts a process, loads, warms up, measures. At most `spec.load_timeout_s` and a moment.

    Raises PermanentError (load_failed, signature_mismatch, backend_unavailable) or TransientError (load_timeout,
    worker_crashed, disk_error); nothing is left behind then.
    """
    deadline = time.monotonic() + spec.load_timeout_s
    untried = spec.known.trial if spec.known is not None else ""
    try:
        return _started(spec, deadline, untried)
    except TrialTimeoutError as error:
        return _started(spec, deadline, str(error))


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
        "build": build_facts(spec),
        "settings": {name: value for name, value in spec.settings.items() if isinstance(value, (str, int, float))},
        "engines": spec.engines,
        "target": spec.target,
        "profile": spec.profile,
        "cores": spec.cores,
        "memory_bytes": spec.memory_bytes,
        "max_batch": spec.max_batch,
        "known": spec.known,
        "trial_s": spec.trial_s,
        "samples": spec.samples.cases if spec.samples is not None else [],
        "independent": spec.independent,
        "input_names": [tensor.name for tensor in spec.inputs],
        "output_names": [tensor.name for tensor in spec.outputs],
        "optional_names": [tensor.name for tensor in spec.optional_inputs],
        "input_shapes": [tensor.shape for tensor in spec.inputs],
        "input_datatypes": [str(tensor.datatype) for tensor in spec.inputs],
        "network": None if spec.network is None else [spec.network.name, spec.network.arguments],
        "entry_point": spec.entry_point,
    }


def _checked_facts(
    spec: WorkerSpec, facts: dict[str, Any]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[TensorSpec, ...], Measurement]:
    """What the worker says it loaded, within bounds and as the manifest declares it."""
    try:
        inputs, optional, outputs = (signature.parse(facts[side]) for side in ("inputs", "optional_inputs", "outputs"))
        measured = checked_measurement(facts["measured"], spec)
    except (KeyError, TypeError, ValueError) as error:
        message = f"the worker described the model of {spec.model} in a way that cannot be: {error}"
        raise TransientError(DeploymentCode.WORKER_CRASHED, message) from None
    return (*signature.agreed(spec, inputs, optional, outputs), measured)


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
