"""A small image repository and a director in memory, for tests of what verifies: every part can be signed wrongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from securesystemslib.signer import CryptoSigner, Key, Signer
from tuf.api.metadata import Root, TargetFile

from registry.contracts.device.messages import Desired
from registry.contracts.wire import Digest, digest_of
from registry.trust.building import (
    RoleKeys,
    delegations_metadata,
    root_metadata,
    signed_metadata,
    snapshot_metadata,
    targets_metadata,
    timestamp_metadata,
)
from registry.trust.documents import payload_of, with_signatures
from registry.trust.image import ImageFiles, target_of
from registry.trust.names import (
    DOCUMENT_LIFE,
    ROOT_LIFE,
    SNAPSHOT_LIFE,
    TARGETS_LIFE,
    TIMESTAMP_LIFE,
    UNCLAIMED,
    model_role,
)

NOW = datetime(2027, 1, 1, 12, tzinfo=timezone.utc)


def new_signer() -> Signer:
    """An Ed25519 key."""
    return CryptoSigner.generate_ed25519()


def role_keys(*signers: Signer, threshold: int = 1) -> RoleKeys:
    """The public side of these."""
    keys: list[Key] = [signer.public_key for signer in signers]
    return RoleKeys(keys, threshold)


@dataclass
class MemoryImageRepository:
    """Signs what it is told; `publish` makes new metadata of all roles up to the timestamp."""

    now: datetime = NOW
    root_signers: list[Signer] = field(default_factory=lambda: [new_signer()])
    root_threshold: int = 1
    targets_signer: Signer = field(default_factory=new_signer)
    online: Signer = field(default_factory=new_signer)
    """Of snapshot, timestamp and the models' roles."""
    publishers: dict[str, tuple[list[Signer], int]] = field(default_factory=dict)
    """Keys and threshold of the models that have their own."""

    def __post_init__(self) -> None:
        self.roots: list[bytes] = []
        self.versions: dict[str, int] = {}
        self.listed: dict[str, dict[str, TargetFile]] = {}
        self.metadata: dict[str, bytes] = {}
        self.new_root()
        self.publish()

    @property
    def anchor(self) -> bytes:
        """The first root."""
        return self.roots[0]

    def new_root(self, also: Sequence[Signer] = ()) -> bytes:
        """Sign a root with the keys as they are now; `also`: with these, too."""
        roles = {
            "root": role_keys(*self.root_signers, threshold=self.root_threshold),
            "targets": role_keys(self.targets_signer),
            "snapshot": role_keys(self.online),
            "timestamp": role_keys(self.online),
        }
        root = root_metadata(len(self.roots) + 1, self.now + ROOT_LIFE, roles)
        self.roots.append(signed_metadata(root, [*self.root_signers, *also]))
        return self.roots[-1]

    def add(
        self, model: str, version: str, manifest: bytes, earlier: Mapping[Digest, int] | None = None, role: str = ""
    ) -> None:
        """List a manifest and publish."""
        target = target_of(model, version, digest_of(manifest), len(manifest), earlier=earlier or {}, yanked=False)
        self.listed.setdefault(role or model_role(model), {})[target.path] = target
        self.publish()

    def publish(self) -> None:
        """New metadata of all roles."""
        models = [role.removeprefix("model-") for role in self.listed if role != UNCLAIMED]
        keys = {model: self._signers(model) for model in models}
        for role in {UNCLAIMED, *self.listed}:
            signed = targets_metadata(self._next(role), self.now + TARGETS_LIFE)
            signed.targets = dict(self.listed.get(role, {}))
            signers = [self.online] if role == UNCLAIMED else keys[role.removeprefix("model-")][0]
            self.metadata[role] = signed_metadata(signed, signers)
        top = targets_metadata(self._next("targets"), self.now + TARGETS_LIFE)
        top.delegations = delegations_metadata(
            {model: role_keys(*signers, threshold=threshold) for model, (signers, threshold) in keys.items()},
            role_keys(self.online),
        )
        self.metadata["targets"] = signed_metadata(top, [self.targets_signer])
        named = {role: number for role, number in self.versions.items() if role not in ("snapshot", "timestamp")}
        snapshot = snapshot_metadata(self._next("snapshot"), self.now + SNAPSHOT_LIFE, named)
        self.metadata["snapshot"] = signed_metadata(snapshot, [self.online])
        self.stamp()

    def stamp(self, life: timedelta = TIMESTAMP_LIFE) -> bytes:
        """A new timestamp of the snapshot as it is."""
        number, body = self.versions["snapshot"], self.metadata["snapshot"]
        timestamp = timestamp_metadata(self._next("timestamp"), self.now + life, number, body, self.now)
        self.metadata["timestamp"] = signed_metadata(timestamp, [self.online])
        return self.metadata["timestamp"]

    def files(self) -> ImageFiles:
        """As a device keeps them."""
        top = ("timestamp", "snapshot", "targets")
        delegated = {role: body for role, body in self.metadata.items() if role not in top}
        return ImageFiles(self.roots[1:], *(self.metadata[name] for name in top), delegated)

    def by_name(self) -> dict[str, bytes]:
        """As they are served: `1.root.json`, `timestamp.json`, `3.model-lenet.json`."""
        served = {f"{number}.root.json": body for number, body in enumerate(self.roots, 1)}
        for role, body in self.metadata.items():
            served["timestamp.json" if role == "timestamp" else f"{self.versions[role]}.{role}.json"] = body
        return served

    def _signers(self, model: str) -> tuple[list[Signer], int]:
        return self.publishers.get(model, ([self.online], 1))

    def _next(self, role: str) -> int:
        self.versions[role] = self.versions.get(role, 0) + 1
        return self.versions[role]


@dataclass
class MemoryDirector:
    """Signs desired documents."""

    now: datetime = NOW
    root_signer: Signer = field(default_factory=new_signer)
    signers: list[Signer] = field(default_factory=lambda: [new_signer()])
    threshold: int = 1

    def __post_init__(self) -> None:
        self.roots: list[bytes] = []
        self.new_root()

    def new_root(self) -> bytes:
        """Sign a root with the keys as they are now."""
        mine = role_keys(self.root_signer)
        targets = role_keys(*self.signers, threshold=self.threshold)
        roles = {"root": mine, "targets": targets, "snapshot": mine, "timestamp": mine}
        root: Root = root_metadata(len(self.roots) + 1, self.now + ROOT_LIFE, roles)
        self.roots.append(signed_metadata(root, [self.root_signer]))
        return self.roots[-1]

    def sign(
        self,
        document: Desired,
        epoch_began: datetime = NOW,
        expires: datetime | None = None,
        signers: int | None = None,
    ) -> bytes:
        """The body as it is sent; `signers`: only the first so many sign."""
        payload = payload_of(document.canonical(), epoch_began, expires or self.now + DOCUMENT_LIFE)
        return with_signatures(payload, [signer.sign(payload) for signer in self.signers[:signers]])
