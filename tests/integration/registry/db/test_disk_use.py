"""What takes the room: by version, shared, needed by nobody, on the way; and when garbage goes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from registry.contracts.api.upkeep import DiskView
from registry.contracts.evaluation import DatasetCreate
from registry.contracts.tensor_file import Tensor, write_tensors
from registry.contracts.tensors import Datatype
from registry.services.catalogue import disk_use
from registry.services.catalogue.disk_use import DiskUse
from registry.services.catalogue.yanking import Yanking
from registry.services.evaluations import Datasets
from tests.integration.registry.db.test_blob_upkeep import DAY, START, Catalogue
from tests.support.host.postgres import Databases


@pytest.fixture
def catalogue(tmp_path: Path, databases: Databases) -> Iterator[Catalogue]:
    made = Catalogue(databases.migrated(tmp_path), 10_000)
    yield made
    made.database.close()


def look(catalogue: Catalogue, later: timedelta = timedelta()) -> DiskView:
    use = DiskUse(catalogue.database, catalogue.blobs, grace=DAY, every_s=3600, reserve=1)
    return use.view(START + later)


def test_a_version_has_what_is_its_own_and_what_it_shares(catalogue: Catalogue) -> None:
    catalogue.publish("1", b"a" * 100)
    catalogue.publish("2", b"b" * 70)
    catalogue.publish("3", b"a" * 100)
    Yanking(catalogue.database).yank("lenet", "2", "bad", "me", START)
    view = look(catalogue)
    assert (view.blobs, view.bytes, view.shared_bytes) == (2, 170, 100)
    found = {each.version: (each.bytes, each.own, each.yanked) for each in view.versions}
    assert found == {"2": (70, 70, True), "1": (100, 0, False), "3": (100, 0, False)}
    assert view.versions[0].version == "2"
    assert view.database_bytes is not None
    assert view.database_bytes > 0


def test_what_nobody_needs_says_what_goes_with_the_next_collection_and_when_the_rest_does(catalogue: Catalogue) -> None:
    catalogue.put(b"old" * 10, START - 2 * DAY)
    catalogue.put(b"new" * 20, START)
    needless = look(catalogue).unneeded
    assert (needless.blobs, needless.bytes) == (2, 90)
    assert (needless.due_blobs, needless.due_bytes) == (1, 30)
    assert needless.last_due == START + DAY
    assert catalogue.garbage.sweep(START) == 1
    assert look(catalogue).unneeded.bytes == 60
    assert look(catalogue, 2 * DAY).unneeded.due_bytes == 60


def test_an_upload_in_progress_counts_as_what_it_has_received(catalogue: Catalogue) -> None:
    upload = catalogue.begin(b"0123456789")
    with catalogue.uploads.receive(upload, "me", 0) as receiver:
        receiver.take(b"0123")
        catalogue.uploads.finish(receiver, START)
    view = look(catalogue)
    assert (view.uploads, view.upload_bytes, view.blobs) == (1, 4, 0)


def test_a_validation_set_is_needed_and_counted_apart(catalogue: Catalogue) -> None:
    arrays = {"in/x": Tensor(Datatype.FP32, (2, 1), bytes(8)), "labels": Tensor(Datatype.INT64, (2,), bytes(16))}
    data = write_tensors(arrays)
    create = DatasetCreate(digest=catalogue.put(data), size=len(data))
    Datasets(catalogue.database, catalogue.blobs).publish("digits", create, "me", START)
    view = look(catalogue)
    assert (view.dataset_bytes, view.unneeded.blobs) == (len(data), 0)


def test_who_asks_soon_after_gets_the_same_count_with_its_time(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = DiskUse(catalogue.database, catalogue.blobs, grace=DAY, every_s=3600, reserve=1)
    first = use.view(START)
    catalogue.put(b"x")
    assert use.view(START + timedelta(seconds=5)) is first
    monkeypatch.setattr(disk_use, "FRESH_S", 0.0)
    assert use.view(START + timedelta(seconds=5)).blobs == 1
