"""What a job's handler gets, what it brings to this host and loads here, and the type of the table of handlers.

A handler runs in a pool thread, one job at a time. To add a kind of job: a function `handler(job, context) -> result`
and a line in `agent.jobs.handlers`. It
- looks at `context.cancel` often, and raises StepCancelledError soon after it is set: cancelled, timed out, stopping;
- writes only below `context.folder`, which is empty at the start and removed afterwards, whatever happened;
- may be called again for the same job after a kill: what it did outside must be idempotent;
- raises PermanentError for what fails for good, TransientError for what may pass; each with a stable code;
- returns the job's result, JSON of at most `records.MAX_RESULT_BYTES`.

Manifests, the files of a variant and single blobs are brought below the job's folder, never into the cache: nothing
that serves is evicted for a job. What the cache has is copied. A variant is loaded beside what serves: a worker process
of its own, with the bounds of this agent's settings. It shares the host with what serves, so it gets one core and
little shared memory; its speed is no measure of anything.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from agent.adapters.deployment_steps import variant_spec
from agent.adapters.disk.artifact_cache import ArtifactCache, reserve_of
from agent.adapters.disk.checked_files import PartFile, faulty
from agent.adapters.disk.durable import disk_error
from agent.adapters.network.registry_client import RegistryClient
from agent.config.settings import AgentConfig
from agent.errors import AgentError, PermanentError, StepCancelledError, TransientError
from agent.worker.handle import start_worker
from agent.worker.spec import Worker
from registry.contracts.catalogue.batching import BatchingMode
from registry.contracts.catalogue.manifest import FileRef, Manifest, Variant
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import Job
from registry.contracts.enums import OLDER_READER
from registry.contracts.fit.platforms import Platform

if TYPE_CHECKING:
    from agent.adapters.trust.metadata import TrustedMetadata

SLOTS, ARENAS = 16, 1
"""Of a worker that is loaded for a job."""
CLOSE_S = 5.0
Progress = Callable[[float | None, str], None]
"""The part that is done (0..1, None: not known) and what is being done; as often as one likes."""


@dataclass(frozen=True)
class JobContext:
    """One try of one job."""

    id: str
    config: AgentConfig
    cache: ArtifactCache
    """Read only what serves: `verify` first. What a job needs besides goes below `folder`."""
    registry: RegistryClient
    facts: Callable[[], Platform]
    folder: Path
    cancel: threading.Event
    progress: Progress
    metadata: TrustedMetadata | None = None
    """Says which manifests are signed. None: this host checks no signatures."""

    def check(self) -> None:
        """Raises StepCancelledError when the job is to stop."""
        if self.cancel.is_set():
            raise StepCancelledError


Handler = Callable[[Job, JobContext], dict[str, Any]]


def job_manifest(job: Job, context: JobContext) -> Manifest:
    """The manifest that the job names, which a trusted role lists. Raises AgentError."""
    data = context.cache.manifest(job.manifest) or context.registry.manifest(job.manifest)
    if context.metadata is not None:
        context.metadata.require_listed(job.model, job.version, job.manifest, len(data))
    try:
        return Manifest.model_validate_json(data, context=dict(OLDER_READER))
    except ValidationError as error:
        raise PermanentError(DeploymentCode.BAD_ANSWER, f"manifest {job.manifest}: {error}") from None


def bring_variant(variant: Variant, folder: Path, context: JobContext) -> None:
    """All files of a variant, whole and checked, below `folder`. Raises AgentError, StepCancelledError."""
    require_room(sum(file.size for file in variant.files), folder, context)
    if _copied(variant, folder, context):
        return
    for file in variant.files:
        bring_file(file, folder, context)


def bring_file(file: FileRef, folder: Path, context: JobContext) -> Path:
    """One blob, whole and checked, at its path below `folder`. Raises AgentError, StepCancelledError."""
    target = folder / file.path
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with PartFile(context.folder, file) as part:
            part.resume(context.cancel)
            if part.offset < file.size:
                context.registry.download(part, context.cancel)
            part.check()
            part.path.replace(target)
    except OSError as error:
        raise disk_error(error, target) from error
    return target


def require_room(size: int, folder: Path, context: JobContext) -> None:
    """Raises TransientError(insufficient_disk) when the disk has not so many bytes beyond the reserve."""
    reserve = reserve_of(context.folder, context.config.limits.disk_reserve)
    free = shutil.disk_usage(context.folder).free - reserve
    if size > free:
        raise TransientError(
            DeploymentCode.INSUFFICIENT_DISK,
            f"the job needs {size} bytes at {folder}, and {max(free, 0)} are free beyond the reserve: free some",
        )


def _copied(variant: Variant, folder: Path, context: JobContext) -> bool:
    """From the cache, when it has the variant and it is right."""
    digest = variant.canonical_digest()
    if not context.cache.has(digest):
        return False
    try:
        context.cache.verify(variant, digest, context.cancel)
        for file in variant.files:
            target = folder / file.path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(context.cache.files(digest) / file.path, target)
            context.check()
        check_files(variant, folder, context)
    except StepCancelledError:
        raise
    except (AgentError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def load_beside(variant: Variant, backend: str, folder: Path, context: JobContext, model: str) -> Worker:
    """A worker with the variant whose files are below `folder`; the caller closes it.

    Raises:
        PermanentError, TransientError: as `agent.worker.handle.start_worker`; digest_mismatch when what was loaded is
            not the variant's files, each of which is hashed.
        StepCancelledError: the job is to stop.
    """
    slots = min(context.config.limits.slots, SLOTS)
    worker = start_worker(
        variant_spec(
            context.config, model, variant, backend, folder, mode=BatchingMode.AUTO, slots=slots, arenas=ARENAS
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
        raise TransientError(
            DeploymentCode.DIGEST_MISMATCH, f"{folder}: {bad[0].path} is not the file of {variant.name} any more"
        )
