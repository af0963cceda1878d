"""Who signs what, changed: keys replaced or revoked, models delegated; and metadata that were signed elsewhere, taken.

Where keys that have to sign are elsewhere, nothing is changed: the caller gets the metadata with the signatures that
could be made here, has them signed where the keys are, and brings them back. Nothing is remembered in between but the
private keys that were made for it. Keys that no metadata name any more are removed from the folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key
from sqlalchemy import update
from sqlalchemy.orm import Session
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from registry.contracts.api.trust import SignedFile, TrustChange, TrustChanged, TrustChangeKind
from registry.contracts.wire import canonical_json
from registry.db.engine import Database
from registry.db.fleet_rows import DesiredRow
from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.services.fleet.epochs import next_revision
from registry.services.queries import UseCases, retried
from registry.services.trust.image import StoredTargets, delegation_of
from registry.services.trust.store import keys_of, newest, next_root_of, put, sign_root, take_turn
from registry.services.trust.trust import Trust
from registry.services.trust.view import trust_view
from registry.trust.building import RoleKeys, signed_metadata
from registry.trust.faults import TrustRefusedError
from registry.trust.names import (
    DIRECTOR,
    IMAGE,
    MAX_TARGETS_BYTES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    UNCLAIMED,
    Repository,
    model_of,
    model_role,
)
from registry.trust.roots import next_root

log = logging.getLogger(__name__)
ONLINE = "online"
MODELS = "models"
_ROLES: dict[tuple[str, str], tuple[str, ...]] = {
    (IMAGE, ROOT): (ROOT,),
    (IMAGE, TARGETS): (TARGETS,),
    (IMAGE, ONLINE): (SNAPSHOT, TIMESTAMP),
    (DIRECTOR, ROOT): (ROOT, SNAPSHOT, TIMESTAMP),
    (DIRECTOR, TARGETS): (TARGETS,),
}
"""What may be rotated by a new root: repository and name to the roles that change together."""
FILE_OF = {
    (IMAGE, ROOT): "image-root",
    (IMAGE, TARGETS): "targets",
    (IMAGE, SNAPSHOT): "online",
    (DIRECTOR, ROOT): "director-root",
    (DIRECTOR, TARGETS): "director",
}
"""How the files of new keys are called."""


@dataclass
class _Drafted:
    """The next metadata, before they are signed."""

    root: tuple[Repository, Root, Root] | None = None
    """Of which repository, the one before, the next one."""
    targets: Targets | None = None
    lines: list[str] = field(default_factory=list)


class TrustChanges(UseCases):
    """The use cases. Thread-safe."""

    def __init__(self, database: Database, trust: Trust) -> None:
        super().__init__(database)
        self._trust = trust

    def make(self, change: TrustChange, by: str, now: datetime) -> TrustChanged:
        """Make the change, or say what has to be signed elsewhere first.

        Raises:
            NotFoundError: no such role, key or model.
            InvalidError: keys that cannot be read, or that do not reach the threshold.
            ConflictError: signed metadata that came with it do not fit.
        """
        before = self._named(now)
        changed = retried(lambda: self._make(change, now))
        if changed.done:
            self._trust.keys.forget(before - self._named(now))
            log.warning("trust: %s: %s", by or "anonymous", " ".join(changed.lines))
        return changed

    def take(self, files: Sequence[SignedFile], by: str, now: datetime) -> TrustChanged:
        """Store metadata that were signed elsewhere, all or none; the same again changes nothing.

        Raises:
            ConflictError: too few or other keys signed one of them, or another version came first.
            InvalidError: one of them is no such metadata.
        """

        def turn() -> list[str]:
            with self._database.write() as session:
                take_turn(session)
                return self._take(session, files, now)

        before = self._named(now)
        lines = retried(turn)
        self._trust.keys.forget(before - self._named(now))
        if lines:
            log.warning("trust: %s: %s", by or "anonymous", " ".join(lines))
        return TrustChanged(done=True, lines=tuple(lines))

    def _make(self, change: TrustChange, now: datetime) -> TrustChanged:
        with self._database.write() as session:
            take_turn(session)
            self._trust.image.begin(session, now)
            self._trust.director.begin(session, now)
            drafted = self._drafted(session, change, now)
            files = self._signed(session, drafted)
            if files is not None:
                self._take(session, [*files, *change.files], now)
                return TrustChanged(done=True, lines=tuple(drafted.lines))
            return TrustChanged(done=False, lines=tuple(drafted.lines), unsigned=tuple(self._half(session, drafted)))

    def _drafted(self, session: Session, change: TrustChange, now: datetime) -> _Drafted:
        given = _given(change)
        if change.kind is TrustChangeKind.DELEGATE:
            return self._delegated(session, change, given, now)
        if change.kind is TrustChangeKind.REVOKE:
            return self._revoked(session, change.key, now)
        renews = change.kind is TrustChangeKind.RENEW
        if (change.repository, change.role) == (IMAGE, MODELS):
            return self._models(session, given, now, renews=renews)
        roles = _ROLES.get((change.repository, change.role))
        if roles is None:
            known = sorted([*(f"{repository} {role}" for repository, role in _ROLES), f"{IMAGE} {MODELS}"])
            what = f"{change.repository} {change.role!r}"
            raise NotFoundError(f"There is no {what} whose keys change; there are {', '.join(known)}.")
        before = self._root(session, change.repository)
        if renews and (change.repository, change.role) == (IMAGE, TARGETS):
            targets = self._trust.image.delegated(session, {}, now)
            return _Drafted(targets=targets, lines=[f"image targets {targets.version} hold for another year."])
        if renews:
            after = next_root_of(before, {}, now)
            lines = [f"{change.repository} root {after.version} holds for another year."]
            return _Drafted((change.repository, before, after), None, lines)
        if not given.keys:
            given = RoleKeys([self._trust.keys.make(FILE_OF[change.repository, roles[0]]).public_key])
        return self._rooted(session, change.repository, before, dict.fromkeys(roles, given), now)

    def _rooted(
        self, session: Session, repository: Repository, before: Root, changed: dict[str, RoleKeys], now: datetime
    ) -> _Drafted:
        after = next_root_of(before, changed, now)
        known = keys_of(before)
        lines = [
            f"{repository} {role}: {_said(keys)} instead of {_said(known[role])}." for role, keys in changed.items()
        ]
        targets = None
        if repository == IMAGE and TARGETS in changed:
            targets = self._trust.image.delegated(session, {}, now)
        return _Drafted((repository, before, after), targets, lines)

    def _models(self, session: Session, given: RoleKeys, now: datetime, *, renews: bool) -> _Drafted:
        """The registry's own key of models is replaced in every role that it signs."""
        own = self._trust.image.own_keys(session)
        if not given.keys:
            given = own if renews else RoleKeys([self._trust.keys.make("models").public_key])
        targets = self._trust.image.targets(session)
        mine = [role for role in _delegated_roles(targets) if _same(delegation_of(targets, role), own)]
        models = {model: given for role in mine if (model := model_of(role)) is not None}
        drafted = self._trust.image.delegated(session, models, now, given)
        return _Drafted(targets=drafted, lines=[f"{len(models)} models: {_said(given)} instead of {_said(own)}."])

    def _delegated(self, session: Session, change: TrustChange, given: RoleKeys, now: datetime) -> _Drafted:
        if change.model is None:
            raise InvalidError("Which model? `delegate` needs one.")
        known = self._trust.image.targets(session)
        role = model_role(change.model)
        keys = given if given.keys else self._trust.image.own_keys(session)
        before = delegation_of(known, role) if role in _delegated_roles(known) else delegation_of(known, UNCLAIMED)
        targets = self._trust.image.delegated(session, {change.model: keys}, now)
        return _Drafted(targets=targets, lines=[f"{change.model}: {_said(keys)} instead of {_said(before)}."])

    def _revoked(self, session: Session, begins: str, now: datetime) -> _Drafted:
        keyid = self._found(session, begins, now)
        for repository in (IMAGE, DIRECTOR):
            before = self._root(session, repository)
            changed = {role: keys for role, keys in keys_of(before).items() if _has(keys, keyid)}
            if changed:
                name = next((FILE_OF[repository, role] for role in changed if (repository, role) in FILE_OF), "online")
                new = self._trust.keys.make(name).public_key
                replaced = {role: _without(keys, keyid, new) for role, keys in changed.items()}
                return self._rooted(session, repository, before, replaced, now)
        targets = self._trust.image.targets(session)
        own = self._trust.image.own_keys(session)
        if _has(own, keyid):
            return self._models(session, RoleKeys([]), now, renews=False)
        models: dict[str, RoleKeys] = {}
        for role in _delegated_roles(targets):
            keys, model = delegation_of(targets, role), model_of(role)
            if model is not None and _has(keys, keyid):
                left = [key for key in keys.keys if key.keyid != keyid]
                models[model] = RoleKeys(left, keys.threshold) if len(left) >= keys.threshold else own
        drafted = self._trust.image.delegated(session, models, now)
        lines = [
            f"{model}: {_said(keys)}" + (" (the registry's own): look for versions that nobody meant to publish."
            if keys is own else ".") for model, keys in models.items()
        ]  # fmt: skip
        return _Drafted(targets=drafted, lines=lines)

    def _found(self, session: Session, begins: str, now: datetime) -> str:
        known = [key.keyid for key in trust_view(self._trust, session, now).keys]
        found = [keyid for keyid in known if begins and keyid.startswith(begins)]
        if len(found) != 1:
            raise NotFoundError(f"{len(found)} keys that sign something begin with {begins[:64]!r}.")
        return found[0]

    def _signed(self, session: Session, drafted: _Drafted) -> list[SignedFile] | None:
        """What was drafted with all signatures that it needs; None: keys are elsewhere."""
        files: list[SignedFile] = []
        root, signers = None, self._trust.keys.signers()
        if drafted.root is not None:
            repository, before, root = drafted.root
            body = sign_root(before, root, signers)
            if body is None:
                return None
            files.append(SignedFile(repository=repository, role=ROOT, metadata=json.loads(body)))
        if drafted.targets is not None:
            body = self._half_targets(session, drafted)
            if not _is_signed(root or self._root(session, IMAGE), TARGETS, body):
                return None
            files.append(SignedFile(repository=IMAGE, role=TARGETS, metadata=json.loads(body)))
        return files

    def _half(self, session: Session, drafted: _Drafted) -> list[SignedFile]:
        """The same with the signatures that can be made here."""
        files = []
        if drafted.root is not None:
            repository, before, after = drafted.root
            wanted = {*before.roles[ROOT].keyids, *after.roles[ROOT].keyids}
            body = signed_metadata(after, [s for keyid, s in self._trust.keys.signers().items() if keyid in wanted])
            files.append(SignedFile(repository=repository, role=ROOT, metadata=json.loads(body)))
        if drafted.targets is not None:
            metadata = json.loads(self._half_targets(session, drafted))
            files.append(SignedFile(repository=IMAGE, role=TARGETS, metadata=metadata))
        return files

    def _half_targets(self, session: Session, drafted: _Drafted) -> bytes:
        assert drafted.targets is not None  # noqa: S101 - asked by whoever calls
        root = drafted.root[2] if drafted.root is not None else self._root(session, IMAGE)
        wanted = root.roles[TARGETS].keyids
        here = [signer for keyid, signer in self._trust.keys.signers().items() if keyid in wanted]
        return signed_metadata(drafted.targets, here)

    def _take(self, session: Session, files: Sequence[SignedFile], now: datetime) -> list[str]:
        lines: list[str] = []
        left = list(files)
        while left:
            file = left.pop(0)
            if self._is_there(session, file):
                continue
            if file.role == ROOT:
                follows = bool(left) and (left[0].repository, left[0].role) == (IMAGE, TARGETS)
                self._take_root(session, file, left.pop(0) if follows and file.repository == IMAGE else None, now)
            elif file.repository == IMAGE and file.role == TARGETS:
                targets = _read_targets(self._root(session, IMAGE), file, self._next(session, file))
                self._trust.image.replace_targets(session, targets, now)
            elif file.repository == IMAGE and (model := model_of(file.role)) is not None:
                role = _read_targets(self._trust.image.targets(session), file, self._next(session, file))
                self._trust.image.take_role(session, model, role.signed, role.body, now)
            else:
                raise InvalidError(f"The registry itself signs {file.repository} {file.role!r}.")
            lines.append(f"{file.repository} {file.role} {file.metadata['signed']['version']} is stored.")
        return lines

    def _take_root(self, session: Session, file: SignedFile, with_targets: SignedFile | None, now: datetime) -> None:
        body = canonical_json(file.metadata)
        try:
            root = next_root(self._root(session, file.repository), body)
        except TrustRefusedError as error:
            raise ConflictError(f"The root is not taken: {error.message}") from error
        if file.repository == DIRECTOR:
            put(session, DIRECTOR, ROOT, root, body, now)
            revision = next_revision(session)
            session.execute(update(DesiredRow).values(revision=revision, published=False))
            return
        targets = _read_targets(root, with_targets, self._next(session, with_targets)) if with_targets else None
        self._trust.image.replace_root(session, root, body, now, targets)

    def _is_there(self, session: Session, file: SignedFile) -> bool:
        stored = newest(session, file.repository, file.role)
        return stored is not None and canonical_json(json.loads(stored.body)) == canonical_json(file.metadata)

    def _next(self, session: Session, file: SignedFile) -> int:
        stored = newest(session, file.repository, file.role)
        return 1 if stored is None else stored.version + 1

    def _root(self, session: Session, repository: Repository) -> Root:
        stored = newest(session, repository, ROOT)
        if stored is None:
            raise NotFoundError(f"The {repository} repository has no root yet.")
        return stored.root()

    def _named(self, now: datetime) -> set[str]:
        """Ids of all keys that the metadata name."""
        with self._database.read() as session:
            return {key.keyid for key in trust_view(self._trust, session, now).keys}


def _key(said: dict[str, Any]) -> Key:
    values = dict(said)
    try:
        return Key.from_dict(str(values.pop("keyid")), values)
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidError(f"A key cannot be read: {error!r}") from error


def _given(change: TrustChange) -> RoleKeys:
    """The keys of the request. Raises InvalidError."""
    keys = [_key(each) for each in change.keys]
    if len({key.keyid for key in keys}) != len(keys):
        raise InvalidError("A key is named twice.")
    if keys and len(keys) < change.threshold:
        raise InvalidError(f"{len(keys)} keys cannot make {change.threshold} signatures.")
    return RoleKeys(keys, change.threshold)


def _has(keys: RoleKeys, keyid: str) -> bool:
    return any(key.keyid == keyid for key in keys.keys)


def _said(keys: RoleKeys) -> str:
    ids = ", ".join(key.keyid[:12] for key in keys.keys)
    return f"{keys.threshold} of the keys {ids}" if len(keys.keys) > 1 else f"key {ids}"


def _same(one: RoleKeys, other: RoleKeys) -> bool:
    return {key.keyid for key in one.keys} == {key.keyid for key in other.keys}


def _without(keys: RoleKeys, keyid: str, new: Key) -> RoleKeys:
    left = [key for key in keys.keys if key.keyid != keyid]
    return RoleKeys(left if len(left) >= keys.threshold else [*left, new], keys.threshold)


def _delegated_roles(targets: Targets) -> list[str]:
    return list(targets.delegations.roles or ()) if targets.delegations is not None else []


def _is_signed(delegator: Root | Targets, role: str, body: bytes) -> bool:
    metadata: Metadata[Any] = Metadata.from_bytes(body)
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, ValueError):
        return False
    return True


def _read_targets(delegator: Root | Targets, file: SignedFile, version: int) -> StoredTargets:
    body = canonical_json(file.metadata)
    if len(body) > MAX_TARGETS_BYTES:
        raise InvalidError(f"The metadata of {file.role} have {len(body)} bytes; {MAX_TARGETS_BYTES} are the most.")
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(body)
    except ValueError as error:
        raise InvalidError(f"The metadata of {file.role} cannot be read: {error}") from error
    if not isinstance(metadata.signed, Targets):
        raise InvalidError(f"The metadata of {file.role} are of another kind.")
    if metadata.signed.version != version:
        raise ConflictError(
            f"The next version of {file.role} is {version}, and what came is {metadata.signed.version}: somebody "
            "signed in between. Read the newest, and sign again."
        )
    if not _is_signed(delegator, file.role, body):
        raise ConflictError(f"Too few of the keys of {file.role} signed its metadata, or others did.")
    return StoredTargets(metadata.signed, body)
