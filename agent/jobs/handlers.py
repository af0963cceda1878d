"""Which handler does which kind of job. To add one: a line here; see `agent.jobs.context` for what it must keep to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.network.registry_client import RegistryClient
from agent.config.settings import AgentConfig
from agent.errors import PermanentError
from agent.jobs.context import Handler, JobContext, Progress
from agent.jobs.convert import handle_conversion
from agent.jobs.evaluate import evaluate
from registry.contracts.codes import DeploymentCode, JobCode
from registry.contracts.device.deployments import Job, JobKind
from registry.contracts.fit.platforms import Platform

if TYPE_CHECKING:
    from agent.adapters.trust.metadata import TrustedMetadata

HANDLERS: Mapping[str, Handler] = {
    JobKind.CONVERT: handle_conversion,
    JobKind.EVALUATE: evaluate,
}


@dataclass(frozen=True)
class RealJobs:
    """`executor.Work` with this agent's parts: each try gets a context of its own."""

    config: AgentConfig
    cache: ArtifactCache
    registry: RegistryClient | None
    facts: Callable[[], Platform]
    metadata: TrustedMetadata | None = None

    def __call__(
        self, name: str, job: Job, folder: Path, cancel: threading.Event, progress: Progress
    ) -> dict[str, Any]:
        """Does one job. Raises AgentError, StepCancelledError."""
        handler = HANDLERS.get(job.kind)
        if handler is None:
            raise PermanentError(JobCode.JOB_NOT_KNOWN, f"this agent does no jobs of kind {job.kind}: update it")
        if self.registry is None:
            raise PermanentError(DeploymentCode.REGISTRY_REFUSED, "no registry is configured: set registry.url")
        return handler(
            job,
            JobContext(
                id=name,
                config=self.config,
                cache=self.cache,
                registry=self.registry,
                facts=self.facts,
                folder=folder,
                cancel=cancel,
                progress=progress,
                metadata=self.metadata,
            ),
        )
