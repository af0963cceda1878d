"""The rules of an upload: the registry names the next byte."""

from __future__ import annotations

import pytest

from registry.contracts.api.uploads import MAX_SEGMENT, UploadRequest, UploadView, next_segment
from registry.contracts.wire import digest_of

REQUEST = UploadRequest(digest=digest_of(b"one"), size=MAX_SEGMENT + 10)


def view(offset: int, *, complete: bool = False, of: bytes = b"one") -> UploadView:
    return UploadView(id="u", digest=digest_of(of), size=REQUEST.size, offset=offset, complete=complete)


def test_a_request_sends_at_most_one_segment_and_the_last_one_the_rest() -> None:
    first, last = next_segment(REQUEST, view(0)), next_segment(REQUEST, view(MAX_SEGMENT))
    assert first is not None
    assert last is not None
    assert (first.offset, first.length) == (0, 256 * 1024 * 1024)
    assert last.headers == {
        "upload-offset": "268435456",
        "content-type": "application/octet-stream",
        "content-length": "10",
    }


def test_nothing_is_sent_when_the_blob_is_there() -> None:
    assert next_segment(REQUEST, view(0, complete=True)) is None


@pytest.mark.parametrize("answer", [view(0, of=b"other"), view(-1), view(REQUEST.size + 1)])
def test_an_answer_for_another_upload_is_refused(answer: UploadView) -> None:
    with pytest.raises(ValueError, match="another upload"):
        next_segment(REQUEST, answer)
