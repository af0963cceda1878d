"""What a host has: facts that were probed, never listed. Requirements are what a variant needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.digest import Digest, digest_of
from registry.contracts.manifest import Format, Target
from registry.contracts.wire import Wire, canonical_json

_VOLATILE = {"observed_at", "disk_free_bytes", "memory_free_bytes"}


class BackendFacts(Wire):
    """One backend on one host, as a probe found it by using it."""

    name: str
    """The agent's catalogue name, e.g. `onnxruntime`."""
    usable: bool
    reason: str = ""
    """Why it is not usable, and what to install."""
    version: str = ""
    formats: tuple[Format, ...] = ()
    targets: tuple[Target, ...] = ()
    """The kinds of platform that it really runs on here: a provider counts only after a session ran on it."""
    providers: tuple[str, ...] = ()
    max_onnx_ir: int | None = None
    max_onnx_opset: int | None = None


class Platform(Wire):
    """The facts of one host. Absent means unknown, and unknown never counts as fitting."""

    os: str
    arch: str
    """As `uname -m` says: x86_64, aarch64."""
    libc: str = ""
    cpu_count: Annotated[int, Field(ge=1)] = 1
    """Processors this agent may use."""
    cpu_features: tuple[str, ...] = ()
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    disk_free_bytes: int | None = None
    backends: tuple[BackendFacts, ...] = ()
    agent_version: str = ""
    locale: str = ""
    observed_at: AwareDatetime | None = None

    def facts_digest(self) -> Digest:
        """Names the class of hosts with the same facts; what changes by the minute is left out."""
        stable = {key: value for key, value in self.to_json().items() if key not in _VOLATILE}
        return digest_of(canonical_json(stable))
