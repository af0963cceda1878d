"""Which manifest a device may believe: only what every role on the way down signed, freshly, and lists."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from registry.contracts.wire import digest_of
from registry.trust.faults import TrustFault, TrustRefusedError
from registry.trust.image import ImageFiles, ListedManifest, find_manifest, target_of, verified_files
from registry.trust.names import MAX_SNAPSHOT_BYTES, TIMESTAMP_LIFE
from tests.support.signed_metadata import NOW, MemoryImageRepository, new_signer

MANIFEST = b'{"model":"lenet","version":"1.0.0"}'


def repository() -> MemoryImageRepository:
    made = MemoryImageRepository()
    made.add("lenet", "1.0.0", MANIFEST)
    return made


def listed(
    made: MemoryImageRepository, files: ImageFiles, version: str = "1.0.0", *, at: object = NOW
) -> ListedManifest:
    trusted = verified_files(made.anchor, files, at)  # type: ignore[arg-type]
    return find_manifest(trusted, "lenet", version, files.delegated.get)


def refusal(
    made: MemoryImageRepository, files: ImageFiles, version: str = "1.0.0", *, at: datetime | None = NOW
) -> TrustFault:
    with pytest.raises(TrustRefusedError) as refused:
        listed(made, files, version, at=at)
    return refused.value.fault


def test_a_published_manifest_is_found_with_its_digest_length_and_signer() -> None:
    made = repository()
    found = listed(made, made.files())
    assert (found.digest, found.length, found.role) == (digest_of(MANIFEST), len(MANIFEST), "model-lenet")
    assert found.signers == {made.online.public_key.keyid}
    found.require(digest_of(MANIFEST), len(MANIFEST))


def test_another_manifest_or_another_length_is_refused() -> None:
    found = listed(made := repository(), made.files())
    for digest, length in ((digest_of(b"other"), len(MANIFEST)), (digest_of(MANIFEST), len(MANIFEST) + 1)):
        with pytest.raises(TrustRefusedError) as refused:
            found.require(digest, length)
        assert refused.value.fault is TrustFault.MISMATCH


def test_a_manifest_that_the_newest_one_extends_is_accepted_still() -> None:
    made = MemoryImageRepository()
    made.add("lenet", "1.0.0", b"newest", earlier={digest_of(MANIFEST): len(MANIFEST)})
    found = listed(made, made.files())
    found.require(digest_of(MANIFEST), len(MANIFEST))
    found.require(digest_of(b"newest"), 6)


def test_a_version_that_nobody_published_is_not_listed() -> None:
    made = repository()
    assert refusal(made, made.files(), "2.0.0") is TrustFault.NOT_LISTED


def test_a_model_without_its_own_role_is_listed_by_the_role_of_the_unclaimed() -> None:
    made = MemoryImageRepository()
    made.add("lenet", "1.0.0", MANIFEST, role="unclaimed")
    assert listed(made, made.files()).role == "unclaimed"


def test_the_unclaimed_role_cannot_speak_for_a_model_with_a_role_of_its_own() -> None:
    made = repository()
    made.add("lenet", "2.0.0", b"evil", role="unclaimed")
    assert refusal(made, made.files(), "2.0.0") is TrustFault.NOT_LISTED


def test_one_models_key_cannot_speak_for_another_model() -> None:
    made = repository()
    forged = target_of("lenet", "6.6.6", digest_of(b"evil"), 4, earlier={}, yanked=False)
    made.listed["model-vgg"] = {forged.path: forged}
    made.publish()
    assert refusal(made, made.files(), "6.6.6") is TrustFault.NOT_LISTED


def test_a_model_with_a_threshold_of_two_needs_both_keys() -> None:
    made = MemoryImageRepository()
    made.publishers["lenet"] = ([new_signer(), new_signer()], 2)
    made.add("lenet", "1.0.0", MANIFEST)
    files = made.files()
    assert len(listed(made, files).signers) == 2
    role = json.loads(files.delegated["model-lenet"])
    role["signatures"].pop()
    alone = {**files.delegated, "model-lenet": json.dumps(role).encode()}
    assert refusal(made, replace(files, delegated=alone)) is TrustFault.SIGNATURE


@pytest.mark.parametrize("name", ["timestamp", "snapshot", "targets"])
def test_metadata_that_another_key_signed_is_refused(name: str) -> None:
    made, other = repository(), repository()
    forged = replace(made.files(), **{name: getattr(other.files(), name)})
    assert refusal(made, forged) in {TrustFault.SIGNATURE, TrustFault.MISMATCH}


@pytest.mark.parametrize("name", ["snapshot", "targets"])
def test_metadata_of_another_time_is_not_mixed_in(name: str) -> None:
    made = repository()
    before = made.files()
    made.add("lenet", "1.0.1", b"next")
    mixed = replace(made.files(), **{name: getattr(before, name)})
    assert refusal(made, mixed) in {TrustFault.MISMATCH, TrustFault.ROLLBACK}


def test_an_earlier_role_of_the_model_is_not_mixed_in() -> None:
    made = repository()
    before = made.files()
    made.add("lenet", "1.0.1", b"next")
    assert refusal(made, replace(made.files(), delegated=before.delegated)) is TrustFault.ROLLBACK


def test_expired_metadata_lists_nothing_new_and_goes_on_listing_what_serves() -> None:
    made = repository()
    late = NOW + TIMESTAMP_LIFE + timedelta(seconds=1)
    assert refusal(made, made.files(), at=late) is TrustFault.EXPIRED
    assert listed(made, made.files(), at=None).digest == digest_of(MANIFEST)


def test_metadata_that_is_too_long_is_refused_before_it_is_read() -> None:
    made = repository()
    assert refusal(made, replace(made.files(), snapshot=b" " * (MAX_SNAPSHOT_BYTES + 1))) is TrustFault.FORM


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[" * 50_000, b'{"signed":{"_type":"timestamp"},"signatures":[]}'])
def test_what_is_no_metadata_is_refused(garbage: bytes) -> None:
    made = repository()
    for name in ("timestamp", "snapshot", "targets"):
        assert refusal(made, replace(made.files(), **{name: garbage})) in {TrustFault.FORM, TrustFault.MISMATCH}


def test_a_new_root_that_the_old_one_signed_replaces_the_keys() -> None:
    made = repository()
    before, stolen = list(made.root_signers), made.online
    made.root_signers, made.online = [new_signer()], new_signer()
    made.new_root(also=before)
    made.publish()
    found = listed(made, made.files())
    assert found.signers == {made.online.public_key.keyid}
    made.online = stolen
    made.stamp()
    assert refusal(made, made.files()) is TrustFault.SIGNATURE


def test_a_new_root_that_the_old_one_did_not_sign_is_refused() -> None:
    made = repository()
    made.root_signers = [new_signer()]
    made.new_root()
    assert refusal(made, made.files()) is TrustFault.SIGNATURE


def test_a_missing_role_is_refused_and_not_passed_over() -> None:
    made = repository()
    assert refusal(made, replace(made.files(), delegated={})) is TrustFault.MISMATCH
