"""The settings of the processes that run the models: their interpreters, their limits, what the backends are told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from agent.backends.catalog import CATALOG
from agent.config.section import Section
from registry.contracts.device.messages import Profile
from registry.contracts.names import Name

_MIB, _GIB = 1 << 20, 1 << 30


class WorkerSettings(Section):
    """The processes that run the models."""

    interpreter: Path | None = Field(
        default=None, description="Python that has the vendor's packages; default: the agent's own. Needs NumPy."
    )
    interpreters: dict[str, Path] = Field(
        default_factory=dict,
        max_length=16,
        description='Python by backend, e.g. {mindspore = "/opt/mindspore/bin/python"}; the others use interpreter.',
    )
    memory_bytes: int = Field(
        default=4 * _GIB,
        ge=64 * _MIB,
        le=1 << 44,
        description="Address space of one worker, bytes; an accelerator's runtime needs far more than it uses.",
    )
    load_timeout_s: float = Field(
        default=120, ge=1, le=3600, description="A model that is not loaded by then has failed, s."
    )
    run_timeout_s: float = Field(
        default=30, ge=0.05, le=3600, description="A run that takes longer kills its worker, seconds."
    )
    drain_timeout_s: float = Field(
        default=10, ge=0.1, le=600, description="What a replaced worker gets to finish, seconds."
    )
    cores: int | None = Field(
        default=None, ge=1, le=1024, description="Processors to use; default: all this process may use."
    )
    profile: Profile | None = Field(
        default=None, description="throughput or latency for every model, whatever the deployment says."
    )
    inline_models: tuple[Name, ...] = Field(
        default=(),
        max_length=256,
        description="Models that run in the agent's own process: faster; a crash takes the agent.",
    )
    one_at_a_time: tuple[Name, ...] = Field(
        default=(),
        max_length=256,
        description="Models whose requests are never joined into one run, whatever their manifests permit.",
    )
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, max_length=16, description="Options by backend, e.g. options.onnxruntime = {}."
    )

    @model_validator(mode="after")
    def _backends_exist(self) -> WorkerSettings:
        unknown = sorted(set(self.interpreters) - set(CATALOG))
        if unknown:
            raise ValueError(f"interpreters: no backend is named {', '.join(unknown)}; there are {', '.join(CATALOG)}")
        return self

    def python(self, backend: str) -> Path:
        """The interpreter to start workers of that backend with."""
        return self.interpreters.get(backend) or self.interpreter or Path(sys.executable)
