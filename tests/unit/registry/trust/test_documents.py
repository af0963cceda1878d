"""What a device may believe of a desired document, and in which order."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from registry.contracts.device.messages import Desired
from registry.contracts.wire import canonical_json
from registry.trust.documents import DocumentOrder, DocumentPlace, verified_document
from registry.trust.faults import TrustFault, TrustRefusedError
from registry.trust.roots import newest_root, read_root
from tests.support.signed_metadata import NOW, MemoryDirector, new_signer


def desired(generation: int = 7, device: str = "edge-1") -> Desired:
    return Desired(device=device, generation=generation, epoch="e1", issued_at=NOW)


def place(director: MemoryDirector, body: bytes) -> DocumentPlace:
    return verified_document(read_root(director.roots[-1]), body, "edge-1").place


def refusal(director: MemoryDirector, body: bytes) -> TrustFault:
    with pytest.raises(TrustRefusedError) as refused:
        place(director, body)
    return refused.value.fault


def test_a_signed_document_is_read_and_says_the_same_to_a_reader_that_checks_nothing() -> None:
    director = MemoryDirector()
    body = director.sign(desired())
    found = verified_document(read_root(director.roots[0]), body, "edge-1").document
    plain = Desired.model_validate_json(body)
    assert found.generation == plain.generation == 7
    assert plain.signatures[0].keyid == director.signers[0].public_key.keyid
    assert plain.canonical() == body


def test_fields_that_this_reader_does_not_know_are_covered_by_the_signature() -> None:
    director = MemoryDirector()
    document = Desired.model_validate({**desired().to_json(), "from_the_future": [1, {"ä": 2.5}]})
    body = director.sign(document)
    place(director, body)
    said = json.loads(body)
    said["from_the_future"] = []
    assert refusal(director, canonical_json(said)) is TrustFault.SIGNATURE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generation", 1 << 52),
        ("device", "edge-2"),
        ("expires", "2099-01-01T00:00:00Z"),
        ("models", {}),
        ("epoch", "x"),
    ],
)
def test_a_changed_document_is_refused(field: str, value: object) -> None:
    director = MemoryDirector()
    said = json.loads(director.sign(desired()))
    said[field] = value
    assert refusal(director, canonical_json(said)) in {TrustFault.SIGNATURE, TrustFault.DEVICE}


def test_another_devices_document_is_refused() -> None:
    director = MemoryDirector()
    assert refusal(director, director.sign(desired(device="edge-2"))) is TrustFault.DEVICE


def test_an_unsigned_document_is_refused() -> None:
    assert refusal(MemoryDirector(), desired(generation=1 << 53).canonical()) is TrustFault.UNSIGNED


def test_a_document_that_another_key_signed_is_refused() -> None:
    director = MemoryDirector()
    assert refusal(director, MemoryDirector().sign(desired())) is TrustFault.SIGNATURE
    renamed = MemoryDirector(signers=[new_signer()])
    said = json.loads(renamed.sign(desired()))
    said["signatures"][0]["keyid"] = director.signers[0].public_key.keyid
    assert refusal(director, canonical_json(said)) is TrustFault.SIGNATURE


def test_fewer_signatures_than_the_threshold_are_refused_and_the_same_one_counts_once() -> None:
    director = MemoryDirector(signers=[new_signer(), new_signer()], threshold=2)
    place(director, director.sign(desired()))
    body = director.sign(desired(), signers=1)
    assert refusal(director, body) is TrustFault.SIGNATURE
    said = json.loads(body)
    said["signatures"] *= 2
    assert refusal(director, canonical_json(said)) is TrustFault.SIGNATURE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"signatures":{}}',
        b'{"signatures":[1]}',
        b'{"signatures":[{"keyid":[],"sig":"00"}]}',
        b'{"signatures":[{"keyid":1,"sig":2}]}',
        b'{"signatures":[{"keyid":"a","sig":"zz"}]}',
        b'{"a":"\\ud800","signatures":[{"keyid":"a","sig":"00"}]}',
        b'{"a":NaN,"signatures":[{"keyid":"a","sig":"00"}]}',
        b"[" * 100_000,
        b'{"signatures":' + b"1" * 300_000 + b"}",
    ],
)
def test_what_is_no_signed_document_is_refused(body: bytes) -> None:
    assert refusal(MemoryDirector(), body) in {TrustFault.FORM, TrustFault.UNSIGNED, TrustFault.SIGNATURE}


@pytest.mark.parametrize("signature", ["", "zz", "0", "00" * 64, "ff" * 4000])
def test_a_signature_of_any_form_by_a_known_key_is_only_refused(signature: str) -> None:
    director = MemoryDirector()
    said = json.loads(director.sign(desired()))
    said["signatures"][0]["sig"] = signature
    assert refusal(director, canonical_json(said)) is TrustFault.SIGNATURE


def test_a_document_signed_again_is_the_same() -> None:
    director = MemoryDirector()
    first = place(director, director.sign(desired()))
    again = place(director, director.sign(desired(), expires=NOW + timedelta(days=30)))
    assert first.judge(again) is DocumentOrder.SAME


def test_the_same_place_with_other_content_is_a_conflict() -> None:
    director = MemoryDirector()
    first = place(director, director.sign(desired()))
    other = desired().model_copy(update={"issued_at": NOW + timedelta(seconds=1)})
    assert first.judge(place(director, director.sign(other))) is DocumentOrder.CONFLICT


@pytest.mark.parametrize(
    ("epoch", "generation", "order"),
    [
        (NOW, 8, DocumentOrder.NEWER),
        (NOW, 6, DocumentOrder.OLDER),
        (NOW + timedelta(days=1), 1, DocumentOrder.NEWER),
        (NOW - timedelta(days=1), 1 << 50, DocumentOrder.OLDER),
    ],
)
def test_a_later_epoch_comes_before_a_higher_generation(epoch: datetime, generation: int, order: DocumentOrder) -> None:
    director = MemoryDirector()
    first = place(director, director.sign(desired()))
    after = place(director, director.sign(desired(generation), epoch_began=epoch))
    assert first.judge(after) is order


def test_the_directors_next_root_replaces_its_keys() -> None:
    director = MemoryDirector()
    stolen = director.sign(desired())
    director.signers = [new_signer()]
    director.new_root()
    root = newest_root(director.roots[0], director.roots[1:])
    verified_document(root, director.sign(desired()), "edge-1")
    with pytest.raises(TrustRefusedError):
        verified_document(root, stolen, "edge-1")
