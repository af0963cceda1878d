"""Keys are replaced, revoked and taken elsewhere without a device noticing more than new roots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, Targets

from registry.contracts.api.trust import SignedFile, TrustChange, TrustChanged, TrustChangeKind
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.device.messages import Desired
from registry.errors import ConflictError, InvalidError, KeyOfflineError, NotFoundError
from registry.services.trust.view import trust_view
from registry.services.trust_changes import TrustChanges
from registry.trust.documents import verified_document
from registry.trust.image import target_of
from registry.trust.roots import newest_root
from tests.integration.registry.trust.signing import START, DeviceView, SigningRegistry
from tests.support.host.postgres import Databases
from tests.support.programs.registry_process import manifest_of


class ChangingRegistry(SigningRegistry):
    """With what changes keys."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, folder)
        self.changes = TrustChanges(self.database, self.trust)

    def change(self, kind: TrustChangeKind, **more: Any) -> TrustChanged:
        return self.changes.make(TrustChange(kind=kind, **more), "me", self.now)

    def keys(self, name: str) -> list[Path]:
        return sorted(file for file in self.trust.keys.folder.iterdir() if file.name.rpartition("-")[0] == name)

    def take_away(self, *names: str) -> dict[str, Signer]:
        """As `registry trust offline` does."""
        here = self.trust.keys.signers()
        away = {
            keyid: here[keyid] for keyid, file in self.trust.keys.names().items() if file.rpartition("-")[0] in names
        }
        self.trust.keys.forget(away)
        return away

    def sign_elsewhere(self, changed: TrustChanged, keys: dict[str, Signer]) -> TrustChanged:
        assert not changed.done
        files = []
        for file in changed.unsigned:
            metadata: Metadata[Any] = Metadata.from_dict(json.loads(json.dumps(file.metadata)))
            for signer in keys.values():
                metadata.sign(signer, append=True)
            files.append(file.model_copy(update={"metadata": metadata.to_dict()}))
        return self.changes.take(files, "me", self.now)


@pytest.fixture
def made(tmp_path: Path, databases: Databases) -> Iterator[ChangingRegistry]:
    registry = ChangingRegistry(databases.migrated(tmp_path), tmp_path / "keys")
    registry.publish("lenet", "1")
    registry.publish("vgg", "1")
    yield registry
    registry.database.close()


def public(signer: Signer) -> dict[str, Any]:
    return {"keyid": signer.public_key.keyid, **signer.public_key.to_dict()}


ROTATE, REVOKE, DELEGATE, RENEW = TrustChangeKind


@pytest.mark.parametrize(
    ("role", "name"), [("root", "image-root"), ("targets", "targets"), ("online", "online"), ("models", "models")]
)
def test_a_devices_first_root_leads_to_every_key_that_replaced_another(
    made: ChangingRegistry, role: str, name: str
) -> None:
    device, before = DeviceView(made.trust), made.keys(name)
    for _ in range(2):
        assert made.change(ROTATE, role=role).done
        assert device.listed("lenet", "1", made.now)
        made.publish("lenet", f"{made.keys(name)[0].name}")
    after = made.keys(name)
    assert len(after) == 1
    assert after != before
    assert device.listed("vgg", "1", made.now)


@pytest.mark.parametrize("role", ["root", "targets"])
def test_documents_are_signed_by_the_directors_new_key(made: ChangingRegistry, role: str) -> None:
    anchors = made.trust.anchors()
    assert anchors is not None
    made.change(ROTATE, repository="director", role=role)
    second = made.trust.file("director", "2.root.json").body
    with made.database.read() as session:
        made.trust.director.look(session, START)
    document = Desired(device="d1", generation=1, issued_at=START).canonical()
    body = made.trust.director.sign("d1", document).body
    verified_document(newest_root(anchors.director, [second]), body, "d1")


def test_a_revoked_key_signs_nothing_any_more_and_is_gone(made: ChangingRegistry) -> None:
    device = DeviceView(made.trust)
    with made.database.read() as session:
        keys = [key.keyid for key in trust_view(made.trust, session, made.now).keys]
    assert len(keys) == 6
    for keyid in keys:
        assert made.change(REVOKE, key=keyid[:12]).done
    with made.database.read() as session:
        after = trust_view(made.trust, session, made.now)
    assert not {key.keyid for key in after.keys} & set(keys)
    assert len(list(made.trust.keys.folder.iterdir())) == 6
    assert device.listed("lenet", "1", made.now)
    made.publish("lenet", "2")
    assert device.listed("lenet", "2", made.now)


def test_with_root_and_targets_elsewhere_a_change_is_signed_there(made: ChangingRegistry) -> None:
    device = DeviceView(made.trust)
    offline = made.take_away("image-root", "targets", "director-root")
    made.publish("lenet", "2")
    changed = made.change(ROTATE, role="online")
    assert device.listed("lenet", "2", made.now)
    assert made.sign_elsewhere(changed, offline).done
    assert device.listed("lenet", "2", made.now)
    made.publish("lenet", "3")
    assert device.listed("lenet", "3", made.now)
    new = CryptoSigner.generate_ed25519()
    changed = made.change(ROTATE, role="targets", keys=(public(new),))
    assert [file.role for file in changed.unsigned] == ["root", "targets"]
    offline[new.public_key.keyid] = new
    made.sign_elsewhere(changed, offline)
    made.publish("lenet", "4")
    assert device.listed("lenet", "4", made.now)
    changed = made.change(RENEW, role="root")
    assert made.sign_elsewhere(changed, offline).done
    changed = made.change(ROTATE, role="models")
    made.sign_elsewhere(changed, offline)
    assert device.listed("lenet", "4", made.now)
    assert device.listed("vgg", "1", made.now)


def test_what_the_wrong_keys_signed_or_what_comes_too_late_is_refused(made: ChangingRegistry) -> None:
    offline = made.take_away("image-root")
    changed = made.change(ROTATE, role="online")
    stranger = CryptoSigner.generate_ed25519()
    with pytest.raises(ConflictError, match="not taken"):
        made.sign_elsewhere(changed, {"x": stranger})
    made.sign_elsewhere(changed, offline)
    made.sign_elsewhere(changed, offline)  # the same again changes nothing
    with pytest.raises(ConflictError):
        made.sign_elsewhere(TrustChanged(done=False, unsigned=(changed.unsigned[0],)), offline | {"x": stranger})
    forged = SignedFile(repository="image", role="timestamp", metadata={"signed": {"version": 1}, "signatures": []})
    with pytest.raises(InvalidError):
        made.changes.take([forged], "me", made.now)


def signed_role(made: ChangingRegistry, *signers: Signer, manifest: Manifest | None = None) -> SignedFile:
    """The role of lenet as it is, or with one more version, signed by these."""
    metadata: Metadata[Any] = Metadata.from_bytes(DeviceView(made.trust).get("model-lenet.json"))
    role: Targets = metadata.signed
    role.version += 1
    if manifest is not None:
        digest, length = manifest.canonical_digest(), len(manifest.canonical())
        target = target_of("lenet", manifest.version, digest, length, earlier={}, yanked=False)
        role.targets[target.path] = target
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return SignedFile(repository="image", role="model-lenet", metadata=metadata.to_dict())


def test_a_delegated_models_versions_come_signed_or_not_at_all(made: ChangingRegistry) -> None:
    device = DeviceView(made.trust)
    mine = CryptoSigner.generate_ed25519()
    role = signed_role(made, mine)
    assert made.change(DELEGATE, model="lenet", keys=(public(mine),), files=(role,)).done
    assert device.listed("lenet", "1", made.now).signers == {mine.public_key.keyid}
    with pytest.raises(KeyOfflineError):
        made.publish("lenet", "2")
    with pytest.raises(NotFoundError):
        made.versions.get("lenet", "2")
    made.publish("vgg", "2")
    made.yanking.yank("lenet", "1", "bad", "me", made.now)
    manifest = Manifest.model_validate(manifest_of("lenet", "2", b"weights"))
    stranger = CryptoSigner.generate_ed25519()
    forged, meant = (signed_role(made, signer, manifest=manifest) for signer in (stranger, mine))
    with pytest.raises(ConflictError):
        made.changes.take([forged], "me", made.now)
    made.changes.take([meant], "me", made.now)
    made.publish("lenet", "2")
    device.listed("lenet", "2", made.now).require(manifest.canonical_digest(), len(manifest.canonical()))
    with pytest.raises(KeyOfflineError, match="did not sign"):
        made.publish("lenet", "3")


def test_two_of_a_models_keys_have_to_sign_where_the_threshold_says_so(made: ChangingRegistry) -> None:
    one, other = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    keys = (public(one), public(other))
    with pytest.raises(ConflictError):
        made.change(DELEGATE, model="lenet", keys=keys, threshold=2, files=(signed_role(made, one),))
    made.change(DELEGATE, model="lenet", keys=keys, threshold=2, files=(signed_role(made, one, other),))
    assert len(DeviceView(made.trust).listed("lenet", "1").signers) == 2
    with pytest.raises(InvalidError):
        made.change(DELEGATE, model="lenet", keys=keys, threshold=3)


def test_a_model_whose_only_key_is_revoked_comes_back_to_the_registry(made: ChangingRegistry) -> None:
    device = DeviceView(made.trust)
    mine = CryptoSigner.generate_ed25519()
    made.change(DELEGATE, model="lenet", keys=(public(mine),), files=(signed_role(made, mine),))
    changed = made.change(REVOKE, key=mine.public_key.keyid)
    assert "look for versions" in changed.lines[0]
    assert mine.public_key.keyid not in device.listed("lenet", "1", made.now).signers
    made.publish("lenet", "2")
    assert device.listed("lenet", "2", made.now)


@pytest.mark.parametrize("key", ["", "zz", "0" * 64])
def test_a_key_that_signs_nothing_is_not_found(made: ChangingRegistry, key: str) -> None:
    with pytest.raises(NotFoundError):
        made.change(REVOKE, key=key)


@pytest.mark.parametrize("role", ["", "timestamp", "model-lenet"])
def test_a_role_whose_keys_do_not_change_is_not_found(made: ChangingRegistry, role: str) -> None:
    with pytest.raises(NotFoundError, match="image online"):
        made.change(ROTATE, role=role)


@pytest.mark.parametrize("key", [{}, {"keyid": "a"}, {"keyid": "a", "keytype": 1, "scheme": 2, "keyval": 3}])
def test_a_key_that_is_none_is_refused(made: ChangingRegistry, key: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        made.change(DELEGATE, model="lenet", keys=(key,))
