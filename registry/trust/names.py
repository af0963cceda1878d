"""Names, bounds and lifetimes of the signed metadata.

Two repositories with a root each. The **image** repository (TUF 1.0, consistent snapshots) lists the manifest of every
published version under the target path `models/NAME/VERSION`. `targets` delegates `models/NAME/*` to the role
`model-NAME`, terminating, and at last `models/*/*` to the role `unclaimed`. The **director** has a root whose `targets`
keys sign the desired document of each device.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from registry.contracts.wire import Name, VersionName

IMAGE: Literal["image"] = "image"
DIRECTOR: Literal["director"] = "director"
Repository = Literal["image", "director"]

ROOT = "root"
TARGETS = "targets"
SNAPSHOT = "snapshot"
TIMESTAMP = "timestamp"
UNCLAIMED = "unclaimed"
"""Of models that have no delegation of their own."""
UNCLAIMED_PATTERN = "models/*/*"
_MODEL_PREFIX = "model-"

SIGNED_AT = "signed_at"
"""A field of `timestamp` beside those of TUF: when the registry signed it, RFC 3339. No device's time is before it."""

MAX_ROOT_BYTES = 512_000
MAX_TIMESTAMP_BYTES = 16_384
MAX_SNAPSHOT_BYTES = 2_000_000
"""About 30,000 models."""
MAX_TARGETS_BYTES = 5_000_000
"""Of `targets` and each delegated role: 10,000 models, or 10,000 versions of one."""
MAX_ROOTS = 256
"""Roots between the one that a device has and the newest."""

ROOT_LIFE = timedelta(days=365)
TARGETS_LIFE = timedelta(days=365)
"""Of `targets` and of models' roles: a publisher is not there to renew them, and the snapshot pins their version."""
SNAPSHOT_LIFE = timedelta(days=7)
TIMESTAMP_LIFE = timedelta(days=1)
DOCUMENT_LIFE = timedelta(days=7)
"""Of a device's desired document."""


def model_role(model: Name) -> str:
    """The role that lists the versions of a model."""
    return _MODEL_PREFIX + model


def model_of(role: str) -> Name | None:
    """The model whose versions a role lists; None: it is no role of a model."""
    return role.removeprefix(_MODEL_PREFIX) if role.startswith(_MODEL_PREFIX) else None


def model_pattern(model: Name) -> str:
    """The target paths that are delegated to the model's role."""
    return f"models/{model}/*"


def target_path(model: Name, version: VersionName) -> str:
    """The target that is the manifest of a version."""
    return f"models/{model}/{version}"


def file_name(role: str, version: int | None) -> str:
    """The metadata's name in its repository: only `timestamp` has no number."""
    return f"{role}.json" if version is None else f"{version}.{role}.json"
