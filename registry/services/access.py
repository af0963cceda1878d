"""Who is asking: from a token to a principal, and what a principal may do.

Tokens are 256 random bits, so their SHA-256 is safe to store and to look up. Known tokens are remembered in
memory for CACHE_SECONDS, so that a poll does not reach the database; a revocation in this process is immediate.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update

from registry.contracts.api import Scope
from registry.db.catalog_rows import TokenRow
from registry.db.engine import Database
from registry.errors import ForbiddenError, UnauthorizedError

TOKEN_PREFIX = "mf_"  # noqa: S105 - what every token starts with
MAX_TOKEN_CHARS = 256
CACHE_SECONDS = 30.0
CACHE_SIZE = 1 << 16

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

    def demand(self, scope: Scope) -> None:
        """Raises ForbiddenError when the scope is not granted."""
        if not self.may(scope):
            raise ForbiddenError(f"This needs a token with the scope {scope}; {self.name!r} has {self.scope}.")

    def demand_device(self, device: str) -> None:
        """Raises ForbiddenError for everybody but the device itself and administrators."""
        if self.device != device and not self.may(Scope.ADMIN):
            raise ForbiddenError(f"Only device {device!r} itself, with its own credential, may do this.")

    def demand_device_or(self, scope: Scope, device: str) -> None:
        """Raises ForbiddenError for everybody but the device itself and those to whom the scope is granted."""
        if self.device != device:
            self.demand(scope)


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

    def remembered(self, token: str, now: datetime) -> Principal | None:
        """The principal of a token that was checked a moment ago; None means: ask `authenticate`. Never blocks long."""
        digest = hash_token(token)
        with self._lock:
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
        with self._database.read() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.secret_hash == digest))
        if row is None or len(token) > MAX_TOKEN_CHARS or not hmac.compare_digest(row.secret_hash, digest):
            raise UnauthorizedError("The token is not known to this registry, or it was revoked.")
        principal = Principal(name=row.name, scope=Scope(row.scope), device=row.device)
        with self._lock:
            if len(self._known) >= CACHE_SIZE:
                self._known.clear()
            self._known[digest] = (principal, time.monotonic() + CACHE_SECONDS)
            self._used[principal.name] = now
        return principal

    def forget(self, name: str) -> None:
        """Call when the token `name` was revoked or replaced."""
        with self._lock:
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
