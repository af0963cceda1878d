"""Takes up the roots that this device was given, and what an earlier run kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from agent.adapters.disk.damage import Damage
from agent.adapters.trust.metadata import FetchOf, TrustedMetadata
from agent.adapters.trust.store import MetadataStore
from agent.errors import PermanentError
from registry.contracts.codes import AgentCode
from registry.contracts.wire import Name
from registry.trust.faults import TrustRefusedError
from registry.trust.roots import MAX_ANCHORS_BYTES, TrustAnchors, read_anchors


def open_metadata(
    device: Name, root: Path, folder: Path, fetch: FetchOf | None, *, damage: Damage, now: Callable[[], datetime]
) -> TrustedMetadata:
    """`root`: the file of roots; `folder`: where metadata are kept; the others as `TrustedMetadata`.

    Raises:
        PermanentError: bad_config, the roots cannot be read.
        TransientError: the disk refuses.
    """
    return TrustedMetadata(device, read_root_file(root), MetadataStore(folder, damage), fetch, now=now)


def read_root_file(file: Path) -> TrustAnchors:
    """Raises PermanentError: bad_config."""
    try:
        with file.open("rb") as stream:
            return read_anchors(stream.read(MAX_ANCHORS_BYTES + 1))
    except OSError as error:
        text = f"trust.root {file} cannot be read, so that nothing could be verified: {error.strerror or error}"
    except TrustRefusedError as error:
        text = f"trust.root {file} is no file of roots, so that nothing could be verified: {error.message}"
    raise PermanentError(
        AgentCode.BAD_CONFIG, f"{text} Take the trust.json that `registry devices add --out` or `rotate --out` writes"
    )
