"""Loads a variant for a job, beside what serves: a worker process of its own, with the bounds of this agent's settings.

It shares the host with what serves, so it gets one core and little shared memory; its speed is no measure of anything.
"""

from __future__ import annotations

from pathlib import Path

from agent.jobs.context import JobContext
from agent.worker.handle import Worker, WorkerSpec, start_worker
from registry.contracts.manifest import Variant

SLOTS, ARENAS = 16, 1


def load_beside(variant: Variant, backend: str, folder: Path, context: JobContext, model: str) -> Worker:
    """A worker with the variant whose files are below `folder`; the caller closes it.

    Raises:
        PermanentError, TransientError: as `agent.worker.handle.start_worker`.
    """
    limits, settings = context.config.limits, context.config.worker
    return start_worker(
        WorkerSpec(
            model=model,
            backend=backend,
            directory=str(folder.resolve()),
            entry=variant.entry,
            inputs=variant.inputs,
            outputs=variant.outputs,
            network=variant.network,
            target=str(variant.target),
            cores=1,
            interpreter=str(settings.python(backend)),
            memory_bytes=settings.memory_bytes,
            load_timeout_s=settings.load_timeout_s,
            run_timeout_s=settings.run_timeout_s,
            slots=min(limits.slots, SLOTS),
            arenas=ARENAS,
            arena_bytes=limits.arena_bytes,
            max_batch=limits.max_batch,
        )
    )
