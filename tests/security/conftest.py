"""A device and the server that it asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.device_metadata import DeviceMetadata
from tests.support.network.metadata_server import metadata_server


@pytest.fixture
def device(tmp_path: Path) -> Iterator[DeviceMetadata]:
    with metadata_server() as server:
        made = DeviceMetadata(tmp_path, server)
        yield made
        made.client.close()
