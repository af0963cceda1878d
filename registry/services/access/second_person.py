"""The rule of two people: what changes what a device runs, or who speaks for it, is asked for, approved and then done.

`rule.writing` is the transaction of such a change. Where the rule is off, or the registry itself acts, it is any other.
Else it makes the change only if another person has approved exactly this one, and uses the approval up in the same
transaction. Otherwise it keeps the request and raises; after the approval whoever asked does the same again.

People are counted, not tokens. A token belongs to a person or to a program; behind a program's token stands the person
who made it. Only a person approves, and never the one behind the request.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from registry.contracts.api.answers import Scope
from registry.contracts.api.approvals import ChangeDecision, ChangeKind, ChangeState, ChangeView
from registry.contracts.wire import canonical_json, digest_of
from registry.db.access_rows import ChangeRow
from registry.db.engine import Database
from registry.errors import BusyError, ConflictError, ForbiddenError, NeedsApprovalError, NotFoundError
from registry.services.access.principals import Principal, acting

LASTS = timedelta(hours=24)
KEPT = timedelta(days=30)
MOST_WAITING = 200
"""Changes of one token that wait; the next one is refused."""


class SecondPerson:
    """Thread-safe. `required`: the rule is on."""

    def __init__(self, database: Database, *, required: bool) -> None:
        self._database, self.required = database, required

    @contextmanager
    def writing(self, kind: ChangeKind, subject: str, details: object, now: datetime) -> Iterator[Session]:
        """The transaction of a change.

        Args:
            kind: What is done.
            subject: To what.
            details: The rest of what was asked for, as JSON values: an approval is for exactly this.
            now: The registry's clock.

        Raises:
            NeedsApprovalError: nobody has approved it yet; the request is kept.
            BusyError: this token has MOST_WAITING requests that wait.
        """
        actor = acting()
        if not self.required or actor is None:
            with self._database.write() as session:
                yield session
            return
        text = canonical_json(details).decode()
        digest = digest_of(canonical_json([kind.value, subject, text, actor.principal.name]))
        with self._database.write() as session:
            query = select(ChangeRow).where(ChangeRow.digest == digest, ChangeRow.expires_at > now)
            open_ = ChangeRow.state.in_((ChangeState.WAITING.value, ChangeState.APPROVED.value))
            row = session.scalar(query.where(open_).order_by(ChangeRow.id.desc()).limit(1))
            if row is not None and row.state == ChangeState.APPROVED.value:
                row.state = ChangeState.DONE.value
                yield session
                return
            row = row or _ask(session, actor.principal, (kind, subject, text, digest), now)
        raise NeedsApprovalError(
            f"Nothing was changed: this registry asks for a second person. The request is {row.public}, "
            f"{kind} {subject}. Another person approves it: registry approvals approve {row.public}. "
            "Then do the same again."
        )

    def page(self, state: ChangeState | None, before: int, limit: int) -> list[tuple[int, ChangeView]]:
        """Up to `limit` changes below the key `before`, newest first, with their keys."""
        query = select(ChangeRow).where(ChangeRow.id < before)
        if state is not None:
            query = query.where(ChangeRow.state == state.value)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(ChangeRow.id.desc()).limit(limit)).all()
        return [(row.id, _view(row)) for row in rows]

    def decide(self, change: str, body: ChangeDecision, by: Principal, now: datetime) -> ChangeView:
        """Approve it or deny it.

        Raises:
            NotFoundError: there is no such change.
            ConflictError: it does not wait any more.
            ForbiddenError: it has to be another person.
        """
        with self._database.write() as session:
            row = session.scalar(select(ChangeRow).where(ChangeRow.public == change))
            if row is None:
                raise NotFoundError(f"There is no change {change!r}; old ones are forgotten after {KEPT.days} days.")
            if row.state != ChangeState.WAITING.value or row.expires_at <= now:
                over = "its time is over" if row.state == ChangeState.WAITING.value else f"it is {row.state}"
                raise ConflictError(f"Change {change} does not wait any more: {over}.")
            if body.approve:
                by.require_everywhere(Scope.APPROVE)
                require_another(by, row.asked_by, row.asked_person)
            row.state = (ChangeState.APPROVED if body.approve else ChangeState.DENIED).value
            row.decided_by, row.decided_at, row.note = by.name, now, body.note
            row.expires_at = now + LASTS if body.approve else row.expires_at
            return _view(row)

    def sweep(self, now: datetime) -> None:
        """Forget what ended long ago."""
        with self._database.write() as session:
            session.execute(delete(ChangeRow).where(ChangeRow.expires_at <= now - KEPT))


def require_another(who: Principal, asked_by: str, asked_person: str) -> None:
    """Raises ForbiddenError unless this is a person, and another one than whoever asked."""
    if not who.person:
        raise ForbiddenError(
            f"A person has to approve this, and {who.name!r} is the token of a program. "
            "An administrator makes one for you: registry token create NAME --person YOU --role approver."
        )
    if asked_person in (who.person, "") or asked_by in (who.name, who.person):
        unknown = f"{asked_by!r} is the token of a program that no person made, so nobody knows who asked for it"
        why = f"{asked_person!r} asked for it" if asked_person else unknown
        raise ForbiddenError(f"Another person has to approve this: {why}.")


def _ask(session: Session, who: Principal, request: tuple[ChangeKind, str, str, str], now: datetime) -> ChangeRow:
    kind, subject, details, digest = request
    waiting = select(func.count()).where(ChangeRow.asked_by == who.name, ChangeRow.state == ChangeState.WAITING.value)
    if (session.scalar(waiting.where(ChangeRow.expires_at > now)) or 0) >= MOST_WAITING:
        raise BusyError(f"{MOST_WAITING} changes of {who.name!r} wait for another person; that is the most.")
    row = ChangeRow(
        public=f"c-{secrets.token_hex(6)}", kind=kind.value, subject=subject, details=details, digest=digest,
        asked_by=who.name, asked_person=who.behind, asked_at=now, expires_at=now + LASTS,
        state=ChangeState.WAITING.value, decided_by="", note="",
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row


def _view(row: ChangeRow) -> ChangeView:
    return ChangeView(
        id=row.public, kind=ChangeKind(row.kind), subject=row.subject, details=row.details, asked_by=row.asked_by,
        asked_person=row.asked_person, asked_at=row.asked_at, expires_at=row.expires_at, state=ChangeState(row.state),
        decided_by=row.decided_by, decided_at=row.decided_at, note=row.note,
    )  # fmt: skip
