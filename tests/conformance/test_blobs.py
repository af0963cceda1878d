"""What every blob store promises; run on each of them. Another one joins by a line in STORES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from registry.blobs.base import BlobStore
from registry.blobs.opening import open_blobs
from registry.contracts.wire import Digest, digest_of
from registry.errors import InvalidError, NotFoundError, StartError
from tests.fakes.blobs import MemoryBlobs, ObjectBlobs

DATA = bytes(range(256)) * 40
STORES: dict[str, Callable[[Path], BlobStore]] = {
    "folder": lambda folder: open_blobs((folder / "Blobs of ä").as_uri()),
    "memory": lambda _: MemoryBlobs(),
    "objects": lambda _: ObjectBlobs(),
}


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


def receive(store: BlobStore, data: bytes, upload: str = "0a", *, of: bytes | None = None) -> None:
    with store.begin(upload, digest_of(data if of is None else of)) as writer:
        writer.append(data)
        writer.save()


def put(store: BlobStore, data: bytes, upload: str = "0a") -> Digest:
    receive(store, data, upload)
    store.complete(upload, digest_of(data))
    return digest_of(data)


def content(store: BlobStore, digest: Digest) -> bytes:
    with closing(store.open(digest)) as reader:
        return reader.read_at(0, 1 << 20)


def test_a_blob_is_read_back_whole_and_in_pieces(store: BlobStore) -> None:
    reader = store.open(put(store, DATA))
    assert reader.size == len(DATA)
    assert reader.read_at(0, 1 << 20) == DATA
    assert reader.read_at(100, 7) == DATA[100:107]
    assert reader.read_at(len(DATA), 10) == b""
    reader.close()
    reader.close()


def test_an_upload_is_not_a_blob(store: BlobStore) -> None:
    receive(store, DATA)
    assert store.size_of(digest_of(DATA)) is None
    with pytest.raises(NotFoundError):
        store.open(digest_of(DATA))
    assert list(store.older_than(0)) == []
    assert list(store.uploads()) == ["0a"]


@pytest.mark.parametrize("step", [1, 100, 999, 1000, 4096])
def test_an_upload_goes_on_at_the_offset_that_the_store_names(store: BlobStore, step: int) -> None:
    data = DATA[:50] if step == 1 else DATA
    for start in range(0, len(data), step):
        with store.begin("0a", digest_of(data)) as writer:
            assert writer.offset == start
            writer.append(data[start : start + step])
            assert writer.offset == min(start + step, len(data))
            writer.save()
        assert store.offset("0a") == min(start + step, len(data))
    store.complete("0a", digest_of(data))
    assert content(store, digest_of(data)) == data
    assert list(store.uploads()) == []
    assert store.offset("0a") == 0


def test_what_was_received_is_read_back_or_begins_anew(store: BlobStore) -> None:
    receive(store, DATA[:5000], of=DATA)
    with closing(store.received("0a")) as reader:
        came = reader.read_at(0, 1 << 20)
        assert len(came) == reader.size
    assert came in {DATA[:5000], b""}
    assert store.offset("0a") == len(came)
    receive(store, DATA[len(came) :], of=DATA)
    store.complete("0a", digest_of(DATA))
    assert content(store, digest_of(DATA)) == DATA


def test_of_an_upload_that_was_not_begun_there_is_nothing(store: BlobStore) -> None:
    with closing(store.received("0a")) as reader:
        assert (reader.size, reader.read_at(0, 10)) == (0, b"")
    assert store.offset("0a") == 0
    with pytest.raises(NotFoundError):
        store.complete("0a", digest_of(DATA))


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    assert store.size_of(put(store, b"")) == 0


def test_the_same_blob_twice_is_one(store: BlobStore) -> None:
    assert put(store, DATA, "0a") == put(store, DATA, "0b")
    assert list(store.older_than(0)) == [digest_of(DATA)]


def test_two_uploads_do_not_mix(store: BlobStore) -> None:
    other = DATA[::-1]
    for start in (0, 5120):
        receive(store, DATA[start : start + 5120], "0a", of=DATA)
        receive(store, other[start : start + 5120], "0b", of=other)
    assert list(store.uploads()) == ["0a", "0b"]
    store.complete("0b", digest_of(other))
    store.complete("0a", digest_of(DATA))
    assert (content(store, digest_of(DATA)), content(store, digest_of(other))) == (DATA, other)


def test_an_aborted_upload_is_gone_and_may_begin_again(store: BlobStore) -> None:
    receive(store, DATA[:3000], of=DATA)
    store.abort("0a")
    store.abort("0a")
    assert (store.offset("0a"), list(store.uploads())) == (0, [])
    with pytest.raises(NotFoundError):
        store.complete("0a", digest_of(DATA))
    assert content(store, put(store, DATA)) == DATA


def test_an_open_blob_that_is_deleted_is_readable_or_not_found(store: BlobStore) -> None:
    digest = put(store, DATA)
    reader = store.open(digest)
    store.delete(digest)
    store.delete(digest)
    assert store.size_of(digest) is None
    try:
        assert reader.read_at(0, 10) == DATA[:10]
    except NotFoundError:
        assert isinstance(store, ObjectBlobs), "a store that could keep it"
    reader.close()


def test_a_new_blob_is_not_old(store: BlobStore) -> None:
    put(store, DATA)
    assert list(store.older_than(3600)) == []


def test_a_store_that_knows_its_capacity_has_room(store: BlobStore) -> None:
    free = store.free_bytes()
    assert free is None or free > 0


def test_a_blob_that_is_set_aside_is_not_there_and_may_come_again(store: BlobStore) -> None:
    digest = put(store, DATA)
    for _ in range(2):
        store.set_aside(digest)
        assert store.size_of(digest) is None
        assert list(store.older_than(0)) == []
        with pytest.raises(NotFoundError):
            store.open(digest)
        assert put(store, DATA) == digest
        assert store.size_of(digest) == len(DATA)


def test_an_open_blob_has_a_stamp_that_stays(store: BlobStore) -> None:
    digest = put(store, DATA)
    stamps = []
    for _ in range(2):
        with closing(store.open(digest)) as reader:
            stamps.append(reader.stamp)
    assert stamps[0] == stamps[1]


def test_a_store_that_works_says_so(store: BlobStore) -> None:
    store.probe()
    assert list(store.uploads()) == []


@pytest.mark.parametrize("url", ["s4://bucket", "blobs", "file:relative", "file://host/folder", "file:///a?b", ""])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StartError) as refused:
        open_blobs(url)
    assert refused.value.code == "blobs_url"


def test_a_folder_has_one_registry_at_a_time(tmp_path: Path) -> None:
    first = open_blobs(tmp_path.as_uri())
    with pytest.raises(InvalidError):
        open_blobs(tmp_path.as_uri())
    first.close()
    open_blobs(tmp_path.as_uri()).close()
