"""What a job's handler gets, and the table's type. A handler runs in a pool thread, one job at a time.

To add a kind of job: a function `handler(job, context) -> result` and a line in `agent.jobs.handlers`. It
- looks at `context.cancel` often, and raises StepCancelledError soon after it is set: cancelled, timed out, stopping;
- writes only below `context.folder`, which is empty at the start and removed afterwards, whatever happened;
- may be called again for the same job after a kill: what it did outside must be idempotent;
- raises PermanentError for what fails for good, TransientError for what may pass; each with a stable code;
- returns the job's result, JSON of at most `records.MAX_RESULT_BYTES`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.network.registry_client import RegistryClient
from agent.config.settings import AgentConfig
from agent.errors import StepCancelledError
from registry.contracts.device.deployments import Job
from registry.contracts.fit.platforms import Platform

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

    def check(self) -> None:
        """Raises StepCancelledError when the job is to stop."""
        if self.cancel.is_set():
            raise StepCancelledError


Handler = Callable[[Job, JobContext], dict[str, Any]]
