"""A model in the agent's own process, for trusted models only: a little faster, and a crash takes the agent with it.

The same memory layout and the same code as in a worker process, run by the thread that calls `run`. No load timeout,
no memory limit, no sandbox.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Sequence
from typing import Literal

from agent.backends.base import BackendError, LoadOptions
from agent.backends.catalog import open_backend
from agent.errors import PermanentError
from agent.worker import signature
from agent.worker.artifact import check_artifact
from agent.worker.measure import MAX_VERDICT, measure, warm_again
from agent.worker.runner import Runner, optional_inputs
from agent.worker.samples import read_samples
from agent.worker.spec import WorkerSpec, batching_outcome, build_facts, layout_for
from registry.contracts.codes import DeploymentCode


class InlineWorker:
    """See spec.Worker."""

    execution: Literal["process", "inline"] = "inline"
    confined = "none: inline"
    lanes: tuple[socket.socket, ...] = ()

    def __init__(self, spec: WorkerSpec) -> None:
        """Loads, warms up, measures. Raises PermanentError."""
        if spec.entry_point is not None:
            message = f"the code that {spec.model} brings runs only in a worker process, never in the agent's own"
            raise PermanentError(DeploymentCode.ENTRY_POINT_DISABLED, message)
        self.spec = spec
        self.backend = spec.backend
        self.pid = os.getpid()
        names = tuple(tensor.name for tensor in spec.inputs), tuple(tensor.name for tensor in spec.outputs)
        shapes = tuple(tensor.shape for tensor in spec.inputs)
        network = None if spec.network is None else (spec.network.name, dict(spec.network.arguments))
        options = LoadOptions(spec.target, spec.profile, spec.cores, *names, shapes, network)
        options = options._replace(build=build_facts(spec), settings=spec.settings, engines=spec.engines)
        options = options._replace(independent=spec.independent)
        try:
            check_artifact(spec.directory)
            self._session = open_backend(spec.backend).load(spec.directory, spec.entry, options)
            samples = spec.samples
            given = read_samples(os.open(samples.path, os.O_RDONLY | os.O_CLOEXEC), samples.cases) if samples else []
            if spec.known is not None:
                warm_again(self._session, given, spec.known)
            self.measured = spec.known or measure(
                self._session, cores=1, cap=spec.max_batch, profile=spec.profile, given=given
            )
        except BackendError as error:
            raise PermanentError(error.code, error.message) from None
        sides = (self._session.inputs, optional_inputs(self._session), self._session.outputs)
        self.inputs, self.optional_inputs, self.outputs = signature.agreed(spec, *map(signature.parse, sides))
        self.provider = self._session.provider
        self.max_batch = self.measured.max_batch
        self.batching = batching_outcome(spec, self.measured)
        self.run_us = self.measured.run_us
        self.layout = layout_for(spec, self.inputs, self.outputs)
        self.memory = memoryview(mmap.mmap(-1, self.layout.total))
        any_rank = [tensor.name for tensor in (*self.inputs, *self.optional_inputs) if tensor.any_rank]
        self._runner = Runner(self._session, self.layout, self.memory, self.max_batch, any_rank)

    def run(self, ids: Sequence[int]) -> None:
        """Runs these slots now, in batches of at most max_batch."""
        self._runner.run(ids)

    def run_alone(self, why: str) -> None:
        """See Worker."""
        self._runner.run_alone()
        self.measured = self.measured._replace(max_batch=1, verdict=why[:MAX_VERDICT])
        self.max_batch, self.batching = 1, batching_outcome(self.spec, self.measured)

    def kill(self) -> None:
        """Nothing: a run in this process cannot be stopped."""

    def close(self, timeout_s: float) -> None:
        """Frees the model; its memory goes with the last view of it. `timeout_s` is for processes."""
        self._session.close()

    def exit_reason(self) -> str:
        """It never ends by itself."""
        return "inline: it ends with the agent"
