"""Tokens: making, listing and revoking them, and who is asking: from a token to a principal, and what it may do.

A secret is returned once; only its hash is kept. Tokens are 256 random bits, so their SHA-256 is safe to store and to
look up. Known tokens are remembered in memory for CACHE_SECONDS, so that a poll does not reach the database; a
revocation in this process is immediate. While tokens are in use, `refresh` reads all of them at once before they are
forgotten: a fleet that polls every half minute would otherwise look each one up each time.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter
from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from registry.contracts.api.access import Role, RoleGrant
from registry.contracts.api.answers import Scope, TokenCreate, TokenCreated, TokenView
from registry.core.access import nearest_scope, of_scope
from registry.db.catalog_rows import TokenRow
from registry.db.engine import Changed, Database, announce
from registry.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    StartError,
    TemporaryError,
    UnauthorizedError,
)
from registry.private_files import write_whole
from registry.services.access.principals import Principal, acting
from registry.services.device_sets import terms_of
from registry.services.queries import UseCases

TOKEN_PREFIX = "mf_"  # noqa: S105 - what every token starts with
MAX_TOKEN_CHARS = 256
CACHE_SECONDS = 30.0
CACHE_SIZE = 1 << 18
"""Tokens that are remembered; of a registry that has more, they are looked up one by one."""
MANY = 100
"""Tokens that were looked up one by one since the last refresh: a whole fleet is back, and it is time for one."""


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
            if known is None or known[1] < time.monotonic() or has_expired(known[0].expires_at, now):
                return None
            self._used[known[0].name] = now
            return known[0]

    def authenticate(self, token: str, now: datetime) -> Principal:
        """The principal of a token, from the database.

        Raises:
            UnauthorizedError: the token is not known (any more), or it has expired.
        """
        digest = hash_token(token)
        revocations = self._revocations
        with self._database.read() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.secret_hash == digest))
        if row is None or len(token) > MAX_TOKEN_CHARS or not hmac.compare_digest(row.secret_hash, digest):
            raise UnauthorizedError("The token is not known to this registry, or it was revoked.")
        if has_expired(row.expires_at, now):
            raise expired(row.expires_at)
        principal = principal_of(row)
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
        more = (TokenRow.grants, TokenRow.expires_at, TokenRow.person, TokenRow.made_by_person)
        columns = (TokenRow.secret_hash, TokenRow.name, TokenRow.scope, TokenRow.device, *more)
        with self._database.read() as session:
            rows = session.execute(select(*columns).limit(CACHE_SIZE + 1)).all()
        if len(rows) > CACHE_SIZE:
            return
        known: dict[str, tuple[Principal, float]] = {}
        for digest, name, scope, device, grants, expires_at, person, maker in rows:
            old = before.get(digest)
            was = old[0] if old is not None and not grants else None
            if was is None or was.grants or _told(was) != (name, scope, device, expires_at, person, maker):
                was = Principal(name, Scope(scope), device, grants_of(grants), expires_at, person, maker)
            known[digest] = (was, until)
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


_LASTS = TokenRow.expires_at.is_(None)
ADMIN_NAME = "admin"
"""The token of the first start, or the one that the configuration gives."""
MIN_TOKEN_CHARS = 32
MAX_FILE_BYTES = 4096
log = logging.getLogger(__name__)


def new_token() -> str:
    """`mf_` and 32 random bytes, URL-safe."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def device_token_name(device: str) -> str:
    """The name of a device's credential among the tokens; no name given by a person has a slash."""
    return f"device/{device}"


def put_device_token(session: Session, device: str, now: datetime) -> str:
    """A new credential in place of the device's old one, within the caller's transaction."""
    remove_device_token(session, device)
    token = new_token()
    session.add(
        TokenRow(
            name=device_token_name(device),
            scope=Scope.DEVICE,
            device=device,
            secret_hash=hash_token(token),
            created_at=now,
        )
    )
    session.flush()
    return token


def remove_device_token(session: Session, device: str) -> None:
    """The device's credential works no more, within the caller's transaction."""
    name = device_token_name(device)
    session.execute(delete(TokenRow).where(TokenRow.name == name))
    announce(session, Changed.TOKEN, name)


_GRANTS: TypeAdapter[tuple[RoleGrant, ...]] = TypeAdapter(tuple[RoleGrant, ...])
_NO_GRANTS: tuple[RoleGrant, ...] = ()


def grants_of(text: str) -> tuple[RoleGrant, ...]:
    """As a row has them."""
    return _GRANTS.validate_json(text) if text else _NO_GRANTS


def grants_text(grants: tuple[RoleGrant, ...]) -> str:
    """For a row."""
    return _GRANTS.dump_json(grants, exclude_defaults=True).decode()


def _told(principal: Principal) -> tuple[object, ...]:
    it = principal
    return it.name, it.scope, it.device, it.expires_at, it.person, it.made_by_person


def principal_of(row: TokenRow) -> Principal:
    """Whoever shows this token."""
    grants = grants_of(row.grants)
    return Principal(row.name, Scope(row.scope), row.device, grants, row.expires_at, row.person, row.made_by_person)


def has_expired(expires_at: datetime | None, now: datetime) -> bool:
    """Is its time over?"""
    return expires_at is not None and expires_at <= now


def expired(at: datetime | None) -> UnauthorizedError:
    """The refusal of a token whose time is over."""
    when = f" on {at.isoformat(timespec='seconds')}" if at is not None else ""
    return UnauthorizedError(f"The token has expired{when}. An administrator makes a new one: registry token create.")


def check_grants(grants: tuple[RoleGrant, ...]) -> None:
    """Raises InvalidError for a selector that is none."""
    for grant in grants:
        terms_of(grant.devices)


class Tokens(UseCases):
    """The use cases of token management; devices' credentials are not among these."""

    def create(self, body: TokenCreate, by: str, now: datetime) -> TokenCreated:
        """A new token.

        Raises:
            ConflictError: the name is taken.
            InvalidError: it would have expired already, or a selector is none.
        """
        if has_expired(body.expires_at, now):
            raise InvalidError("The token would have expired already: its end is not in the future.")
        grants = body.grants or of_scope(body.scope or Scope.READ)
        check_grants(grants)
        token, scope = new_token(), nearest_scope(grants)
        actor = acting()
        maker = actor.principal if actor is not None else None
        with self._database.write() as session:
            if session.get(TokenRow, body.name) is not None:
                raise ConflictError(f"There is a token named {body.name!r}; revoke it first, or choose another name.")
            session.add(
                TokenRow(
                    name=body.name,
                    scope=scope,
                    secret_hash=hash_token(token),
                    created_at=now,
                    grants=grants_text(grants),
                    expires_at=body.expires_at,
                    created_by=by,
                    person=body.person or "",
                    made_by_person=maker.person or maker.made_by_person if maker is not None else "",
                )
            )
        return TokenCreated(name=body.name, scope=scope, token=token, grants=grants, expires_at=body.expires_at)

    def page(self, after: str, limit: int) -> list[TokenView]:
        """Up to `limit` tokens by name, after the name `after`."""
        query = select(TokenRow).where(TokenRow.device.is_(None), TokenRow.name > after)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(TokenRow.name).limit(limit)).all()
        return [
            TokenView(
                name=row.name,
                scope=Scope(row.scope),
                created_at=row.created_at,
                last_used=row.last_used,
                grants=principal_of(row).rights,
                expires_at=row.expires_at,
                created_by=row.created_by,
                person=row.person,
            )
            for row in rows
        ]

    def revoke(self, name: str, now: datetime) -> None:
        """The token works no more. Raises NotFoundError, and ConflictError for the last administrator's."""
        with self._database.write() as session:
            row = session.get(TokenRow, name)
            if row is None or row.device is not None:
                raise NotFoundError(f"There is no token named {name!r}.")
            others = select(TokenRow.name).where(TokenRow.scope == Scope.ADMIN, TokenRow.name != name)
            others = others.where(or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now))
            if row.scope == Scope.ADMIN and session.scalar(others.limit(1)) is None:
                raise ConflictError("This is the last administrator's token; create another one first.")
            session.delete(row)
            announce(session, Changed.TOKEN, name)

    def ensure_admin(self, given: str | None, file: Path, now: datetime) -> bool:
        """At start: make sure that an administrator's token works; whether there was none before.

        Where nothing can be written, an administrator's token of an earlier start works on, and that is logged.

        Args:
            given: The token that the configuration names; it replaces the one named `admin`.
            file: Where a new token is written, mode 0600, when none is given and there is none.

        Raises:
            InvalidError: the given token is too short or too long to be safe.
            StartError: the file cannot be read or written, or what is in it is no token.
        """
        if given is not None:
            require_token(given, "The administrator's token")
        with self._database.read() as session:
            any_admin = session.scalar(select(TokenRow.name).where(TokenRow.scope == Scope.ADMIN, _LASTS).limit(1))
            row = session.get(TokenRow, ADMIN_NAME)
            same = (
                given is not None
                and row is not None
                and (row.scope, row.secret_hash)
                == (
                    Scope.ADMIN,
                    hash_token(given),
                )
            )
        if given is not None:
            try:
                if not same:
                    self._put_admin(ADMIN_NAME, given, now)
                if read_token(file) not in {None, given}:
                    file.unlink(missing_ok=True)  # the token of an earlier start, which works no more
            except (TemporaryError, OSError) as error:
                if any_admin is None:
                    raise
                log.warning(
                    "the administrator's token of the settings cannot be stored, the earlier one works: %s", error
                )
        elif any_admin is None:
            token = read_token(file)
            if token is None:
                token = new_token()
                write_token(file, token)  # before the row: a crash between the two is mended by the next start
            require_token(token, f"What is in {file}")
            self._put_admin(ADMIN_NAME, token, now)
        return any_admin is None

    def readmit(self, file: Path, name: str, now: datetime) -> str | None:
        """After a backup was put back: make sure that the token in the file is an administrator's. One that the
        database does not know gets this name; where there is none, one is made. The other tokens go on to work.

        Returns:
            The name, when a token was written into the database; None: the one in the file works.
        """
        token = read_token(file)
        with self._database.read() as session:
            admins = select(TokenRow.secret_hash).where(TokenRow.scope == Scope.ADMIN)
            if token is not None and hash_token(token) in set(session.scalars(admins)):
                return None
        token = token or new_token()
        write_token(file, token)
        self._put_admin(name, token, now)
        return name

    def _put_admin(self, name: str, token: str, now: datetime) -> None:
        with self._database.write() as session:
            row = session.get(TokenRow, name)
            if row is None:
                row = TokenRow(name=name, scope=Scope.ADMIN, secret_hash="", created_at=now)
                session.add(row)
            row.scope, row.secret_hash = Scope.ADMIN, hash_token(token)
            row.grants, row.expires_at = grants_text((RoleGrant(role=Role.ADMINISTRATOR),)), None
            announce(session, Changed.TOKEN, name)


def require_token(token: str, what: str) -> None:
    """Raises InvalidError for a token that is not safe or that no header can carry."""
    if not MIN_TOKEN_CHARS <= len(token) <= MAX_TOKEN_CHARS:
        raise InvalidError(f"{what} needs {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} characters.")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidError(f"{what} has characters that a token cannot have: letters, digits and signs of ASCII only.")


def read_token(file: Path) -> str | None:
    """The token in a file; None when there is no file or nothing in it. Raises StartError when it cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES).decode().strip() or None
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise StartError("token_file", f"There is no text in {file}, and so no token.") from None
    except OSError as error:
        raise StartError("token_file", f"The token file {file} cannot be read: {error.strerror}.") from error


def write_token(file: Path, token: str) -> None:
    """Write a token to a file that only its owner may read: whole or not at all. Raises StartError."""
    try:
        write_whole(file, f"{token}\n".encode())
    except OSError as error:
        raise StartError("token_file", f"The token file {file} cannot be written: {error.strerror}.") from error
