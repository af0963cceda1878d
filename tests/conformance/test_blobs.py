"""What every blob store promises; run on each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.blobs.base import BlobStore
from registry.blobs.filesystem import FilesystemBlobs
from registry.contracts.digest import Digest, digest_of
from registry.errors import NotFoundError
from tests.fakes.blobs import MemoryBlobs

DATA = bytes(range(256)) * 40


@pytest.fixture(params=["filesystem", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return FilesystemBlobs(tmp_path / "blobs") if request.param == "filesystem" else MemoryBlobs()


def put(store: BlobStore, data: bytes, part: str = "0a") -> Digest:
    with store.append_to(part) as writer:
        writer.append(data)
        writer.sync()
    store.commit(part, digest_of(data))
    return digest_of(data)


def test_a_blob_is_read_back_whole_and_in_pieces(store: BlobStore) -> None:
    reader = store.open(put(store, DATA))
    assert reader.size == len(DATA)
    assert reader.read_at(0, 1 << 20) == DATA
    assert reader.read_at(100, 7) == DATA[100:107]
    assert reader.read_at(len(DATA), 10) == b""
    reader.close()


def test_a_part_is_not_a_blob(store: BlobStore) -> None:
    with store.append_to("0a") as writer:
        writer.append(DATA)
        writer.sync()
    assert store.size_of(digest_of(DATA)) is None
    with pytest.raises(NotFoundError):
        store.open(digest_of(DATA))
    assert list(store.parts()) == ["0a"]


def test_a_part_goes_on_where_it_ended(store: BlobStore) -> None:
    for start in range(0, len(DATA), 4096):
        with store.append_to("0a") as writer:
            assert writer.offset == start
            writer.append(DATA[start : start + 4096])
            writer.sync()
    reader = store.read_part("0a")
    assert reader.read_at(0, 1 << 20) == DATA
    reader.close()
    store.commit("0a", digest_of(DATA))
    assert store.size_of(digest_of(DATA)) == len(DATA)
    assert list(store.parts()) == []
    assert store.part_size("0a") == 0


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    assert store.size_of(put(store, b"")) == 0


def test_the_same_blob_twice_is_one(store: BlobStore) -> None:
    assert put(store, DATA, "0a") == put(store, DATA, "0b")
    assert list(store.unused_since(0)) == [digest_of(DATA)]


def test_a_discarded_part_is_gone(store: BlobStore) -> None:
    with store.append_to("0a") as writer:
        writer.append(DATA)
    store.discard("0a")
    store.discard("0a")
    assert store.part_size("0a") == 0
    with pytest.raises(NotFoundError):
        store.read_part("0a")
    with pytest.raises(NotFoundError):
        store.commit("0a", digest_of(DATA))


def test_an_open_blob_stays_readable_when_it_is_deleted(store: BlobStore) -> None:
    digest = put(store, DATA)
    reader = store.open(digest)
    store.delete(digest)
    store.delete(digest)
    assert store.size_of(digest) is None
    assert reader.read_at(0, 10) == DATA[:10]
    reader.close()


def test_a_new_blob_is_not_old(store: BlobStore) -> None:
    put(store, DATA)
    assert list(store.unused_since(3600)) == []
    assert store.free_bytes() > 0


def test_a_blob_that_is_set_aside_is_not_there_and_may_come_again(store: BlobStore) -> None:
    digest = put(store, DATA)
    for _ in range(2):
        store.set_aside(digest)
        assert store.size_of(digest) is None
        assert list(store.unused_since(0)) == []
        with pytest.raises(NotFoundError):
            store.open(digest)
        assert put(store, DATA) == digest
        assert store.size_of(digest) == len(DATA)


def test_an_open_blob_has_a_stamp_that_another_copy_has_not(store: BlobStore) -> None:
    digest = put(store, DATA)
    stamps = []
    for _ in range(2):
        reader = store.open(digest)
        stamps.append(reader.stamp)
        reader.close()
    assert stamps[0] == stamps[1]


def test_a_store_that_works_says_so(store: BlobStore) -> None:
    store.probe()
    assert list(store.parts()) == []
