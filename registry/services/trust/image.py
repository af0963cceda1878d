"""The image repository: which manifests are published, signed in the transaction that changes it.

Everything that changes the repository ends with a new snapshot and a new timestamp, so that the rows of one commit are
one state. What is stored is verified before more is put to it and signed.

| what changes | what is signed |
|---|---|
| a version appears, is extended, yanked or deleted | its model's role |
| a model appears, and the key of `targets` is here | `targets` with the model's delegation, and the model's role |
| a model appears, and it is not | `unclaimed` |

A model whose role somebody else's keys sign is not changed here: its metadata come signed, see `take`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from securesystemslib.signer import Key
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets

from registry.db.catalog_rows import EarlierManifestRow, ModelRow, VersionRow
from registry.db.trust_rows import TrustMetadataRow
from registry.errors import KeyOfflineError, StorageFailedError
from registry.services.trust.keys import KeyFolder, of_key
from registry.services.trust.store import (
    StoredMetadata,
    is_due,
    may_sign,
    newest,
    next_root_of,
    put,
    sign,
    sign_root,
    take_turn,
)
from registry.trust.building import (
    TOP_ROLES,
    RoleKeys,
    delegations_metadata,
    root_metadata,
    snapshot_metadata,
    targets_metadata,
    timestamp_metadata,
)
from registry.trust.image import MAX_EARLIER, target_of
from registry.trust.names import (
    IMAGE,
    MAX_SNAPSHOT_BYTES,
    MAX_TARGETS_BYTES,
    ROOT,
    ROOT_LIFE,
    SNAPSHOT,
    SNAPSHOT_LIFE,
    TARGETS,
    TARGETS_LIFE,
    TIMESTAMP,
    TIMESTAMP_LIFE,
    UNCLAIMED,
    model_of,
    model_role,
    target_path,
)

log = logging.getLogger(__name__)


@dataclass
class ImageChange:
    """One transaction's work on the repository."""

    root: Root
    targets: Targets
    """As stored and verified."""
    now: datetime
    signed: dict[str, int] = field(default_factory=dict)
    """Roles with a new version."""


@dataclass(frozen=True)
class StoredTargets:
    """The next `targets`, signed."""

    signed: Targets
    body: bytes


class ImageRepository:
    """Works in the caller's transactions. Thread-safe."""

    def __init__(self, keys: KeyFolder) -> None:
        self._keys = keys

    def begin(self, session: Session, now: datetime) -> bool:
        """Make keys, root and empty metadata where the database has none. True: there were none."""
        take_turn(session)
        if newest(session, IMAGE, ROOT) is not None:
            return False
        root_key, targets_key, online, models = (
            self._keys.first(name).public_key for name in ("image-root", "targets", "online", "models")
        )
        keys: dict[str, Key] = {ROOT: root_key, TARGETS: targets_key, SNAPSHOT: online, TIMESTAMP: online}
        root = root_metadata(1, now + ROOT_LIFE, {role: of_key(keys[role]) for role in TOP_ROLES})
        targets = targets_metadata(1, now + TARGETS_LIFE)
        targets.delegations = delegations_metadata({}, of_key(models))
        signers = self._keys.signers()
        put(session, IMAGE, ROOT, root, sign(root, ROOT, root, signers), now)
        put(session, IMAGE, TARGETS, targets, sign(root, TARGETS, targets, signers), now)
        change = ImageChange(root, targets, now, {TARGETS: 1})
        self._put_role(session, change, UNCLAIMED, targets_metadata(1, now + TARGETS_LIFE))
        self._finish(session, change)
        return True

    def list_model(self, session: Session, model: str, now: datetime, versions: Iterable[str]) -> None:
        """Sign what the catalogue now says of these versions of a model: they were published or extended. Where the
        model has no role yet, all its versions.

        Raises:
            KeyOfflineError: the model's own keys have to sign it, and have not: nothing may be changed.
            StorageFailedError: stored metadata are not what they were when they were signed.
        """
        self.begin(session, now)
        change, wanted = self._change(session, now), list(versions)
        if self._list(session, change, model, wanted):
            self._finish(session, change)
        else:
            self._require_listed(session, change, model, wanted)

    def relist_model(self, session: Session, model: str, now: datetime, versions: Iterable[str]) -> None:
        """As `list_model`, of versions that were yanked or deleted, which no missing key may hold up. A model that
        others sign stays as it is listed; what cannot be signed now is logged."""
        try:
            with session.begin_nested():
                self.begin(session, now)
                change = self._change(session, now)
                if self._list(session, change, model, list(versions)):
                    self._finish(session, change)
        except (KeyOfflineError, StorageFailedError) as error:
            log.error("trust: %s stays listed as it was: %s", model, error.message)  # noqa: TRY400

    def adopt(self, session: Session, models: Iterable[str], now: datetime) -> None:
        """Sign models that were published before there was signed metadata; as `list_model`, with one snapshot."""
        self.begin(session, now)
        change = self._change(session, now)
        wanted = [model for model in models if newest(session, IMAGE, model_role(model)) is None]
        if may_sign(change.root, TARGETS, self._keys.signers()):
            self._delegate(session, change, {model: _own(change.targets) for model in wanted})
        for model in wanted:
            self._list(session, change, model, [])
        self._finish(session, change)

    def unsigned(self, session: Session, most: int) -> list[str]:
        """Up to `most` models that no role lists: they were published before there was signed metadata."""
        if newest(session, IMAGE, ROOT) is None:
            return []
        roles = select(TrustMetadataRow.role).where(TrustMetadataRow.repository == IMAGE)
        query = select(ModelRow.name).where(("model-" + ModelRow.name).not_in(roles)).order_by(ModelRow.name)
        if may_sign(self.root(session), TARGETS, self._keys.signers()):
            return list(session.scalars(query.limit(most)))
        listed = _there(newest(session, IMAGE, UNCLAIMED), UNCLAIMED).parsed().signed
        known = {path.split("/")[1] for path in listed.targets}
        return [model for model in session.scalars(query) if model not in known][:most]

    def signs(self, session: Session, model: str) -> bool:
        """Whether this registry itself signs the model's role."""
        if newest(session, IMAGE, ROOT) is None:
            return True
        targets = self._targets(session, self.root(session))
        role = model_role(model) if _delegates(targets, model_role(model)) else UNCLAIMED
        return may_sign(targets, role, self._keys.signers())

    def root(self, session: Session) -> Root:
        """The newest root. Raises StorageFailedError: there is none."""
        return _there(newest(session, IMAGE, ROOT), ROOT).root()

    def renew(self, session: Session, now: datetime, *, roles: bool = True) -> list[str]:
        """Sign again what is in the second half of its life, with what keys are here; `roles` False: only snapshot and
        timestamp. Returns the roles."""
        self.begin(session, now)
        root_now = _there(newest(session, IMAGE, ROOT), ROOT)
        signers, renewed = self._keys.signers(), []
        if roles and is_due(root_now, now) and may_sign(root_now.root(), ROOT, signers):
            root = root_now.root()
            root.version, root.expires = root.version + 1, (now + ROOT_LIFE).replace(microsecond=0)
            put(session, IMAGE, ROOT, root, sign(root, ROOT, root, signers), now)
            renewed.append(ROOT)
        change = self._change(session, now)
        if roles:
            renewed += self._renew_roles(session, change)
        stamps = [(name, _there(newest(session, IMAGE, name), name)) for name in (SNAPSHOT, TIMESTAMP)]
        due = [name for name, stored in stamps if is_due(stored, now)]
        if change.signed or SNAPSHOT in due:
            self._finish(session, change)
        elif due:
            self._stamp(session, change, stamps[0][1])
        return [*renewed, *due]

    def replace_root(
        self, session: Session, root: Root, body: bytes, now: datetime, targets: StoredTargets | None = None
    ) -> None:
        """Store the next root, verified by the caller, and sign with the keys that it names. `targets`: their next
        version, signed as the new root demands; None: they are signed here where it names other keys for them.

        Raises:
            KeyOfflineError: it names keys for `targets` that are not here.
        """
        take_turn(session)
        before = self.root(session)
        change = ImageChange(root, self._targets(session, before), now)
        put(session, IMAGE, ROOT, root, body, now)
        if targets is not None:
            self._take_targets(session, change, targets)
        elif before.roles[TARGETS].to_dict() != root.roles[TARGETS].to_dict():
            self._put_targets(session, change, _next(change.targets, now))
        self._finish(session, change)

    def replace_targets(self, session: Session, targets: StoredTargets, now: datetime) -> None:
        """Store the next `targets`, verified by the caller. Roles that other keys sign now are signed again where the
        keys are here."""
        take_turn(session)
        change = self._change(session, now)
        self._take_targets(session, change, targets)
        self._finish(session, change)

    def take_role(self, session: Session, model: str, signed: Targets, body: bytes, now: datetime) -> None:
        """Store the next version of a model's role, verified by the caller."""
        take_turn(session)
        change = self._change(session, now)
        put(session, IMAGE, model_role(model), signed, _bounded(body, MAX_TARGETS_BYTES, model_role(model)), now)
        change.signed[model_role(model)] = signed.version
        self._finish(session, change)

    def targets(self, session: Session) -> Targets:
        """The newest `targets`, verified."""
        return self._targets(session, self.root(session))

    def _take_targets(self, session: Session, change: ImageChange, targets: StoredTargets) -> None:
        """What other keys sign now is signed again; a role whose keys are elsewhere has to come from there."""
        before, signers = change.targets, self._keys.signers()
        change.targets = targets.signed
        put(session, IMAGE, TARGETS, targets.signed, _bounded(targets.body, MAX_TARGETS_BYTES, TARGETS), change.now)
        change.signed[TARGETS] = targets.signed.version
        for role in _delegated(targets.signed):
            same = _delegates(before, role) and _signs_alike(before, targets.signed, role)
            stored = newest(session, IMAGE, role)
            if stored is None or same or not may_sign(targets.signed, role, signers):
                continue
            model = model_of(role)
            if model is not None and not (_delegates(before, role) and may_sign(before, role, signers)):
                listed = targets_metadata(stored.version, change.now)  # it comes back: as the catalogue has it
                listed.targets = _catalogued(session, model)
            else:
                listed = _verified(before, role, stored)
            self._put_role(session, change, role, _next(listed, change.now))

    def replace_online_key(self, session: Session, now: datetime) -> bool:
        """Another key signs snapshot and timestamp from now on, and devices forget the versions of these that they
        saw. False: the root's keys are not here."""
        before = self.root(session)
        if not may_sign(before, ROOT, self._keys.signers()):
            return False
        key = of_key(self._keys.make("online").public_key)
        after = next_root_of(before, {SNAPSHOT: key, TIMESTAMP: key}, now)
        body = sign_root(before, after, self._keys.signers())
        if body is not None:
            self.replace_root(session, after, body, now)
        return body is not None

    def delegated(
        self, session: Session, changed: Mapping[str, RoleKeys], now: datetime, own: RoleKeys | None = None
    ) -> Targets:
        """`targets` as they would be with these keys for the roles of these models, and perhaps other keys of the
        registry's own: not stored, not signed."""
        targets = self._change(session, now).targets
        _add_delegations(targets, changed, own)
        return _next(targets, now)

    def own_keys(self, session: Session) -> RoleKeys:
        """The registry's own keys of models."""
        return _own(self.targets(session))

    def _change(self, session: Session, now: datetime) -> ImageChange:
        root = self.root(session)
        return ImageChange(root, self._targets(session, root), now)

    def _targets(self, session: Session, root: Root) -> Targets:
        stored = _there(newest(session, IMAGE, TARGETS), TARGETS)
        return _verified(root, TARGETS, stored)

    def _delegate(self, session: Session, change: ImageChange, models: Mapping[str, RoleKeys]) -> None:
        new = {model: keys for model, keys in models.items() if not _delegates(change.targets, model_role(model))}
        if not new:
            return
        targets = change.targets
        _add_delegations(targets, new)
        _next(targets, change.now)
        self._put_targets(session, change, targets)

    def _put_targets(self, session: Session, change: ImageChange, targets: Targets) -> None:
        body = _bounded(sign(change.root, TARGETS, targets, self._keys.signers()), MAX_TARGETS_BYTES, TARGETS)
        put(session, IMAGE, TARGETS, targets, body, change.now)
        change.signed[TARGETS] = targets.version

    def _list(self, session: Session, change: ImageChange, model: str, versions: list[str]) -> bool:
        """Sign the model's role, without snapshot. False: others have to sign it."""
        role = model_role(model)
        stored = newest(session, IMAGE, role)
        if not _delegates(change.targets, role):
            if may_sign(change.root, TARGETS, self._keys.signers()):
                self._delegate(session, change, {model: _own(change.targets)})
            else:
                role, stored = UNCLAIMED, newest(session, IMAGE, UNCLAIMED)
        if not may_sign(change.targets, role, self._keys.signers()):
            return False
        if stored is None:
            signed, versions = targets_metadata(1, change.now + TARGETS_LIFE), []
        else:
            signed = _next(_verified(change.targets, role, stored), change.now)
        whole = stored is None or (role == UNCLAIMED and not versions)
        for path, target in _targets_of(session, model, None if whole else versions).items():
            if target is None:
                signed.targets.pop(path, None)
            else:
                signed.targets[path] = target
        self._put_role(session, change, role, signed)
        return True

    def _require_listed(self, session: Session, change: ImageChange, model: str, versions: list[str]) -> None:
        """Raises KeyOfflineError: the model's role does not list one of them as the catalogue has it."""
        role = model_role(model)
        stored = newest(session, IMAGE, role)
        listed = {} if stored is None else _signed_targets(change.targets, role, stored)
        for path, target in _targets_of(session, model, versions).items():
            there = listed.get(path)
            if target is not None and (there is None or (there.length, there.hashes) != (target.length, target.hashes)):
                keys = ", ".join(keyid[:12] for keyid in change.targets.get_delegated_role(role).keyids)
                raise KeyOfflineError(
                    f"The versions of {model} are signed by keys that are not in this registry ({keys}), and they did "
                    f"not sign {path} as it would be. Nothing was changed: publish it with --key FILE."
                )

    def _put_role(self, session: Session, change: ImageChange, role: str, signed: Targets) -> None:
        body = _bounded(sign(change.targets, role, signed, self._keys.signers()), MAX_TARGETS_BYTES, role)
        put(session, IMAGE, role, signed, body, change.now)
        change.signed[role] = signed.version

    def _renew_roles(self, session: Session, change: ImageChange) -> list[str]:
        renewed, signers = [], self._keys.signers()
        if may_sign(change.root, TARGETS, signers) and is_due(
            _there(newest(session, IMAGE, TARGETS), TARGETS), change.now
        ):
            self._put_targets(session, change, _next(change.targets, change.now))
            renewed.append(TARGETS)
        for role in _delegated(change.targets):
            stored = newest(session, IMAGE, role)
            if stored is not None and is_due(stored, change.now) and may_sign(change.targets, role, signers):
                self._put_role(session, change, role, _next(_verified(change.targets, role, stored), change.now))
                renewed.append(role)
        return renewed

    def _finish(self, session: Session, change: ImageChange) -> None:
        """A new snapshot with what was signed, and a new timestamp."""
        before = newest(session, IMAGE, SNAPSHOT)
        versions: dict[str, int] = {}
        if before is not None:
            known = before.parsed().signed
            if not isinstance(known, Snapshot):
                raise StorageFailedError("The signed metadata in the database are damaged: the snapshot is none.")
            versions = {name.removesuffix(".json"): meta.version for name, meta in known.meta.items()}
        number = 1 if before is None else before.version + 1
        snapshot = snapshot_metadata(number, change.now + SNAPSHOT_LIFE, versions | change.signed)
        body = _bounded(sign(change.root, SNAPSHOT, snapshot, self._keys.signers()), MAX_SNAPSHOT_BYTES, SNAPSHOT)
        self._stamp(session, change, put(session, IMAGE, SNAPSHOT, snapshot, body, change.now))

    def _stamp(self, session: Session, change: ImageChange, snapshot: StoredMetadata) -> None:
        before = newest(session, IMAGE, TIMESTAMP)
        number = 1 if before is None else before.version + 1
        expires = change.now + TIMESTAMP_LIFE
        timestamp = timestamp_metadata(number, expires, snapshot.version, snapshot.body, change.now)
        body = sign(change.root, TIMESTAMP, timestamp, self._keys.signers())
        put(session, IMAGE, TIMESTAMP, timestamp, body, change.now)


def _own(targets: Targets) -> RoleKeys:
    """The keys of `unclaimed`: this registry's own."""
    return delegation_of(targets, UNCLAIMED)


def delegation_of(targets: Targets, role: str) -> RoleKeys:
    """Who signs a delegated role."""
    found = targets.get_delegated_role(role)
    return RoleKeys([targets.get_key(keyid) for keyid in found.keyids], found.threshold)


def _signs_alike(before: Targets, after: Targets, role: str) -> bool:
    return before.get_delegated_role(role).to_dict() == after.get_delegated_role(role).to_dict()


def _catalogued(session: Session, model: str) -> dict[str, TargetFile]:
    """All that the catalogue has of a model."""
    return {path: target for path, target in _targets_of(session, model, None).items() if target is not None}


def _add_delegations(targets: Targets, models: Mapping[str, RoleKeys], own: RoleKeys | None = None) -> None:
    """Put these models before `unclaimed`, in place of what they had; `own`: other keys of the registry's own."""
    before = targets.delegations
    assert before is not None  # noqa: S101 - `targets` are made with them
    roles = before.roles or {}
    known = {
        name.removeprefix("model-"): RoleKeys([before.keys[keyid] for keyid in role.keyids], role.threshold)
        for name, role in roles.items()
        if name != UNCLAIMED
    }
    targets.delegations = delegations_metadata(known | dict(models), own or _own(targets))


def _next(signed: Targets, now: datetime) -> Targets:
    """The same as its next version, with a whole life before it."""
    signed.version, signed.expires = signed.version + 1, (now + TARGETS_LIFE).replace(microsecond=0)
    return signed


def _delegated(targets: Targets) -> list[str]:
    return list(targets.delegations.roles or ()) if targets.delegations is not None else []


def _delegates(targets: Targets, role: str) -> bool:
    return targets.delegations is not None and role in (targets.delegations.roles or {})


def _targets_of(session: Session, model: str, versions: list[str] | None) -> dict[str, TargetFile | None]:
    """What the catalogue says of these versions, None for those that are gone; of all that are there where None is
    given."""
    row = VersionRow
    columns = (row.id, row.version, row.manifest, func.length(row.body), row.yanked_at)
    query = select(*columns).where(row.model == model)
    if versions is not None:
        query = query.where(row.version.in_(versions))
    found = session.execute(query).all()
    earlier: dict[int, dict[str, int]] = {}
    told = EarlierManifestRow
    parts = select(told.version_id, told.manifest, func.length(told.body)).join(row, row.id == told.version_id)
    parts = parts.where(row.model == model).order_by(told.version_id, told.revision.desc())
    if versions is not None:
        parts = parts.where(row.version.in_(versions))
    for version_id, manifest, length in session.execute(parts):
        of_version = earlier.setdefault(version_id, {})
        if len(of_version) < MAX_EARLIER:
            of_version[manifest] = length
    targets: dict[str, TargetFile | None] = {target_path(model, version): None for version in versions or ()}
    for key, version, manifest, length, yanked_at in found:
        target = target_of(model, version, manifest, length, earlier=earlier.get(key, {}), yanked=yanked_at is not None)
        targets[target.path] = target
    return targets


def _signed_targets(targets: Targets, role: str, stored: StoredMetadata) -> dict[str, TargetFile]:
    """What a role lists, if the keys that sign it now signed that; nothing where others did."""
    metadata = stored.parsed()
    try:
        targets.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, ValueError):
        return {}
    return dict(metadata.signed.targets)


def _verified(delegator: Root | Targets, role: str, stored: StoredMetadata) -> Targets:
    """What is stored, if those keys signed it that sign it now. Raises StorageFailedError."""
    metadata = stored.parsed()
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise StorageFailedError(
            f"The signed metadata of {role} in the database are not what was signed: {error}. Nothing more is signed "
            "on top of them: put the database back from a backup."
        ) from error
    if not isinstance(metadata.signed, Targets):
        raise StorageFailedError(f"The signed metadata of {role} in the database are of another kind.")
    return metadata.signed


def _there(stored: StoredMetadata | None, role: str) -> StoredMetadata:
    if stored is None:
        raise StorageFailedError(f"The signed metadata of {role} are missing in the database.")
    return stored


def _bounded(body: bytes, most: int, role: str) -> bytes:
    if len(body) > most:
        raise StorageFailedError(f"The signed metadata of {role} would have {len(body)} bytes; {most} are the most.")
    return body
