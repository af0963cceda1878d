"""What is published is signed in the same transaction, whole, and so that a device believes it."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from tuf.api.exceptions import UnsignedMetadataError

from registry.contracts.catalogue.manifest import Manifest, Variant
from registry.db.engine import Database
from registry.db.migrations.upgrade import upgrade
from registry.db.trust_rows import TrustMetadataRow
from registry.errors import BusyError, KeyOfflineError, NotFoundError, StorageFailedError
from registry.services.catalogue.versions import Conversions
from registry.services.restoring import restored
from registry.services.tokens import Tokens
from registry.trust.faults import TrustFault, TrustRefusedError
from registry.trust.image import trusted_set
from tests.integration.registry.trust.signing import DAY, HOUR, DeviceView, SigningRegistry
from tests.support.host.postgres import Databases, PostgreSql
from tests.support.programs.registry_process import manifest_of


@pytest.fixture
def made(tmp_path: Path, databases: Databases) -> Iterator[SigningRegistry]:
    registry = SigningRegistry(databases.migrated(tmp_path), tmp_path / "keys")
    yield registry
    registry.database.close()


def keys_of(made: SigningRegistry, name: str) -> list[Path]:
    return [file for file in made.trust.keys.folder.iterdir() if file.name.startswith(name)]


def refusal(device: DeviceView, model: str, version: str) -> TrustFault:
    with pytest.raises(TrustRefusedError) as refused:
        device.listed(model, version)
    return refused.value.fault


def test_keys_are_made_at_the_first_start_for_their_owner_alone(made: SigningRegistry) -> None:
    folder = made.trust.keys.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    names = {file.name.rpartition("-")[0] for file in folder.iterdir()}
    assert names == {"image-root", "targets", "online", "models", "director-root", "director"}
    made.trust.start()
    assert len(list(folder.iterdir())) == 6


def test_a_published_version_is_listed_and_another_is_not(made: SigningRegistry) -> None:
    device = DeviceView(made.trust)
    manifest = made.publish("lenet", "1.0.0")
    found = device.listed("lenet", "1.0.0", made.now)
    assert (found.role, found.digest) == ("model-lenet", manifest.canonical_digest())
    found.require(manifest.canonical_digest(), len(manifest.canonical()))
    assert refusal(device, "lenet", "2.0.0") is TrustFault.NOT_LISTED
    made.publish("lenet", "2.0.0")
    made.publish("vgg", "1")
    assert [device.listed(*each).role for each in (("lenet", "2.0.0"), ("lenet", "1.0.0"), ("vgg", "1"))] == [
        "model-lenet",
        "model-lenet",
        "model-vgg",
    ]


def test_a_version_that_was_extended_lists_its_earlier_manifests(made: SigningRegistry) -> None:
    first = made.publish("lenet", "1.0.0")
    conversions = Conversions(made.database, made.blobs, 1 << 20, made.trust.image)
    cpu = first.variants[0]
    build = {"parent": cpu.canonical_digest(), "from_variant": "cpu", "tool": "a-tool", "tool_version": "1"}
    variant = Variant.model_validate(cpu.to_json() | {"name": "other", "build": build})
    answer = conversions.add("lenet", "1.0.0", variant, "me", made.now)
    found = DeviceView(made.trust).listed("lenet", "1.0.0")
    assert found.digest == answer.manifest != first.canonical_digest()
    found.require(first.canonical_digest(), len(first.canonical()))


def test_a_yanked_version_stays_listed_and_is_marked_until_it_is_undone(made: SigningRegistry) -> None:
    made.publish("lenet", "1.0.0")
    device = DeviceView(made.trust)
    made.yanking.yank("lenet", "1.0.0", "bad", "me", made.now)
    assert device.listed("lenet", "1.0.0").yanked
    made.yanking.undo("lenet", "1.0.0", "me", made.now)
    assert not device.listed("lenet", "1.0.0").yanked


def test_a_deleted_version_leaves_and_a_deleted_models_role_stays(made: SigningRegistry) -> None:
    made.publish("lenet", "1.0.0")
    made.publish("lenet", "2.0.0")
    device = DeviceView(made.trust)
    made.versions.delete("lenet", "1.0.0", made.now)
    assert refusal(device, "lenet", "1.0.0") is TrustFault.NOT_LISTED
    made.models.delete("lenet", "me", made.now)
    assert refusal(device, "lenet", "2.0.0") is TrustFault.NOT_LISTED
    assert "model-lenet" in device.files().delegated
    made.publish("lenet", "1.0.0", b"new weights")
    assert device.listed("lenet", "1.0.0").role == "model-lenet"


def test_what_was_published_before_is_signed_at_the_first_start_after_the_upgrade(
    tmp_path: Path, databases: Databases
) -> None:
    url = databases.migrated(tmp_path)
    before = SigningRegistry(url, tmp_path / "keys", signs=False)
    for number in range(5):
        before.publish(f"model-{number}", "1")
        before.publish(f"model-{number}", "2")
    before.database.close()
    after = SigningRegistry(url, tmp_path / "keys")
    device = DeviceView(after.trust)
    assert {device.listed(f"model-{n}", v).role for n in range(5) for v in "12"} == {
        f"model-model-{n}" for n in range(5)
    }
    snapshot = json.loads(device.files().snapshot)["signed"]["version"]
    after.trust.start()
    assert json.loads(device.files().snapshot)["signed"]["version"] == snapshot
    after.database.close()


def test_without_the_key_of_the_snapshot_nothing_is_published(made: SigningRegistry) -> None:
    made.publish("lenet", "1.0.0")
    (key,) = keys_of(made, "online")
    kept = key.read_bytes()
    key.unlink()
    with pytest.raises(KeyOfflineError):
        made.publish("lenet", "2.0.0")
    with pytest.raises(NotFoundError):
        made.versions.get("lenet", "2.0.0")
    made.yanking.yank("lenet", "1.0.0", "bad", "me", made.now)  # is not held up
    key.write_bytes(kept)
    made.publish("lenet", "2.0.0")
    device = DeviceView(made.trust)
    assert device.listed("lenet", "2.0.0")
    made.versions.delete("lenet", "1.0.0", made.now)
    assert refusal(device, "lenet", "1.0.0") is TrustFault.NOT_LISTED


def test_a_new_model_is_unclaimed_while_the_key_of_targets_is_elsewhere(made: SigningRegistry) -> None:
    made.publish("old", "1")
    (key,) = keys_of(made, "targets")
    kept = key.read_bytes()
    key.unlink()
    made.publish("old", "2")
    made.publish("new", "1")
    made.publish("new", "2")
    device = DeviceView(made.trust)
    assert [device.listed(*each).role for each in (("old", "2"), ("new", "1"), ("new", "2"))] == [
        "model-old",
        "unclaimed",
        "unclaimed",
    ]
    made.trust.start()
    made.versions.delete("new", "1", made.now)
    assert refusal(device, "new", "1") is TrustFault.NOT_LISTED
    key.write_bytes(kept)
    made.trust.start()
    assert device.listed("new", "2").role == "model-new"


def test_nothing_is_signed_on_top_of_what_was_changed_in_the_database(made: SigningRegistry) -> None:
    made.publish("lenet", "1.0.0")
    device = DeviceView(made.trust)
    role = json.loads(device.files().delegated["model-lenet"])
    role["signed"]["targets"]["models/lenet/6.6.6"] = {"length": 4, "hashes": {"sha256": "0" * 64}}
    row = TrustMetadataRow
    with made.database.write() as session:
        session.execute(update(row).where(row.role == "model-lenet").values(body=json.dumps(role).encode()))
    with pytest.raises(StorageFailedError, match="not what was signed"):
        made.publish("lenet", "2.0.0")
    with pytest.raises(NotFoundError):
        made.versions.get("lenet", "2.0.0")


def test_metadata_are_signed_again_at_half_of_their_life(made: SigningRegistry) -> None:
    made.publish("lenet", "1.0.0")
    device = DeviceView(made.trust)

    def versions() -> dict[str, int]:
        files = device.files()
        bodies = {"timestamp": files.timestamp, "snapshot": files.snapshot, "targets": files.targets}
        bodies |= {"model": files.delegated["model-lenet"], "root": device.get("root.json")}
        return {name: json.loads(body)["signed"]["version"] for name, body in bodies.items()}

    first = versions()
    made.now += 11 * HOUR
    assert versions() == first
    made.now += 2 * HOUR
    assert versions() == first | {"timestamp": first["timestamp"] + 1}  # by who asked for it
    device.listed("lenet", "1.0.0", made.now + 23 * HOUR)
    made.now += 4 * DAY
    made.trust.renew()
    assert versions()["snapshot"] == first["snapshot"] + 1
    made.now += 200 * DAY
    made.trust.renew()
    last = versions()
    assert [last[name] - first[name] for name in ("targets", "model", "root")] == [1, 1, 1]
    assert device.listed("lenet", "1.0.0", made.now)
    assert json.loads(device.get("root.json", "director"))["signed"]["version"] == 2
    made.trust.renew()
    assert versions() == last


def test_after_a_restore_devices_forget_what_they_saw_of_later_versions(made: SigningRegistry, tmp_path: Path) -> None:
    made.publish("lenet", "1")
    device = DeviceView(made.trust)
    kept = dict(device.listed("lenet", "1").earlier)
    made.publish("lenet", "2")
    made.publish("later", "1")
    seen = device.files()
    row = TrustMetadataRow
    with made.database.write() as session:  # what the backup does not have
        session.execute(delete(row).where(row.role.in_(["timestamp", "snapshot"]), row.version > 2))
        session.execute(delete(row).where(row.role == "model-lenet", row.version > 1))
        session.execute(delete(row).where(row.role == "targets", row.version > 2))
        session.execute(delete(row).where(row.role == "model-later"))
    tokens, file = Tokens(made.database), tmp_path / "admin.token"
    done = restored(made.database, made.blobs, tokens, made.trust, made.now, given=None, file=file)
    assert done.trusted
    found = device.listed("lenet", "1", made.now)
    assert dict(found.earlier) == kept
    trusted = trusted_set(device.anchors.image, made.now)
    trusted.update_root(device.get("2.root.json"))
    with pytest.raises(UnsignedMetadataError):  # so it does not stand in the way of a lower one
        trusted.update_timestamp(seen.timestamp)
    trusted.update_timestamp(device.files().timestamp)


def test_without_the_roots_key_a_restore_says_that_devices_install_nothing_new(
    made: SigningRegistry, tmp_path: Path
) -> None:
    (key,) = keys_of(made, "image-root")
    key.unlink()
    tokens, file = Tokens(made.database), tmp_path / "admin.token"
    done = restored(made.database, made.blobs, tokens, made.trust, made.now, given=None, file=file)
    assert not done.trusted


def test_replaced_metadata_are_served_for_a_day_and_then_forgotten(made: SigningRegistry) -> None:
    made.publish("lenet", "1")
    made.publish("lenet", "2")
    made.now += 23 * HOUR
    made.trust.renew()
    assert made.trust.file("image", "1.model-lenet.json").version == 1
    made.now += 2 * HOUR
    made.trust.renew()
    with pytest.raises(NotFoundError):
        made.trust.file("image", "1.model-lenet.json")
    assert made.trust.file("image", "1.root.json").version == 1
    assert DeviceView(made.trust).listed("lenet", "2")


@pytest.mark.parametrize(
    "name",
    ["", "x", "0.root.json", "root", "../1.root.json", "1.root.json.bak", "9999999999999999.root.json", "A.json"],
)
def test_a_name_that_is_none_is_not_found(made: SigningRegistry, name: str) -> None:
    with pytest.raises(NotFoundError):
        made.trust.file("image", name)


def test_two_processes_that_publish_at_once_lose_nothing(tmp_path: Path, postgresql: PostgreSql) -> None:
    url = postgresql.new_database()
    database = Database(url)
    upgrade(database.engine)
    database.close()
    registries = [SigningRegistry(url, tmp_path / "keys") for _ in range(2)]

    for registry in registries:  # whose blobs are in memory
        registry.put(b"weights")

    def publish(number: int) -> Manifest:
        registry = registries[number % 2]
        manifest = Manifest.model_validate(manifest_of(f"m{number % 3}", f"{number}", b"weights"))
        for _ in range(50):
            with suppress(BusyError):
                registry.versions.publish(manifest, "me", registry.now)
                return manifest
        raise AssertionError("always busy")

    with ThreadPoolExecutor(4) as pool:
        published = list(pool.map(publish, range(12)))
    device = DeviceView(registries[0].trust)
    for manifest in published:
        assert device.listed(manifest.model, manifest.version).digest == manifest.canonical_digest()
    for registry in registries:
        registry.database.close()
