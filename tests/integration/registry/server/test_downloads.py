"""Blobs from a real registry: whole, in ranges, resumed, cached."""

from __future__ import annotations

import os

import httpx
import pytest

from registry.contracts.wire import Digest, digest_of
from tests.integration.registry.server.test_publishing import problem
from tests.support.programs.registry_process import put_blob

DATA = os.urandom((3 << 20) + 5)


@pytest.fixture
def digest(admin: httpx.Client) -> Digest:
    return put_blob(admin, DATA)


def test_a_blob_says_its_length_its_etag_and_that_it_never_changes(reader: httpx.Client, digest: Digest) -> None:
    for answer in (reader.get(f"/v1/blobs/{digest}"), reader.head(f"/v1/blobs/{digest}")):
        assert answer.status_code == 200
        assert answer.headers["content-length"] == str(len(DATA))
        assert answer.headers["etag"] == f'"{digest}"'
        assert answer.headers["accept-ranges"] == "bytes"
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-type"] == "application/octet-stream"
    assert reader.get(f"/v1/blobs/{digest}", headers={"If-None-Match": f'"{digest}"'}).status_code == 304


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, len(DATA)),
        (f"bytes=0-{len(DATA)}", 0, len(DATA)),
        ("bytes=-7", len(DATA) - 7, len(DATA)),
        ("bytes=1048570-2097160", 1048570, 2097161),
        (f"bytes={len(DATA) - 1}-", len(DATA) - 1, len(DATA)),
    ],
)
def test_a_range_is_answered_with_just_that(
    reader: httpx.Client, digest: Digest, asked: str, start: int, end: int
) -> None:
    answer = reader.get(f"/v1/blobs/{digest}", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
    assert answer.content == DATA[start:end]


@pytest.mark.parametrize("asked", ["bytes=9-3", "lines=1-2", "bytes=a-b", "bytes=-", "bytes=0-1,4-5"])
def test_what_is_no_single_range_gets_the_whole(reader: httpx.Client, digest: Digest, asked: str) -> None:
    answer = reader.get(f"/v1/blobs/{digest}", headers={"Range": asked})
    assert answer.status_code == 200
    assert answer.content == DATA


@pytest.mark.parametrize("asked", [f"bytes={len(DATA)}-", f"bytes={1 << 62}-"])
def test_a_range_after_the_end_is_refused(reader: httpx.Client, digest: Digest, asked: str) -> None:
    answer = reader.get(f"/v1/blobs/{digest}", headers={"Range": asked})
    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"


def test_if_range_resumes_the_same_and_restarts_another(reader: httpx.Client, digest: Digest) -> None:
    same = {"Range": "bytes=100-", "If-Range": f'"{digest}"'}
    assert reader.get(f"/v1/blobs/{digest}", headers=same).status_code == 206
    other = {"Range": "bytes=100-", "If-Range": f'"{digest_of(b"other")}"'}
    answer = reader.get(f"/v1/blobs/{digest}", headers=other)
    assert answer.status_code == 200
    assert answer.content == DATA


def test_a_blob_that_is_not_there_is_not_found(reader: httpx.Client) -> None:
    problem(reader.get(f"/v1/blobs/{digest_of(b'nothing')}"), 404, "not_found")
    problem(reader.get("/v1/blobs/sha256:..%2F..%2Fregistry.db"), 404, "not_found")
    problem(reader.get("/v1/blobs/sha256:abc"), 422, "invalid")
