"""Who signs what and until when, for people, checks and figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy.orm import Session
from tuf.api.metadata import Key, Root, Targets

from registry.contracts.api.trust import MAX_MODELS_NAMED, TrustKeyView, TrustRoleView, TrustView
from registry.services.trust.store import StoredMetadata, newest
from registry.services.trust.trust import Trust
from registry.trust.names import DIRECTOR, IMAGE, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, UNCLAIMED, Repository

DAY_S = 86400.0
SIGNED = "documents"
"""How the director's `targets` are called for people: its keys sign documents."""


class _Collected:
    def __init__(self, here: frozenset[str], now: datetime) -> None:
        self.here, self.now = here, now
        self.roles: list[TrustRoleView] = []
        self.keys: dict[str, Key] = {}
        self.signs: dict[str, list[str]] = defaultdict(list)

    def add(
        self, repository: Repository, role: str, delegator: Root | Targets, stored: StoredMetadata | None, *, show: bool
    ) -> bool:
        """Whether the registry can sign it itself."""
        wanted = delegator.get_delegated_role(role)
        for keyid in wanted.keyids:
            self.keys[keyid] = delegator.get_key(keyid)
            if len(self.signs[keyid]) < MAX_MODELS_NAMED:
                self.signs[keyid].append(f"{repository} {role}")
        here = sum(keyid in self.here for keyid in wanted.keyids)
        if show or here < wanted.threshold:
            self.roles.append(
                TrustRoleView(
                    repository=repository,
                    role=role,
                    keys=tuple(wanted.keyids),
                    threshold=wanted.threshold,
                    here=here,
                    version=stored.version if stored is not None else None,
                    expires=stored.expires_at if stored is not None else None,
                    days_left=days_left(stored, self.now) if stored is not None else None,
                )
            )
        return here >= wanted.threshold


def days_left(stored: StoredMetadata, now: datetime) -> float:
    """Until it expires; negative: since it has."""
    return round((stored.expires_at - now).total_seconds() / DAY_S, 2)


def trust_view(trust: Trust, session: Session, now: datetime) -> TrustView:
    """As it stands now. Raises StorageFailedError: what is stored is damaged."""
    found = _Collected(frozenset(trust.keys.signers()), now)
    models = elsewhere = 0
    image, director = newest(session, IMAGE, ROOT), newest(session, DIRECTOR, ROOT)
    if image is not None:
        root = image.root()
        for role in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP):
            found.add(IMAGE, role, root, newest(session, IMAGE, role), show=True)
        stored = newest(session, IMAGE, TARGETS)
        targets = stored.parsed().signed if stored is not None else None
        if isinstance(targets, Targets) and targets.delegations is not None:
            for role in targets.delegations.roles or {}:
                mine = found.add(IMAGE, role, targets, newest(session, IMAGE, role), show=role == UNCLAIMED)
                models += role != UNCLAIMED
                elsewhere += not mine
    if director is not None:
        root = director.root()
        found.add(DIRECTOR, ROOT, root, director, show=True)
        found.add(DIRECTOR, TARGETS, root, None, show=True)
    return TrustView(
        at=now,
        roles=tuple(found.roles),
        keys=tuple(_keys(found)),
        models=models,
        models_elsewhere=elsewhere,
        folder=str(trust.keys.folder.absolute()),
        problem=trust.director.problem if image is not None else "the registry has made no keys yet; its log says why",
    )


def _keys(found: _Collected) -> Iterator[TrustKeyView]:
    for keyid, key in sorted(found.keys.items()):
        yield TrustKeyView(keyid=keyid, kind=key.scheme, here=keyid in found.here, signs=tuple(found.signs[keyid]))


def expiries(session: Session) -> dict[tuple[str, ...], float]:
    """When the newest metadata of the top roles expire, POSIX time, by repository and role."""
    roles: tuple[tuple[Repository, str], ...] = (
        *((IMAGE, role) for role in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP, UNCLAIMED)),
        (DIRECTOR, ROOT),
    )
    ends = {(repository, role): newest(session, repository, role) for repository, role in roles}
    return {key: stored.expires_at.timestamp() for key, stored in ends.items() if stored is not None}
