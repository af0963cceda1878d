"""A device that checks signatures, through the agent's own parts: fetcher, disk store, restarts. And who signs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agent.adapters.disk.damage import Damage
from agent.adapters.network.registry_client import RegistryClient
from agent.adapters.trust.metadata import TrustedMetadata
from agent.adapters.trust.store import MetadataStore
from agent.errors import AgentError
from registry.contracts.codes import DeploymentCode
from registry.contracts.wire import digest_of
from registry.trust.roots import TrustAnchors
from tests.support.network.metadata_server import MetadataServer
from tests.support.signed_metadata import NOW, MemoryDirector, MemoryImageRepository

DEVICE = "edge-1"
DAY = timedelta(days=1)
FIRST, SECOND = b'{"version":"1.0.0"}', b'{"version":"1.1.0"}'
"""Manifests, of which here only the bytes count."""


@dataclass
class DeviceMetadata:
    """`trusted` is the running agent's; `restart` makes another one over the same disk."""

    folder: Path
    server: MetadataServer
    image: MemoryImageRepository = field(default_factory=MemoryImageRepository)
    director: MemoryDirector = field(default_factory=MemoryDirector)
    now: datetime = NOW
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        self.image.add("lenet", "1.0.0", FIRST)
        self.anchors = TrustAnchors(self.image.roots[0], self.director.roots[0])
        self.client = RegistryClient(self.server.url, DEVICE, token="t", ca_file=None, timeout_s=2.0)
        self.serve()
        self.restart()

    def serve(self) -> None:
        """The registry gives what it has signed by now."""
        self.server.image = self.image.by_name()
        self.server.director = {f"{number}.root.json": root for number, root in enumerate(self.director.roots, 1)}

    def restart(self) -> TrustedMetadata:
        """The agent starts again."""
        self.damage = Damage()
        self.trusted = TrustedMetadata(
            DEVICE,
            self.anchors,
            MetadataStore(self.folder / "trust", self.damage),
            self.client.signed_metadata,
            now=lambda: self.now,
            monotonic=lambda: self.elapsed,
        )
        return self.trusted

    def unplug(self) -> None:
        """Nobody answers any more."""
        self.client.close()
        self.client = RegistryClient("http://127.0.0.1:1", DEVICE, token="t", ca_file=None, timeout_s=1.0)
        self.restart()

    def installs(self, manifest: bytes, version: str = "1.0.0", model: str = "lenet") -> None:
        """Raises AgentError: nothing of it may be downloaded."""
        self.trusted.require_listed(model, version, digest_of(manifest), len(manifest))

    def loads(self, manifest: bytes, version: str = "1.0.0", model: str = "lenet") -> None:
        """Raises AgentError: nothing of it may be loaded."""
        self.trusted.require_trusted(model, version, digest_of(manifest), len(manifest))

    def refuses(self, code: DeploymentCode, manifest: bytes, version: str = "1.0.0", model: str = "lenet") -> str:
        """It is not to be installed, for this reason. The message."""
        with pytest.raises(AgentError) as refused:
            self.installs(manifest, version, model)
        assert refused.value.code == code, refused.value.message
        return refused.value.message

    def kept(self) -> dict[str, bytes]:
        """The files of its store."""
        return {path.name: path.read_bytes() for path in sorted((self.folder / "trust").glob("*.json"))}
