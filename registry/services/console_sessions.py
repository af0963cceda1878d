"""Who is signed in at the console: from a token, or a link that was made for one, to a session of a browser.

A session belongs to a token and may what the token may. It ends when the token is revoked, replaced or
has expired, when nobody used it for IDLE, after MOST at the latest, or when somebody ends it. Browser
and link carry 256 random bits, of which only the SHA-256 is kept.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from registry.contracts.api.answers import ConsoleLink
from registry.contracts.paths import CONSOLE_SIGN_IN
from registry.db.catalog_rows import TokenRow
from registry.db.console_rows import ConsoleLinkRow, ConsoleSessionRow
from registry.errors import ForbiddenError, NotFoundError, UnauthorizedError
from registry.services.access.principals import Principal
from registry.services.queries import UseCases
from registry.services.tokens import expired, has_expired, hash_token, principal_of

IDLE = timedelta(minutes=30)
MOST = timedelta(hours=12)
LINK = timedelta(minutes=15)
"""A link that was not used by then opens nothing."""
NOTED = timedelta(minutes=1)
"""So exactly it is known when a session was last used, so that a page seldom costs a write."""
MAX_OF_TOKEN = 50
"""Sessions, and unused links, of one token; the oldest go."""
MAX_SECRET_CHARS = 256
_NO_SESSION = "Sign in: there is no session, or it has ended."
_NO_LINK = "This sign-in link was used already, or it is too old. `registry console` prints a new one."


@dataclass(frozen=True)
class ConsoleSession:
    """One browser that signed in."""

    id: int
    token: str
    """Name of the token with which it signed in."""
    roles: str
    """What it may do, for people."""
    opened_at: datetime
    used_at: datetime
    ends_at: datetime
    """Unless it is used before."""
    browser: str
    address: str
    said: str = ""


class ConsoleSessions(UseCases):
    """The use cases of signing in."""

    def sign_in(self, token: str, now: datetime, browser: str = "", address: str = "") -> str:
        """The secret of a new session of this token.

        Raises:
            UnauthorizedError: the token is not known.
            ForbiddenError: it is a device's credential.
        """
        digest = hash_token(token)
        with self._database.write() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.secret_hash == digest))
            if row is None or len(token) > MAX_SECRET_CHARS:
                raise UnauthorizedError("The token is not known to this registry, or it was revoked.")
            if has_expired(row.expires_at, now):
                raise expired(row.expires_at)
            return _open(session, row, now, browser, address)

    def sign_in_by_link(self, code: str, now: datetime, browser: str = "", address: str = "") -> str:
        """The secret of a new session of the token for which the link was made; the link works no more.

        Raises:
            UnauthorizedError: the link was used, is too old, or its token is gone.
        """
        with self._database.write() as session:
            link = session.get(ConsoleLinkRow, hash_token(code))
            row = session.get(TokenRow, link.token) if link is not None else None
            if link is None or row is None or link.expires_at <= now or link.token_hash != row.secret_hash:
                raise UnauthorizedError(_NO_LINK)
            if has_expired(row.expires_at, now):
                raise expired(row.expires_at)
            session.delete(link)
            return _open(session, row, now, browser, address)

    def link(self, token: str, now: datetime) -> ConsoleLink:
        """A link that signs in once as the token of this name.

        Raises:
            NotFoundError: there is no such token.
            ForbiddenError: it is a device's credential.
        """
        code = secrets.token_urlsafe(32)
        with self._database.write() as session:
            row = _person(session.get(TokenRow, token), token)
            older = select(ConsoleLinkRow.secret_hash).where(ConsoleLinkRow.token == token)
            older = older.order_by(ConsoleLinkRow.expires_at.desc()).offset(MAX_OF_TOKEN - 1)
            for secret_hash in session.scalars(older).all():
                session.execute(delete(ConsoleLinkRow).where(ConsoleLinkRow.secret_hash == secret_hash))
            expires_at = now + LINK
            session.add(
                ConsoleLinkRow(
                    token=token, token_hash=row.secret_hash, secret_hash=hash_token(code), expires_at=expires_at
                )
            )
        return ConsoleLink(path=f"{CONSOLE_SIGN_IN}?code={code}", token=token, expires_at=expires_at)

    def find(self, secret: str, now: datetime, *, used: bool) -> tuple[Principal, ConsoleSession]:
        """Who is signed in. `used`: by a person, who moves the session's end on.

        Raises:
            UnauthorizedError: there is no such session (any more).
        """
        with self._database.read() as session:
            query = select(ConsoleSessionRow, TokenRow).join(TokenRow, TokenRow.name == ConsoleSessionRow.token)
            found = session.execute(query.where(ConsoleSessionRow.secret_hash == hash_token(secret))).one_or_none()
        if found is None or len(secret) > MAX_SECRET_CHARS:
            raise UnauthorizedError(_NO_SESSION)
        row, token = found
        view = _view(row, token)
        if row.token_hash != token.secret_hash or view.ends_at <= now or has_expired(token.expires_at, now):
            raise UnauthorizedError(_NO_SESSION)
        if used and now - row.used_at >= NOTED:
            with self._database.write() as session:
                session.execute(
                    update(ConsoleSessionRow)
                    .where(ConsoleSessionRow.id == row.id, ConsoleSessionRow.used_at < now)
                    .values(used_at=now)
                )
        return principal_of(token), view

    def say(self, number: int, text: str) -> None:
        """The session's next page tells this; empty: nothing more."""
        with self._database.write() as session:
            session.execute(update(ConsoleSessionRow).where(ConsoleSessionRow.id == number).values(said=text[:4000]))

    def page(self, token: str | None, before: int, limit: int, now: datetime) -> list[ConsoleSession]:
        """Up to `limit` sessions that have not ended, newest first, below this id; of one token, or None: of all."""
        query = select(ConsoleSessionRow, TokenRow).join(TokenRow, TokenRow.name == ConsoleSessionRow.token)
        query = query.where(
            ConsoleSessionRow.id < before,
            ConsoleSessionRow.token_hash == TokenRow.secret_hash,
            ConsoleSessionRow.used_at > now - IDLE,
            ConsoleSessionRow.opened_at > now - MOST,
            or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now),
        )
        if token is not None:
            query = query.where(ConsoleSessionRow.token == token)
        with self._database.read() as session:
            rows = session.execute(query.order_by(ConsoleSessionRow.id.desc()).limit(limit)).all()
        return [_view(row, of) for row, of in rows]

    def end(self, number: int, token: str | None = None) -> None:
        """End a session, at once. `token`: only if it is that token's. Raises NotFoundError."""
        query = delete(ConsoleSessionRow).where(ConsoleSessionRow.id == number)
        if token is not None:
            query = query.where(ConsoleSessionRow.token == token)
        with self._database.write() as session:
            if session.execute(query.returning(ConsoleSessionRow.id)).first() is None:
                raise NotFoundError(f"There is no session {number}, or it has ended.")

    def sweep(self, now: datetime) -> None:
        """Forget what has ended."""
        ended = or_(ConsoleSessionRow.used_at <= now - IDLE, ConsoleSessionRow.opened_at <= now - MOST)
        with self._database.write() as session:
            session.execute(delete(ConsoleSessionRow).where(ended))
            session.execute(delete(ConsoleLinkRow).where(ConsoleLinkRow.expires_at <= now))


def _person(row: TokenRow | None, name: str) -> TokenRow:
    if row is None:
        raise NotFoundError(f"There is no token named {name!r}.")
    if row.device is not None:
        raise ForbiddenError("A device's credential does not sign in at the console; use a person's token.")
    return row


def _open(session: Session, token: TokenRow, now: datetime, browser: str, address: str) -> str:
    secret = secrets.token_urlsafe(32)
    _person(token, token.name)
    older = select(ConsoleSessionRow.id).where(ConsoleSessionRow.token == token.name)
    for number in session.scalars(older.order_by(ConsoleSessionRow.id.desc()).offset(MAX_OF_TOKEN - 1)).all():
        session.execute(delete(ConsoleSessionRow).where(ConsoleSessionRow.id == number))
    session.add(
        ConsoleSessionRow(
            token=token.name,
            token_hash=token.secret_hash,
            secret_hash=hash_token(secret),
            opened_at=now,
            used_at=now,
            browser=browser[:200],
            address=address[:64],
        )
    )
    return secret


def _view(row: ConsoleSessionRow, token: TokenRow) -> ConsoleSession:
    return ConsoleSession(
        id=row.id,
        token=row.token,
        roles=principal_of(token).roles,
        opened_at=row.opened_at,
        used_at=row.used_at,
        ends_at=min(filter(None, (row.used_at + IDLE, row.opened_at + MOST, token.expires_at))),
        browser=row.browser,
        address=row.address,
        said=row.said,
    )
