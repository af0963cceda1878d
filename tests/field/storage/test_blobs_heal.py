"""A blob that rots, is cut short or lost in the registry is not served, is reported, and heals by publishing again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest

from registry.blobs.filesystem import FilesystemBlobs
from registry.contracts.api.uploads import UploadRequest
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.wire import digest_of, hex_of
from registry.db.catalog_rows import BlobRow
from registry.db.engine import Database
from registry.errors import DamagedError, NotFoundError
from registry.services.catalogue.blob_upkeep import BlobChecks
from registry.services.catalogue.uploads import UploadLimits, Uploads
from registry.services.catalogue.versions import Versions
from tests.support.host.postgres import migrated_file
from tests.support.models.onnx_models import scaled
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess, manifest_of, publish

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGE: list[Callable[[Path], None]] = [flip, shorten, empty, Path.unlink]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    server = RegistryProcess(tmp_path_factory.mktemp("registry")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(registry: RegistryProcess) -> Iterator[httpx.Client]:
    with registry.client() as made:
        yield made


def file_of(registry: RegistryProcess, data: bytes) -> Path:
    name = hex_of(digest_of(data))
    return registry.data / "blobs" / "sha256" / name[:2] / name


@pytest.mark.parametrize("size", [1000, (3 << 20) + 7], ids=["one piece", "many pieces"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_blob_is_never_served_whole_and_heals_when_it_is_published_again(
    registry: RegistryProcess, client: httpx.Client, damage: Callable[[Path], None], size: int
) -> None:
    model = f"m-{damage.__name__}-{size}"
    data = (model.encode() * size)[:size]
    assert publish(client, model, "1", data).status_code == 201
    path = f"/v1/blobs/{digest_of(data)}"
    assert client.get(path).content == data
    damage(file_of(registry, data))
    try:
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "blob_damaged")
    except httpx.RemoteProtocolError:
        assert size > 1 << 20, "only what was on its way is cut"
    for _ in range(2):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "blob_damaged")
        assert int(answer.headers["retry-after"]) > 0
        assert client.get(path, headers={"Range": "bytes=1-5"}).status_code == 503
        assert client.head(path).status_code == 503
    assert client.get("/readyz").json()["damaged_blobs"] == 1
    assert "modelfleet_blobs_damaged 1.0" in client.get("/metrics").text
    assert publish(client, model, "1", data).status_code in (200, 201)
    assert client.get(path).content == data
    assert client.get("/readyz").json()["damaged_blobs"] == 0
    log = (registry.folder / "registry.log").read_text()
    assert "Traceback" not in log
    assert f"blob {digest_of(data)} is" in log


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_publishing_the_same_version_again_replaces_a_damaged_copy(
    registry: RegistryProcess, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Nobody has read the copy since: the command alone finds out."""
    (tmp_path / "model.onnx").write_bytes(scaled(float(DAMAGE.index(damage) + 2), 4))
    cli = Cli(tmp_path, registry.url, registry.admin_token)
    command = ("publish", f"again-{damage.__name__}", "model.onnx", "--version", "1", "--target", "cpu", "--json")
    assert cli(*command).document["sent_bytes"] > 0
    data = (tmp_path / "model.onnx").read_bytes()
    assert cli(*command).document["sent_bytes"] == 0
    damage(file_of(registry, data))
    assert cli(*command).document["sent_bytes"] == len(data)
    assert file_of(registry, data).read_bytes() == data


class Store:
    """The services over a real database and real files."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(migrated_file(folder))
        self.folder = folder / "blobs"
        self.blobs = FilesystemBlobs(self.folder)
        self.checks = self.checked()
        limits = UploadLimits(blob_bytes=1 << 30, open_sessions=9, writers=4, ttl=DAY, disk_reserve=0)
        self.uploads = Uploads(self.database, self.blobs, limits, self.checks)

    def checked(self) -> BlobChecks:
        """As a process that has just started."""
        return BlobChecks(self.database, self.blobs, every=DAY, rate=1e12)

    def publish(self, data: bytes) -> Path:
        view = self.uploads.begin(UploadRequest(digest=digest_of(data), size=len(data)), "me", NOW)
        with self.uploads.receive(view.id, "me", 0) as receiver:
            receiver.take(data)
            self.uploads.finish(receiver, NOW)
        version = hex_of(digest_of(data))[:8]
        manifest = Manifest.model_validate(manifest_of("lenet", version, data))
        Versions(self.database, self.blobs).publish(manifest, "me", NOW)
        name = hex_of(digest_of(data))
        return self.folder / "sha256" / name[:2] / name

    def verified(self, data: bytes) -> datetime | None:
        with self.database.read() as session:
            return session.get_one(BlobRow, digest_of(data)).verified_at


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.database.close()


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_the_background_finds_damage_that_nobody_has_read(store: Store, damage: Callable[[Path], None]) -> None:
    files = {data: store.publish(data) for data in (b"one", b"two", b"three")}
    assert store.checked().sweep(lambda: NOW + DAY / 2, lambda: False) == 0
    damage(files[b"two"])
    checks = store.checked()
    assert checks.sweep(lambda: NOW + 2 * DAY, lambda: False) >= 3
    assert (checks.known_damaged, checks.damaged()) == (1, [digest_of(b"two")])
    assert store.verified(b"one") == NOW + 2 * DAY
    with pytest.raises((DamagedError, NotFoundError)):
        checks.open(digest_of(b"two"), NOW)
    files[b"two"].write_bytes(b"two")  # an operator has put it back
    assert checks.sweep(lambda: NOW + 2 * DAY, lambda: False) == 1
    assert checks.known_damaged == 0


def test_a_background_check_that_is_cut_off_goes_on_with_the_next_blob(store: Store) -> None:
    for number in range(6):
        store.publish(b"blob %d" % number)
    asked = iter([False, False, False, True])
    assert store.checked().sweep(lambda: NOW + 2 * DAY, lambda: next(asked, True)) == 3
    assert store.checked().sweep(lambda: NOW + 2 * DAY, lambda: False) == 3
    assert store.checked().sweep(lambda: NOW + 2 * DAY, lambda: False) == 0


def test_a_clock_that_is_set_back_does_not_stop_the_background(store: Store) -> None:
    store.publish(b"weights")
    assert store.checked().sweep(lambda: NOW - 3650 * DAY, lambda: False) == 1
