"""Evaluate: a validation set through the variant that this device uses, in a worker of its own beside what serves.

The items go the way live requests go, in batches where the worker batches. A variant that is not in the cache is
fetched into the job's folder; what serves is not disturbed but for the cores and the memory that both need.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from agent.adapters.deployment_steps import DeploymentSteps
from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.core.slots import Choice
from agent.errors import PermanentError
from agent.jobs.context import CLOSE_S, JobContext, bring_file
from agent.worker.caller import Caller, Request, RunFailedError, array_of
from agent.worker.channel import ArenaTensor
from agent.worker.spec import Worker
from registry.contracts.catalogue.manifest import FileRef
from registry.contracts.codes import JobCode
from registry.contracts.device.deployments import Job
from registry.contracts.device.messages import DesiredModel
from registry.contracts.evaluation import MAX_DATASET_BYTES, METRICS, Array, Scoring, items_at, read_dataset
from registry.contracts.tensor_file import TensorFileError, TensorSpan

TOGETHER = 64
"""Items that are handed to the worker at once."""


def evaluate(job: Job, context: JobContext) -> dict[str, Any]:
    """See `agent.jobs.context`. Gives metric, value, items, variant, backend and seconds (of the runs alone)."""
    if job.metric not in METRICS:
        known = ", ".join(METRICS)
        raise PermanentError(JobCode.BAD_OPTION, f"this agent has no metric {job.metric!r}; it has {known}")
    content = _fetched(job, context)
    try:
        dataset = read_dataset(content, len(content))
    except TensorFileError as error:
        raise PermanentError(JobCode.BAD_OPTION, f"the validation set {job.dataset}: {error}") from None
    worker, choice = _loaded(job, context)
    try:
        begin = time.monotonic()
        try:
            scoring = Scoring(dataset, job.metric, worker.inputs, worker.outputs, choice.classification)
            value = _value(scoring, dataset.items, content, worker, context)
        except TensorFileError as error:
            raise PermanentError(
                JobCode.BAD_OPTION, f"the validation set does not go with this model: {error}"
            ) from None
        except RunFailedError as error:
            raise PermanentError(error.code, f"the variant {choice.variant.name} fails on an item: {error}") from None
        return {
            "metric": job.metric,
            "value": value,
            "items": dataset.items,
            "variant": choice.variant.name,
            "backend": f"{worker.backend}/{worker.provider}",
            "seconds": round(time.monotonic() - begin, 3),
        }
    finally:
        worker.close(CLOSE_S)


def _value(scoring: Scoring, items: int, content: memoryview, worker: Worker, context: JobContext) -> float:
    """The metric over all items. Raises TensorFileError, RunFailedError, TransientError."""
    caller = Caller(worker)
    arrays = {name: _array(content, span) for name, span in scoring.inputs.items()}
    right = _array(content, scoring.target)
    rows = scoring.rows
    together = min(TOGETHER, worker.layout.slots or 1) if worker.layout.batchable else 1
    for start in range(0, items, rows * together):
        context.check()
        stop = min(start + rows * together, items)
        answers = caller.call_together([_request(worker, arrays, at, rows) for at in range(start, stop, rows)])
        scoring.add(np.concatenate([answer[scoring.output] for answer in answers]), right[start:stop])
        context.progress(stop / items, f"{stop} of {items} items")
    return scoring.value()


def _array(content: memoryview, span: TensorSpan) -> Array:
    return array_of(content[span.begin : span.end], span.datatype, span.shape)


def _request(worker: Worker, arrays: Mapping[str, Array], at: int, rows: int) -> Request:
    request = {}
    for spec in worker.inputs:
        part = items_at(arrays[spec.name], at, rows)
        request[spec.name] = ArenaTensor(spec.name, str(spec.datatype), part.shape, part.tobytes())
    return request


def _fetched(job: Job, context: JobContext) -> memoryview:
    """The validation set's bytes, which have its digest, mapped from the job's folder."""
    if job.dataset is None or not 0 < job.dataset_bytes <= MAX_DATASET_BYTES:
        raise PermanentError(JobCode.BAD_OPTION, f"a validation set has a digest and 1 to {MAX_DATASET_BYTES} bytes")
    context.progress(None, "fetching the validation set")
    ref = FileRef(path="dataset.safetensors", digest=job.dataset, size=job.dataset_bytes)
    with bring_file(ref, context.folder, context).open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _loaded(job: Job, context: JobContext) -> tuple[Worker, Choice]:
    """A worker of the variant that the job names, or of the one that fits best."""
    context.progress(None, "loading the variant")
    limits = context.config.limits
    own = ArtifactCache(context.folder / "cache", limit=limits.cache_bytes, reserve=limits.disk_reserve)
    own.open()
    steps = DeploymentSteps(context.config, own, context.registry, context.facts, metadata=context.metadata)
    desired = DesiredModel(version=job.version, manifest=job.manifest, variant=job.source)
    choice = steps.resolve(job.model, desired, context.cancel)
    if context.cache.has(choice.variant_digest):
        steps = DeploymentSteps(
            context.config, context.cache, context.registry, context.facts, metadata=context.metadata
        )
    else:
        steps.download(choice, frozenset(), context.cancel)
    steps.verify(choice, context.cancel)
    context.check()
    return steps.warm(choice, None, context.cancel), choice
