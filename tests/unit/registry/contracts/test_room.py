"""What is published can be served: one rule for publishing, resolution and the device."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core.fitness import why_none
from agent.worker.spec import ARENAS_BYTES, arenas_for
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.codes import DeploymentCode
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import resolve
from registry.contracts.fit.room import CODE, held_bytes
from registry.core.publish_checks import publish_faults
from tests.support.programs.fleet_registry import facts

MIB = 1 << 20
FILE = {"path": "m.onnx", "digest": "sha256:" + "ab" * 32, "size": 1}


def manifest(
    *shape: int, datatype: str = "FP32", out: tuple[int, ...] = (1,), image: dict[str, Any] | None = None
) -> Manifest:
    variant = {
        "name": "cpu", "format": "onnx", "target": "cpu", "entry": "m.onnx", "files": [FILE],
        "inputs": [{"name": "x", "datatype": datatype, "shape": shape}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": out}],
    }  # fmt: skip
    return Manifest.model_validate({"model": "m", "version": "1", "variants": [variant], "image": image})


def host(limit: int | None) -> Platform:
    return Platform.model_validate(facts(max_request_bytes=limit))


@pytest.mark.parametrize(
    ("published", "says"),
    [
        (manifest(1, 3, 8192, 8192), "a message carries"),
        (manifest(1, out=(1, 3, 8192, 8192)), "smallest output"),
        (manifest(1 << 17, datatype="BYTES"), "BYTES has at most 65536"),
        (manifest(1 << 16, 1 << 16, datatype="BOOL"), "4294967296 elements"),
    ],
)
def test_what_no_message_carries_is_not_published(published: Manifest, says: str) -> None:
    (fault, *_) = publish_faults(published)
    assert CODE in fault
    assert says in fault


def test_a_picture_is_small_whatever_it_becomes() -> None:
    picture = {"input": "x", "height": 4096, "width": 4096}
    published = manifest(1, 3, 4096, 4096, image=picture)
    assert publish_faults(published) == ()
    assert resolve(published, host(64 * MIB)).chosen == "cpu"
    inputs, outputs = published.variants[0].inputs, published.variants[0].outputs
    assert held_bytes(inputs, outputs, published.image) == 4 * 3 * 4096 * 4096
    largest = manifest(-1, 3, -1, -1, image={"input": "x", "height": 8192, "width": 8192})
    assert "in memory" in publish_faults(largest)[0]


@pytest.mark.parametrize(("limit", "chosen"), [(None, "cpu"), (48 * MIB + 200, "cpu"), (48 * MIB, None)])
def test_a_device_whose_limit_is_smaller_does_not_fit_and_says_so(limit: int | None, chosen: str | None) -> None:
    found = resolve(manifest(1, 3, 2048, 2048), host(limit))
    assert found.chosen == chosen
    if chosen is None:
        assert why_none(found, pinned=False) == DeploymentCode.REQUEST_TOO_LARGE == CODE
        assert found.verdicts[0].reasons[0].code == CODE
        assert "limits.max_payload" in found.verdicts[0].reasons[0].remedy


@pytest.mark.parametrize("held", [0, 100 * MIB, 512 * MIB])
def test_the_largest_request_goes_into_an_arena_whatever_the_settings_say(held: int) -> None:
    count, room = arenas_for(4, 1 * MIB, 64 * MIB, held)
    assert room > max(64 * MIB, held)
    assert 1 <= count <= 4
    assert count * room <= ARENAS_BYTES or count == 1
