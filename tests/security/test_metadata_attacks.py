"""Whoever stands between a device and its registry, or holds some of its keys, gets nothing installed or loaded that
the right keys did not list. Each attack goes through the agent's own fetcher, disk store and restarts.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from tuf.api.metadata import Metadata, Targets

from agent.adapters.network import registry_client
from agent.adapters.trust import refreshing
from agent.errors import AgentError
from registry.contracts.codes import DeploymentCode
from registry.contracts.wire import digest_of
from registry.trust.image import target_of
from tests.security.device_metadata import DAY, FIRST, SECOND, DeviceMetadata
from tests.support.signed_metadata import MemoryImageRepository, new_signer

REFUSED, STALE, UNTRUSTED = (
    DeploymentCode.METADATA_REFUSED,
    DeploymentCode.METADATA_STALE,
    DeploymentCode.MANIFEST_UNTRUSTED,
)


ALL_FILES = ("2.root.json", "timestamp.json", "{snapshot}.snapshot.json", "{targets}.targets.json")


def test_what_is_listed_is_installed_and_loaded_also_after_a_restart_without_a_network(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    device.loads(FIRST)
    device.unplug()
    device.loads(FIRST)
    device.installs(FIRST)  # what is on the disk has not expired


def test_another_manifest_of_the_version_is_neither_installed_nor_loaded(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    assert "lists another manifest" in device.refuses(UNTRUSTED, SECOND)
    device.refuses(UNTRUSTED, FIRST, version="1.1.0")
    device.refuses(UNTRUSTED, FIRST, model="resnet")
    with pytest.raises(AgentError, match="lists another manifest"):
        device.loads(SECOND)


def test_a_manifest_of_another_length_is_refused(device: DeviceMetadata) -> None:
    with pytest.raises(AgentError, match="bytes"):
        device.trusted.require_listed("lenet", "1.0.0", digest_of(FIRST), len(FIRST) + 1)


def test_a_version_that_was_published_meanwhile_is_installed(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    device.image.add("lenet", "1.1.0", SECOND)
    device.serve()
    device.installs(SECOND, "1.1.0")


def test_rollback_of_the_timestamp_is_refused_also_after_a_restart(device: DeviceMetadata) -> None:
    old = device.image.by_name()
    device.image.add("lenet", "1.1.0", SECOND)
    device.serve()
    device.installs(SECOND, "1.1.0")
    kept = device.kept()
    device.server.image = old
    for _ in range(2):
        assert "version" in device.refuses(REFUSED, FIRST)
        device.restart()
    assert device.kept() == kept


@pytest.mark.parametrize("role", ["snapshot", "targets", "model-lenet"])
def test_an_older_file_under_a_new_name_is_refused(device: DeviceMetadata, role: str) -> None:
    """Mix and match: the newest timestamp with parts of an older repository."""
    device.installs(FIRST)
    old = device.image.metadata[role]
    device.image.add("lenet", "1.1.0", SECOND)
    files = device.image.by_name()
    device.server.image = {**files, f"{device.image.versions[role]}.{role}.json": old}
    kept = device.kept()
    device.refuses(REFUSED, SECOND, "1.1.0")
    device.restart()
    device.refuses(REFUSED, SECOND, "1.1.0")
    assert device.kept() == kept
    device.loads(FIRST)  # what serves goes on


def test_frozen_metadata_stop_installs_and_never_loads(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    device.now += 2 * DAY
    for _ in range(2):
        assert "expired" in device.refuses(STALE, FIRST)
        device.loads(FIRST)
        assert device.trusted.standing().expires is not None
        device.restart()
    device.image.now = device.now
    device.image.stamp()
    device.serve()
    device.installs(FIRST)


def test_without_the_registry_expired_metadata_stop_installs_and_never_loads(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    device.unplug()
    device.now += 400 * DAY
    device.refuses(STALE, FIRST)
    device.loads(FIRST)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "model-lenet"])
def test_a_file_that_another_key_signed_is_refused(device: DeviceMetadata, role: str) -> None:
    device.installs(FIRST)
    stranger = MemoryImageRepository()
    stranger.versions = dict(device.image.versions)
    stranger.add("lenet", "1.0.0", SECOND)
    device.image.add("lenet", "1.1.0", SECOND)  # so that the device asks for all of it
    name = "timestamp.json" if role == "timestamp" else f"{device.image.versions[role]}.{role}.json"
    assert name in stranger.by_name()
    device.server.image = {**device.image.by_name(), name: stranger.by_name()[name]}
    device.refuses(REFUSED, SECOND, "1.1.0")
    device.restart()
    device.loads(FIRST)


def test_the_whole_repository_of_a_stranger_is_refused(device: DeviceMetadata) -> None:
    stranger = MemoryImageRepository()
    stranger.add("lenet", "1.0.0", SECOND)
    device.server.image = stranger.by_name()
    device.refuses(REFUSED, SECOND)
    assert device.kept() == {}


def test_fewer_signatures_than_the_threshold_are_refused(device: DeviceMetadata) -> None:
    first, second = new_signer(), new_signer()
    device.image.publishers["resnet"] = ([first, second], 2)
    device.image.add("resnet", "1", SECOND)
    device.serve()
    device.installs(SECOND, "1", "resnet")
    device.image.add("resnet", "2", SECOND)
    role: Metadata[Targets] = Metadata.from_bytes(device.image.metadata["model-resnet"])
    role.sign(first, append=False)
    name = f"{device.image.versions['model-resnet']}.model-resnet.json"
    device.server.image = {**device.image.by_name(), name: role.to_bytes()}
    device.refuses(REFUSED, SECOND, "2", "resnet")


def test_a_publishers_key_lists_nothing_for_another_model(device: DeviceMetadata) -> None:
    device.image.publishers["resnet"] = ([new_signer()], 1)
    device.image.listed.setdefault("model-resnet", {})
    target = target_of("lenet", "6.6.6", digest_of(SECOND), len(SECOND), earlier={}, yanked=False)
    device.image.listed["model-resnet"][target.path] = target
    device.image.publish()
    device.serve()
    device.refuses(UNTRUSTED, SECOND, "6.6.6")


@pytest.mark.parametrize("name", ALL_FILES)
def test_endless_data_end_at_the_bound(device: DeviceMetadata, name: str) -> None:
    device.server.endless.add(name.format(**device.image.versions))
    with pytest.raises(AgentError):
        device.installs(FIRST)
    assert device.server.sent < 16 << 20
    assert device.kept() == {}


@pytest.mark.parametrize("name", ALL_FILES)
def test_slow_retrieval_ends_and_stops_no_load(
    device: DeviceMetadata, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    device.installs(FIRST)
    monkeypatch.setattr(registry_client, "METADATA_LIMIT_S", 0.5)
    device.image.new_root()
    device.image.add("lenet", "1.1.0", SECOND)
    device.serve()
    device.server.slow.add(name.format(**device.image.versions))
    with pytest.raises(AgentError, match=r"slow|did not make"):
        device.installs(SECOND, "1.1.0")
    device.loads(FIRST)


def test_files_that_come_one_after_the_other_for_ever_end(
    device: DeviceMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is quick, and there is always another root."""
    monkeypatch.setattr(refreshing, "MAX_ROOTS", 8)
    for _ in range(10):
        device.image.new_root()
    device.serve()
    with pytest.raises(AgentError, match="over 8 roots"):
        device.installs(FIRST)


def test_a_refresh_has_an_end_in_all(device: DeviceMetadata) -> None:
    for _ in range(5):
        device.image.new_root()
    device.serve()
    fetch = device.client.signed_metadata

    def late(*about: object) -> bytes | None:
        device.elapsed += 100
        return fetch(*about)  # type: ignore[arg-type]

    device.trusted._fetch = late
    with pytest.raises(AgentError, match="did not come"):
        device.installs(FIRST)


def test_a_clock_that_was_set_back_makes_nothing_fresh_that_has_expired(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    device.now = device.image.now = device.now + 30 * DAY
    device.image.publish()
    device.serve()
    device.installs(FIRST)
    floor, device.now = device.now, device.now - 300 * DAY
    device.image.now = floor - 2 * DAY
    device.image.stamp()  # newer by its number, and expired at the latest time that is known
    device.serve()
    for _ in range(2):
        assert device.trusted.standing().floor == floor  # by which the clock is known to be wrong
        device.refuses(STALE, FIRST)
        device.loads(FIRST)
        device.restart()


def test_a_clock_that_was_set_forward_stops_installs_until_it_is_right_again(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    device.now += 100 * DAY
    device.refuses(STALE, FIRST)
    device.loads(FIRST)
    device.now -= 100 * DAY
    device.installs(FIRST)


def test_a_new_root_takes_the_rights_of_a_lost_key(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    thief = device.image.online
    device.image.online = new_signer()
    device.image.new_root()
    device.image.publish()
    device.serve()
    device.installs(FIRST)
    stolen = MemoryImageRepository(online=thief, targets_signer=device.image.targets_signer)
    stolen.versions = {role: number + 5 for role, number in device.image.versions.items()}
    stolen.add("lenet", "1.0.0", SECOND)
    device.server.image = {**stolen.by_name(), **{name: device.server.image[name] for name in ("2.root.json",)}}
    device.restart()
    device.refuses(REFUSED, SECOND)
    device.loads(FIRST)


def test_a_root_that_its_predecessor_did_not_sign_is_refused(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    device.image.root_signers = [new_signer()]
    device.image.new_root()
    device.serve()
    device.refuses(REFUSED, FIRST)
    device.loads(FIRST)


def test_a_device_whose_roots_were_replaced_by_hand_begins_anew(device: DeviceMetadata) -> None:
    device.installs(FIRST)
    device.image = MemoryImageRepository()
    device.image.add("lenet", "1.0.0", SECOND)
    device.anchors = type(device.anchors)(device.image.roots[0], device.director.roots[0])
    device.serve()
    device.restart()
    device.installs(SECOND)
    device.refuses(UNTRUSTED, FIRST)


def test_the_latest_signed_time_survives_a_restart(device: DeviceMetadata) -> None:
    device.now = device.image.now = device.now + timedelta(days=10)
    device.image.publish()
    device.serve()
    device.trusted.refresh()
    floor = device.trusted.standing().floor
    assert floor == device.image.now
    assert device.restart().standing().floor == floor
