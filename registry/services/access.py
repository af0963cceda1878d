"""Who is asking: from a token to a principal, and what a principal may do.

Tokens are 256 random bits, so their SHA-256 is safe to store and to look up. Known tokens are remembered in
memory for CACHE_SECONDS, so that a poll does not reach the database; a revocation in this process is immediate.
While tokens are in use, `refresh` reads all of them at once before they are forgotten: a fleet that polls every half
minute would otherwise look each one up each time.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update

from registry.contracts.api.answers import Scope
from registry.db.after_commit import Changed
from registry.db.catalog_rows import TokenRow
from registry.db.engine import Database
from registry.errors import ForbiddenError, UnauthorizedError

TOKEN_PREFIX = "mf_"  # noqa: S105 - what every token starts with
MAX_TOKEN_CHARS = 256
CACHE_SECONDS = 30.0
CACHE_SIZE = 1 << 18
"""Tokens that are remembered; of a registry that has more, they are looked up one by one."""
MANY = 100
"""Tokens that were looked up one by one since the last refresh: a whole fleet is back, and it is time for one."""

_GRANTS = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.PUBLISH: frozenset({Scope.READ, Scope.PUBLISH}),
    Scope.DEPLOY: frozenset({Scope.READ, Scope.DEPLOY}),
    Scope.ADMIN: frozenset({Scope.READ, Scope.PUBLISH, Scope.DEPLOY, Scope.ADMIN}),
    Scope.DEVICE: frozenset({Scope.DEVICE}),
}
"""What a token of a scope may do."""


@dataclass(frozen=True)
class Principal:
    """Who asks. `name` goes into the record of what was done; `device` is set for a device's credential."""

    name: str
    scope: Scope
    device: str | None = None

    def may(self, scope: Scope) -> bool:
        """Is the scope granted?"""
        return scope in _GRANTS[self.scope]

    def require(self, scope: Scope) -> None:
        """Raises ForbiddenError when the scope is not granted."""
        if not self.may(scope):
            raise ForbiddenError(f"This needs a token with the scope {scope}; {self.name!r} has {self.scope}.")

    def require_device(self, device: str) -> None:
        """Raises ForbiddenError for everybody but the device itself and administrators."""
        if self.device != device and not self.may(Scope.ADMIN):
            raise ForbiddenError(f"Only device {device!r} itself, with its own credential, may do this.")

    def require_device_or(self, scope: Scope, device: str) -> None:
        """Raises ForbiddenError for everybody but the device itself and those to whom the scope is granted."""
        if self.device != device:
            self.require(scope)


ANONYMOUS = Principal(name="", scope=Scope.READ)
"""A reader on this host, while the registry listens on loopback only."""


def hash_token(token: str) -> str:
    """The hex SHA-256 that is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Access:
    """Checks tokens. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Principal, float]] = {}
        self._used: dict[str, datetime] = {}
        self._asked = False
        self._looked_up = 0
        self._revocations = 0
        database.listeners.add(Changed.TOKEN, self._forget)

    def remembered(self, token: str, now: datetime) -> Principal | None:
        """The principal of a token that was checked a moment ago; None means: ask `authenticate`. Never blocks long."""
        digest = hash_token(token)
        with self._lock:
            self._asked = True
            known = self._known.get(digest)
            if known is None or known[1] < time.monotonic():
                return None
            self._used[known[0].name] = now
            return known[0]

    def authenticate(self, token: str, now: datetime) -> Principal:
        """The principal of a token, from the database.

        Raises:
            UnauthorizedError: the token is not known (any more).
        """
        digest = hash_token(token)
        revocations = self._revocations
        with self._database.read() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.secret_hash == digest))
        if row is None or len(token) > MAX_TOKEN_CHARS or not hmac.compare_digest(row.secret_hash, digest):
            raise UnauthorizedError("The token is not known to this registry, or it was revoked.")
        principal = Principal(name=row.name, scope=Scope(row.scope), device=row.device)
        with self._lock:
            self._looked_up += 1
            many = self._looked_up >= MANY
            if len(self._known) >= CACHE_SIZE:
                self._known.clear()
            if revocations == self._revocations:  # else it may be this one that was revoked meanwhile
                self._known[digest] = (principal, time.monotonic() + CACHE_SECONDS)
            self._used[principal.name] = now
        if many:
            self.refresh()
        return principal

    def refresh(self) -> None:
        """Read all tokens at once, where any was asked for since the last time; for a scheduled job too."""
        with self._lock:
            asked, self._asked, self._looked_up = self._asked, False, 0
            revocations, before = self._revocations, self._known
        if not asked:
            return
        until = time.monotonic() + CACHE_SECONDS
        columns = (TokenRow.secret_hash, TokenRow.name, TokenRow.scope, TokenRow.device)
        with self._database.read() as session:
            rows = session.execute(select(*columns).limit(CACHE_SIZE + 1)).all()
        if len(rows) > CACHE_SIZE:
            return
        known: dict[str, tuple[Principal, float]] = {}
        for digest, name, scope, device in rows:
            old = before.get(digest)
            same = old is not None and (old[0].name, old[0].scope, old[0].device) == (name, scope, device)
            principal = old[0] if same and old is not None else Principal(name, Scope(scope), device)
            known[digest] = (principal, until)
        with self._lock:
            if revocations == self._revocations:
                self._known = known

    def _forget(self, name: str) -> None:
        """The token `name` was revoked or replaced."""
        with self._lock:
            self._revocations += 1
            self._known = {key: value for key, value in self._known.items() if value[0].name != name}
            self._used.pop(name, None)

    def save_last_used(self) -> None:
        """Write when tokens were last used; for a scheduled job, so that no request pays for it."""
        with self._lock:
            used, self._used = self._used, {}
        if not used:
            return
        with self._database.write() as session:
            for name, at in used.items():
                session.execute(update(TokenRow).where(TokenRow.name == name).values(last_used=at))
