"""The roots that a device is given, and which roots may follow them."""

from __future__ import annotations

import json

import pytest

from registry.trust.faults import TrustFault, TrustRefusedError
from registry.trust.roots import MAX_ANCHORS_BYTES, TrustAnchors, newest_root, next_root, read_anchors, read_root
from tests.support.signed_metadata import MemoryDirector, MemoryImageRepository, new_signer


def test_the_file_of_roots_comes_back_as_it_was_written() -> None:
    anchors = TrustAnchors(MemoryImageRepository().anchor, MemoryDirector().roots[0])
    again = read_anchors(anchors.to_json())
    assert read_root(again.of("image")) == read_root(anchors.image)
    assert read_root(again.of("director")) == read_root(anchors.director)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"image":{},"director":{}}', b"[" * 99_999])
def test_what_is_no_file_of_roots_is_refused(data: bytes) -> None:
    with pytest.raises(TrustRefusedError):
        read_anchors(data)
    with pytest.raises(TrustRefusedError, match="over"):
        read_anchors(b" " * (MAX_ANCHORS_BYTES + 1))


def test_a_root_that_its_own_keys_did_not_sign_is_refused() -> None:
    said = json.loads(MemoryDirector().roots[0])
    said["signed"]["version"] = 2
    with pytest.raises(TrustRefusedError) as refused:
        read_root(json.dumps(said).encode())
    assert refused.value.fault is TrustFault.SIGNATURE


def test_other_metadata_is_no_root() -> None:
    with pytest.raises(TrustRefusedError, match="timestamp"):
        read_root(MemoryImageRepository().files().timestamp)


def test_a_root_that_leaves_a_version_out_or_comes_again_is_refused() -> None:
    made = MemoryImageRepository()
    made.new_root()
    made.new_root()
    first = read_root(made.roots[0])
    assert newest_root(made.roots[0], made.roots[1:]).version == 3
    for skipped in (made.roots[2], made.roots[0]):
        with pytest.raises(TrustRefusedError) as refused:
            next_root(first, skipped)
        assert refused.value.fault is TrustFault.ROLLBACK


def test_a_root_with_a_threshold_needs_so_many_of_the_old_keys_and_of_the_new() -> None:
    made = MemoryImageRepository(root_signers=[new_signer(), new_signer()], root_threshold=2)
    old = list(made.root_signers)
    made.root_signers = [new_signer(), new_signer()]
    one = made.new_root(also=old[:1])
    with pytest.raises(TrustRefusedError) as refused:
        next_root(read_root(made.roots[0]), one)
    assert refused.value.fault is TrustFault.SIGNATURE
    made.roots.pop()
    both = made.new_root(also=old)
    assert next_root(read_root(made.roots[0]), both).version == 2
