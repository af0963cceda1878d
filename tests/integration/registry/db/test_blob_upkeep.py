"""Sessions and blobs that nobody needs go, after a while and never sooner; a full disk loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from registry.contracts.api.uploads import UploadRequest
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.evaluation import DatasetCreate
from registry.contracts.tensor_file import Tensor, write_tensors
from registry.contracts.tensors import Datatype
from registry.contracts.wire import Digest, digest_of
from registry.db.engine import Database
from registry.errors import BusyError, NotFoundError, OffsetMismatchError, StorageFullError
from registry.services.catalogue.blob_upkeep import Garbage
from registry.services.catalogue.uploads import UploadLimits, Uploads
from registry.services.catalogue.versions import Versions
from registry.services.evaluations import Datasets
from tests.fakes.blobs import MemoryBlobs, ObjectBlobs
from tests.support.host.postgres import Databases
from tests.support.programs.registry_process import manifest_of

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)


class Catalogue:
    """The services over a real database and blobs in memory."""

    def __init__(self, url: str, capacity: int) -> None:
        self.database = Database(url)
        self.blobs = MemoryBlobs(capacity)
        limits = UploadLimits(blob_bytes=1 << 30, open_sessions=3, writers=4, ttl=DAY, disk_reserve=0)
        self.uploads = Uploads(self.database, self.blobs, limits)
        self.versions = Versions(self.database, self.blobs)
        self.garbage = Garbage(self.database, self.blobs, DAY)

    def begin(self, data: bytes, at: datetime = START, token: str = "me") -> str:
        return self.uploads.begin(UploadRequest(digest=digest_of(data), size=len(data)), token, at).id

    def put(self, data: bytes, at: datetime = START) -> Digest:
        view = self.uploads.begin(UploadRequest(digest=digest_of(data), size=len(data)), "me", at)
        if view.complete:
            return view.digest
        with self.uploads.receive(view.id, "me", 0) as receiver:
            receiver.take(data)
            assert self.uploads.finish(receiver, at).complete
        return digest_of(data)

    def publish(self, version: str, data: bytes, at: datetime = START) -> None:
        self.put(data, at)
        self.versions.publish(Manifest.model_validate(manifest_of("lenet", version, data)), "me", at)


@pytest.fixture
def catalogue(tmp_path: Path, databases: Databases) -> Iterator[Catalogue]:
    made = Catalogue(databases.migrated(tmp_path), 10_000)
    yield made
    made.database.close()


def test_a_session_expires_when_nothing_comes(catalogue: Catalogue) -> None:
    upload = catalogue.begin(b"never finished")
    with catalogue.uploads.receive(upload, "me", 0) as receiver:
        receiver.take(b"never")
        catalogue.uploads.finish(receiver, START + DAY)
    assert catalogue.uploads.sweep(START + DAY + timedelta(hours=23)) == 0
    assert catalogue.uploads.view(upload, "me").offset == 5
    assert catalogue.uploads.sweep(START + 3 * DAY) == 1
    assert list(catalogue.blobs.uploads()) == []
    with pytest.raises(NotFoundError):
        catalogue.uploads.view(upload, "me")


def test_a_part_without_a_session_goes(catalogue: Catalogue) -> None:
    catalogue.blobs.begin("0" * 32, digest_of(b"left")).append(b"left by a crash")
    assert catalogue.uploads.sweep(START) == 1
    assert list(catalogue.blobs.uploads()) == []


def test_there_are_so_many_sessions_at_most(catalogue: Catalogue) -> None:
    for number in range(3):
        catalogue.begin(f"blob {number}".encode())
    with pytest.raises(BusyError):
        catalogue.begin(b"one too many")
    assert catalogue.begin(b"blob 1")


def test_a_full_store_keeps_what_came_and_the_upload_goes_on(catalogue: Catalogue) -> None:
    data = bytes(6000)
    upload = catalogue.begin(data)
    catalogue.blobs.capacity = 5000
    with catalogue.uploads.receive(upload, "me", 0) as receiver:
        receiver.take(data[:4000])
        with pytest.raises(StorageFullError):
            receiver.take(data[4000:])
    assert catalogue.uploads.view(upload, "me").offset == 4000
    with pytest.raises(StorageFullError):
        catalogue.begin(bytes(9000))
    catalogue.blobs.capacity = 10_000
    with catalogue.uploads.receive(upload, "me", 4000) as receiver:
        receiver.take(data[4000:])
        assert catalogue.uploads.finish(receiver, START).complete
    assert catalogue.blobs.size_of(digest_of(data)) == 6000


def test_after_a_restart_the_hash_is_made_again_from_the_part(catalogue: Catalogue) -> None:
    data = bytes(range(200))
    upload = catalogue.begin(data)
    with catalogue.uploads.receive(upload, "me", 0) as receiver:
        receiver.take(data[:150])
    limits = UploadLimits(blob_bytes=1 << 30, open_sessions=3, writers=4, ttl=DAY, disk_reserve=0)
    restarted = Uploads(catalogue.database, catalogue.blobs, limits)
    assert restarted.view(upload, "me").offset == 150
    with restarted.receive(upload, "me", 150) as receiver:
        receiver.take(data[150:])
        assert restarted.finish(receiver, START).complete


def test_a_store_that_cannot_read_an_upload_back_is_sent_it_again_after_a_restart(catalogue: Catalogue) -> None:
    data, blobs = bytes(range(200)), ObjectBlobs()
    limits = UploadLimits(blob_bytes=1 << 30, open_sessions=3, writers=4, ttl=DAY, disk_reserve=0)
    upload = catalogue.begin(data)
    with Uploads(catalogue.database, blobs, limits).receive(upload, "me", 0) as receiver:
        receiver.take(data[:150])
    restarted = Uploads(catalogue.database, blobs, limits)
    with pytest.raises(OffsetMismatchError) as refused, restarted.receive(upload, "me", 150):
        pass
    assert refused.value.offset == 0
    with restarted.receive(upload, "me", 0) as receiver:
        receiver.take(data)
        assert restarted.finish(receiver, START).complete
    assert blobs.size_of(digest_of(data)) == 200


def test_a_blob_whose_row_was_lost_is_found_again(catalogue: Catalogue) -> None:
    data = b"renamed, then killed before the commit"
    with catalogue.blobs.begin("0" * 32, digest_of(data)) as writer:
        writer.append(data)
    catalogue.blobs.complete("0" * 32, digest_of(data))
    assert catalogue.uploads.begin(UploadRequest(digest=digest_of(data), size=len(data)), "me", START).complete
    catalogue.versions.publish(Manifest.model_validate(manifest_of("lenet", "1", data)), "me", START)


def test_blobs_that_no_version_needs_go_after_the_grace_time(catalogue: Catalogue) -> None:
    catalogue.publish("1", b"published")
    orphan = catalogue.put(b"never published")
    assert catalogue.garbage.sweep(START + DAY / 2) == 0
    assert catalogue.blobs.size_of(orphan) is not None
    assert catalogue.garbage.sweep(START + 2 * DAY) == 1
    assert catalogue.blobs.size_of(orphan) is None
    assert catalogue.blobs.size_of(digest_of(b"published")) is not None


def test_the_blobs_of_a_deleted_version_go_unless_another_one_shares_them(catalogue: Catalogue) -> None:
    catalogue.publish("1", b"shared")
    catalogue.publish("2", b"shared")
    catalogue.versions.delete("lenet", "1", START + 5 * DAY)
    assert catalogue.garbage.sweep(START + 9 * DAY) == 0
    catalogue.versions.delete("lenet", "2", START + 10 * DAY)
    assert catalogue.garbage.sweep(START + 10 * DAY) == 0
    assert catalogue.garbage.sweep(START + 12 * DAY) == 1


def test_a_blob_that_somebody_is_about_to_publish_stays(catalogue: Catalogue) -> None:
    digest = catalogue.put(b"old")
    later = START + 5 * DAY
    assert catalogue.uploads.begin(UploadRequest(digest=digest, size=3), "me", later).complete
    assert catalogue.garbage.sweep(later) == 0
    catalogue.versions.publish(Manifest.model_validate(manifest_of("lenet", "1", b"old")), "me", later)
    assert catalogue.garbage.sweep(later + 5 * DAY) == 0


def test_the_blob_of_a_validation_set_stays_until_the_set_is_removed(catalogue: Catalogue) -> None:
    content = write_tensors(
        {"in/x": Tensor(Datatype.FP32, (1, 1), bytes(4)), "labels": Tensor(Datatype.INT8, (1,), bytes(1))}
    )
    digest = catalogue.put(content)
    datasets = Datasets(catalogue.database, catalogue.blobs)
    datasets.publish("digits", DatasetCreate(digest=digest, size=len(content)), "me", START)
    assert catalogue.garbage.sweep(START + 3 * DAY) == 0
    assert catalogue.blobs.size_of(digest) == len(content)
    datasets.delete("digits", START + 3 * DAY)
    assert catalogue.garbage.sweep(START + 5 * DAY) == 1
    assert catalogue.blobs.size_of(digest) is None
