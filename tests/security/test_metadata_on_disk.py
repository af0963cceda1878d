"""Signed metadata on a device's disk: damaged, or half written when the power went, they never make a device load what
was not signed, and it loads what was as long as one copy is whole.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.trust import store
from agent.errors import AgentError
from tests.fakes.control import PowerCutError
from tests.security.device_metadata import DAY, FIRST, SECOND, DeviceMetadata

COPIES = ("image.a.json", "image.b.json")


def damage(device: DeviceMetadata, name: str, at: float = 0.5) -> None:
    """One bit of a file."""
    path = device.folder / "trust" / name
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("at", [0.0, 0.01, 0.3, 0.9])
def test_one_damaged_copy_is_replaced_by_the_other_without_a_network(
    device: DeviceMetadata, copy: str, at: float
) -> None:
    device.installs(FIRST)
    before = device.kept()
    damage(device, copy, at)
    device.unplug()
    device.loads(FIRST)
    assert device.kept() == before
    assert device.damage.counts() == {"trust": 1}


def test_what_is_damaged_in_both_copies_comes_again_from_the_registry(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    for copy in COPIES:
        damage(device, copy)
    device.restart()
    device.loads(FIRST)
    assert device.damage.counts()["trust"] == 2
    device.unplug()
    device.loads(FIRST)


def test_what_is_damaged_in_both_copies_is_not_loaded_while_the_registry_is_away(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    for copy in COPIES:
        damage(device, copy)
    device.unplug()
    with pytest.raises(AgentError) as refused:
        device.loads(FIRST)
    assert refused.value.code == "registry_unreachable"


def test_damage_while_the_agent_runs_is_found_at_the_next_load(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    for copy in COPIES:
        (device.folder / "trust" / copy).write_bytes(b"")
    device.loads(FIRST)
    assert len(device.kept()) == 2


def test_a_store_that_somebody_else_wrote_with_its_checksum_proves_nothing(device: DeviceMetadata) -> None:
    """Whole, and not signed by anybody that the device trusts."""
    device.installs(FIRST)
    kept = store._read(next(iter(device.kept().values())))[1]
    kept.files["model-lenet"] = kept.files["model-lenet"].replace(b'"length":19', b'"length":20')
    assert b'"length":20' in kept.files["model-lenet"]
    device.trusted._store.write("image", kept)
    device.unplug()
    with pytest.raises(AgentError):
        device.loads(FIRST + b" ")


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_cut_of_power_during_a_refresh_leaves_the_set_of_before_or_after(
    device: DeviceMetadata, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    device.installs(FIRST)
    device.image.new_root()
    device.image.add("lenet", "1.1.0", SECOND)
    device.director.new_root()
    device.serve()
    written, real = 0, store.write_atomically

    def write(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if written == cut:  # half of it is there, under the name that it has until it is whole
            path.with_name(path.name + ".new").write_bytes(data[: len(data) // 2])
            raise PowerCutError
        real(path, data)

    monkeypatch.setattr(store, "write_atomically", write)
    try:
        device.trusted.refresh()
    except PowerCutError:
        assert cut <= 4
    else:
        assert cut > 4  # two copies each of the director's roots and the image's
    monkeypatch.undo()
    device.now += 30 * DAY
    device.unplug()
    device.loads(FIRST)


def test_a_disk_that_refuses_stops_an_install_and_no_load(
    device: DeviceMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.installs(FIRST)
    device.image.add("lenet", "1.1.0", SECOND)
    device.serve()

    def full(path: Path, _data: bytes) -> None:
        raise store.TransientError("insufficient_disk", f"{path}: no space left")

    monkeypatch.setattr(store, "write_atomically", full)
    with pytest.raises(AgentError, match="no space left"):
        device.installs(SECOND, "1.1.0")
    device.loads(FIRST)


def test_what_lists_other_models_is_let_go_when_the_device_serves_them_no_more(device: DeviceMetadata) -> None:
    device.image.add("resnet", "1", SECOND)
    device.serve()
    device.installs(FIRST)
    device.installs(SECOND, "1", "resnet")
    device.trusted.keep_only({"lenet"})
    device.trusted.refresh()
    device.unplug()
    device.loads(FIRST)
    with pytest.raises(AgentError):
        device.loads(SECOND, "1", "resnet")


def test_models_that_the_device_keeps_are_loaded_after_each_refresh_without_a_network(device: DeviceMetadata) -> None:
    device.image.add("resnet", "1", SECOND)
    device.serve()
    device.installs(FIRST)
    device.installs(SECOND, "1", "resnet")
    device.image.publish()
    device.serve()
    device.trusted.refresh()
    device.unplug()
    device.loads(FIRST)
    device.loads(SECOND, "1", "resnet")
