"""Loads a variant for a job, beside what serves: a worker process of its own, with the bounds of this agent's settings.

It shares the host with what serves, so it gets one core and little shared memory; its speed is no measure of anything.
"""

from __future__ import annotations

from pathlib import Path

from agent.adapters.disk.checked_files import faulty
from agent.core.joining import joining
from agent.errors import TransientError
from agent.jobs.context import JobContext
from agent.worker.handle import Worker, WorkerSpec, start_worker
from agent.worker.spec import arenas_for
from registry.contracts.catalogue.batching import BatchingMode
from registry.contracts.catalogue.manifest import Variant
from registry.contracts.codes import DeploymentCode
from registry.contracts.fit.room import held_bytes

SLOTS, ARENAS = 16, 1
CLOSE_S = 5.0


def load_beside(variant: Variant, backend: str, folder: Path, context: JobContext, model: str) -> Worker:
    """A worker with the variant whose files are below `folder`; the caller closes it.

    Raises:
        PermanentError, TransientError: as `agent.worker.handle.start_worker`; digest_mismatch when what was loaded is
            not the variant's files, each of which is hashed.
        StepCancelledError: the job is to stop.
    """
    limits, settings = context.config.limits, context.config.worker
    allowed = joining(
        variant.batching,
        limit=limits.max_batch,
        mode=BatchingMode.AUTO,
        off_here=model in settings.one_at_a_time,
    )
    held = held_bytes(variant.inputs, variant.outputs)
    arenas, arena_bytes = arenas_for(ARENAS, limits.arena_bytes, limits.max_payload, held)
    worker = start_worker(
        WorkerSpec(
            model=model,
            backend=backend,
            directory=str(folder.resolve()),
            entry=variant.entry,
            inputs=variant.inputs,
            outputs=variant.outputs,
            optional_inputs=variant.optional_inputs,
            network=variant.network,
            target=str(variant.target),
            cores=1,
            interpreter=str(settings.python(backend)),
            memory_bytes=settings.memory_bytes,
            load_timeout_s=settings.load_timeout_s,
            run_timeout_s=settings.run_timeout_s,
            slots=min(limits.slots, SLOTS),
            max_batch=allowed.cap,
            joining=allowed.why,
            independent=variant.batching is not None and variant.batching.allows,
            arenas=arenas,
            arena_bytes=arena_bytes,
        )
    )
    try:
        check_files(variant, folder, context)
    except BaseException:
        worker.close(CLOSE_S)
        raise
    return worker


def check_files(variant: Variant, folder: Path, context: JobContext) -> None:
    """The variant's files below `folder` are the variant's files. Raises TransientError(digest_mismatch)."""
    bad = faulty(folder, variant, context.cancel)
    if bad:
        text = f"{folder}: {bad[0].path} is not the file of {variant.name} any more"
        raise TransientError(DeploymentCode.DIGEST_MISMATCH, text)
