"""What this device trusts: the roots it was given, the signed metadata on its disk, and what the registry signs next.

| what | verified | by |
|---|---|---|
| a desired document, whoever brought it | when it comes, and when it is read after a start | the director's root |
| the manifest of what is to be installed | after a refresh, before its download | the image repository |
| the manifest of what is to be loaded | from the disk, the whole chain, before each load | the same, expired or not |

What this process has verified it verifies again when the bytes on the disk are others; whether they have expired is
judged each time. What is refused changes nothing on the disk. A set that cannot be verified from the disk any more is
asked for again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import Root
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from agent.adapters.trust.refreshing import FetchMetadata, ImageRefresh
from agent.adapters.trust.store import KeptMetadata, MetadataStore
from agent.core.trust import CheckedDocument, TrustStanding
from agent.errors import AgentError, PermanentError, TransientError
from registry.contracts.codes import DeploymentCode
from registry.contracts.wire import Digest, Name, VersionName
from registry.trust.documents import DocumentOrder, DocumentPlace, verified_document
from registry.trust.faults import TrustFault, TrustRefusedError
from registry.trust.image import LONG_AGO, ImageFiles, ListedManifest, find_manifest, verified_files
from registry.trust.names import (
    DIRECTOR,
    IMAGE,
    MAX_ROOT_BYTES,
    MAX_ROOTS,
    MAX_TIMESTAMP_BYTES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Repository,
    file_name,
)
from registry.trust.roots import TrustAnchors, newest_root, next_root
from registry.trust.time_floor import time_floor

log = logging.getLogger(__name__)
REFRESH_LIMIT_S = 300.0
"""One refresh takes no longer, with all its files: no other file is asked for after it."""

FetchOf = Callable[[Repository, str, int], "bytes | None"]
"""As `FetchMetadata`, of one of the two repositories."""
MAX_LISTED = 256
"""Versions whose listing is remembered."""
_PASSING = frozenset({DeploymentCode.REGISTRY_UNREACHABLE, DeploymentCode.CREDENTIAL_REFUSED})


@dataclass(frozen=True)
class _Verified:
    """A set of files that this process has verified: the same bytes need not be verified once more, only dated."""

    kept: KeptMetadata
    trusted: TrustedMetadataSet
    listed: dict[tuple[Name, VersionName], ListedManifest] = field(default_factory=dict)

    def require(self, model: Name, version: VersionName, manifest: Digest, length: int) -> None:
        """Raises TrustRefusedError: no role lists it."""
        found = self.listed.get((model, version))
        if found is None:
            if len(self.listed) >= MAX_LISTED:
                self.listed.clear()
            found = find_manifest(self.trusted, model, version, self.kept.files.get)
            self.listed[model, version] = found
        try:
            found.require(manifest, length)
        except TrustRefusedError as error:
            raise TrustRefusedError(TrustFault.NOT_LISTED, error.message) from error

    def require_fresh(self, at: datetime) -> None:
        """Raises TrustRefusedError: `expired`."""
        for each in (self.trusted.root, self.trusted.timestamp, self.trusted.snapshot, self.trusted.targets):
            if each.is_expired(at):
                raise TrustRefusedError(TrustFault.EXPIRED, f"The signed {each.type} expired at {each.expires}.")


class TrustedMetadata:
    """Thread-safe. One refresh at a time; documents and loads never wait for one."""

    def __init__(
        self,
        device: Name,
        anchors: TrustAnchors,
        store: MetadataStore,
        fetch: FetchOf | None,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        device: Whose documents these are.
        anchors: The roots that it was given.
        store: Its disk.
        fetch: The registry. None: none is configured.
        now: The host's clock, UTC; it may be wrong.
        monotonic: Seconds.
        """
        self._device = device
        self._anchors = anchors
        self._store = store
        self._fetch = fetch
        self._now = now
        self._monotonic = monotonic
        self._refreshing = threading.Lock()
        self._wanted: set[Name] | None = None
        self._floor = time_floor()
        self._director = self._kept_director()
        self._expires: datetime | None = None
        self._image_root = 0
        self._verified: _Verified | None = None
        self._take_up()

    def standing(self) -> TrustStanding:
        """What there is now. Quick."""
        found = [self._director.expires, *([self._expires] if self._expires is not None else [])]
        return TrustStanding(
            floor=self._floor,
            expires=min(found) if self._expires is not None else None,
            image_root=self._image_root,
            director_root=self._director.version,
        )

    def document(self, body: bytes, after: bytes | None) -> CheckedDocument:
        """The desired document in these bytes. Its expiry is the caller's to judge. Quick.

        Args:
            body: From anybody.
            after: The place of the latest document that was accepted; None: none was.

        Raises:
            TrustRefusedError: `unsigned`, `signature`, `form`, `device`, `rollback` or `conflict`.
        """
        signed = verified_document(self._director, body, self._device)
        before = _place(after)
        order = before.judge(signed.place) if before is not None else DocumentOrder.NEWER
        where = f"generation {signed.place.generation} of the epoch that began at {signed.place.epoch_began}"
        if order is DocumentOrder.OLDER:
            raise TrustRefusedError(TrustFault.ROLLBACK, f"The document is older than what was accepted: {where}.")
        if order is DocumentOrder.CONFLICT:
            raise TrustRefusedError(TrustFault.CONFLICT, f"The document says something else than what had its {where}.")
        return CheckedDocument(signed.document, _place_bytes(signed.place), order is DocumentOrder.NEWER)

    def refresh(self) -> None:
        """Asks the registry for what it signed since. Slow.

        Raises:
            AgentError: it cannot be had, or is refused.
        """
        with self._refreshing, _translated():
            fetch = self._bounded_fetch()
            self._refresh_director(fetch)
            self._refresh_image(fetch, ())

    def require_listed(self, model: Name, version: VersionName, manifest: Digest, length: int) -> None:
        """Before anything of it is installed: a trusted role lists this manifest now. Slow: asks the registry; where
        that cannot be reached, what is on the disk counts while it has not expired.

        Raises:
            AgentError: manifest_untrusted, metadata_stale, metadata_refused, or it cannot be had now.
        """
        with self._refreshing, _translated():
            try:
                verified = self._refresh_image(self._bounded_fetch(), (model,))
            except AgentError as error:
                if error.code not in _PASSING or not self._is_listed_here(model, version, manifest, length):
                    raise
                self._from_disk().require_fresh(max(self._now(), self._floor))
            else:
                verified.require(model, version, manifest, length)

    def require_trusted(self, model: Name, version: VersionName, manifest: Digest, length: int) -> None:
        """Before a load: what is on the disk proves that a trusted role listed this manifest, expired or not.

        Raises:
            AgentError: it does not, and the registry could not mend that.
        """
        try:
            self._from_disk().require(model, version, manifest, length)
        except TrustRefusedError as error:
            log.warning("signed metadata on the disk: %s; the registry is asked", error.message)
        else:
            return
        with self._refreshing, _translated(PermanentError):
            self._refresh_image(self._bounded_fetch(), (model,))
            self._from_disk().require(model, version, manifest, length)

    def keep_only(self, models: Collection[Name]) -> None:
        """What lists other models is let go with the next refresh."""
        self._wanted = set(models)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _refresh_image(self, fetch: FetchMetadata, models: Collection[Name]) -> _Verified:
        before, at = self._kept(IMAGE), max(self._now(), self._floor)
        wanted = set(before.models if self._wanted is None else self._wanted.intersection(before.models)) | set(models)
        known = self._verified
        if known is not None and known.kept == before and wanted == set(before.models):
            fetch = _remembering(fetch)
            newer = fetch(file_name(ROOT, known.trusted.root.version + 1), MAX_ROOT_BYTES)
            if newer is None and fetch(file_name(TIMESTAMP, None), MAX_TIMESTAMP_BYTES) == before.files[TIMESTAMP]:
                known.require_fresh(at)
                return known
        refresh = ImageRefresh(self._anchors.image, before, at, fetch)
        try:
            trusted = refresh.run(wanted)
        finally:
            self._floor = time_floor(self._floor, refresh.kept.floor)
        refresh.kept.floor = self._floor
        if refresh.kept != before:
            self._store.write(IMAGE, refresh.kept)
        if self._wanted is not None:
            self._wanted |= set(models)
        trusted.reference_time = LONG_AGO  # What it is asked later is not a question of time.
        return self._note(refresh.kept, trusted)

    def _refresh_director(self, fetch: FetchMetadata) -> None:
        kept = self._kept(DIRECTOR)
        root, before = self._director, len(kept.roots)
        while len(kept.roots) < MAX_ROOTS:
            data = fetch(f"{DIRECTOR}/{file_name(ROOT, root.version + 1)}", MAX_ROOT_BYTES)
            if data is None:
                break
            root = next_root(root, data)
            kept.roots.append(data)
        if len(kept.roots) != before:
            self._store.write(DIRECTOR, kept)
            self._director = root

    def _from_disk(self) -> _Verified:
        """What is on the disk, verified as a whole, expired or not."""
        kept, known = self._kept(IMAGE), self._verified
        if known is not None and known.kept == kept:
            return known
        timestamp, snapshot, targets = (kept.files.get(role) for role in (TIMESTAMP, SNAPSHOT, TARGETS))
        if timestamp is None or snapshot is None or targets is None:
            raise TrustRefusedError(TrustFault.MISMATCH, "There are no signed metadata on the disk.")
        files = ImageFiles(kept.roots, timestamp, snapshot, targets, kept.files)
        return self._note(kept, verified_files(self._anchors.image, files, None))

    def _is_listed_here(self, model: Name, version: VersionName, manifest: Digest, length: int) -> bool:
        """By what is on the disk, expired or not."""
        try:
            self._from_disk().require(model, version, manifest, length)
        except TrustRefusedError:
            return False
        return True

    def _bounded_fetch(self) -> FetchMetadata:
        """Of the image repository, or of another whose name stands before the file's; until REFRESH_LIMIT_S is over."""
        fetch = self._fetch
        if fetch is None:
            raise TransientError(DeploymentCode.REGISTRY_UNREACHABLE, "no registry is configured: set registry.url")
        until = self._monotonic() + REFRESH_LIMIT_S

        def get(name: str, limit: int) -> bytes | None:
            if self._monotonic() >= until:
                text = f"the signed metadata did not come in {REFRESH_LIMIT_S:g} s"
                raise TransientError(DeploymentCode.REGISTRY_UNREACHABLE, text)
            director = name.startswith(f"{DIRECTOR}/")
            data = fetch(DIRECTOR if director else IMAGE, name.removeprefix(f"{DIRECTOR}/"), limit)
            if data is not None and len(data) > limit:
                raise TrustRefusedError(TrustFault.FORM, f"{name} has over {limit} bytes.")
            return data

        return get

    def _kept(self, repository: Repository) -> KeptMetadata:
        """What is on the disk, where it belongs to the roots that the device was given."""
        kept, anchor = self._store.read(repository), hashlib.sha256(self._anchors.of(repository)).hexdigest()
        return kept if kept.anchor == anchor else KeptMetadata(anchor, floor=kept.floor)

    def _kept_director(self) -> Root:
        kept = self._kept(DIRECTOR)
        try:
            return newest_root(self._anchors.director, kept.roots)
        except TrustRefusedError as error:
            log.warning("the director's roots on the disk: %s; they are asked for again", error.message)
            self._store.write(DIRECTOR, KeptMetadata(kept.anchor))
            return newest_root(self._anchors.director, ())

    def _take_up(self) -> None:
        """What an earlier run kept."""
        kept = self._kept(IMAGE)
        self._floor = time_floor(self._floor, kept.floor)
        if not kept.files:
            return
        try:
            self._from_disk()
        except TrustRefusedError as error:
            log.warning("signed metadata on the disk: %s; they are asked for again", error.message)
            # Whatever of it is right comes again. Kept, it would be refused at each refresh.
            self._store.write(IMAGE, KeptMetadata(kept.anchor, models=kept.models, floor=kept.floor))

    def _note(self, kept: KeptMetadata, trusted: TrustedMetadataSet) -> _Verified:
        top = (trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets)
        self._expires = min(each.expires for each in top)
        self._image_root = trusted.root.version
        self._verified = _Verified(kept, trusted)
        return self._verified


def _remembering(fetch: FetchMetadata) -> FetchMetadata:
    """Asks for each file once."""
    had: dict[str, bytes | None] = {}

    def get(name: str, limit: int) -> bytes | None:
        if name not in had:
            had[name] = fetch(name, limit)
        return had[name]

    return get


def _place(kept: bytes | None) -> DocumentPlace | None:
    """Of what was kept; the journal has checked that it is what was written."""
    if kept is None:
        return None
    said = json.loads(kept)
    return DocumentPlace(datetime.fromisoformat(said["epoch_began"]), said["generation"], said["content"])


def _place_bytes(place: DocumentPlace) -> bytes:
    return json.dumps(
        {"epoch_began": place.epoch_began.isoformat(), "generation": place.generation, "content": place.content}
    ).encode()


@contextmanager
def _translated(unlisted: type[AgentError] = TransientError) -> Iterator[None]:
    """A refusal becomes an error with a code; one because no role lists a manifest is of the kind `unlisted`."""
    try:
        yield
    except TrustRefusedError as error:
        if error.fault is TrustFault.NOT_LISTED:
            raise unlisted(DeploymentCode.MANIFEST_UNTRUSTED, error.message) from error
        stale = error.fault is TrustFault.EXPIRED
        code = DeploymentCode.METADATA_STALE if stale else DeploymentCode.METADATA_REFUSED
        raise TransientError(code, error.message) from error
