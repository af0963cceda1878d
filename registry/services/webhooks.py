"""Webhooks: events POSTed to a URL, signed, in order, at least once.

Each webhook has a cursor into the fleet's log, which moves on after an answer below 300. Anything else is tried again
with a growing pause; after too many in a row the webhook is disabled, which its view shows. Where it is POSTed to
is resolved and judged at every delivery, and the connection goes to the very address that was judged, so that a name
cannot lead inside by changing its mind. Redirects are not followed, answers are not read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import httpx
from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from registry.contracts.backoff import Backoff
from registry.contracts.rollout.views import WebhookCreate, WebhookCreated, WebhookView
from registry.db.engine import Database
from registry.db.rollout_rows import WebhookRow
from registry.errors import ConflictError, InvalidError
from registry.services.fleet.fleet_log import FleetLog, LogEntry
from registry.services.queries import found

KINDS = ("rollout", "wave", "device")
DEFAULT_KINDS = ("rollout", "wave")
MAX_WEBHOOKS = 64
RETRY = Backoff(first_s=2.0, cap_s=3600.0, limit=40)
"""About a day; then it is disabled."""
BATCH = 50
"""Events that one pass delivers to one webhook."""
TIMEOUT_S = 10.0
"""For one delivery, from looking the name up to the answer's status."""
SIGNATURE = "modelfleet-signature"
"""Header: `t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>." + body>`, keyed by the secret as it was shown."""
CURSOR = "modelfleet-cursor"
"""Header: the event's cursor; one that was seen before is a repeat."""
LOOK_UP_S = 3.0
"""For the name in a URL that is being set."""
PASS_S = 10.0
"""After so long the rest of a webhook's events waits for the next pass: a slow receiver holds up no other."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
"""Upper half of the interface identifier (RFC 5214, section 6.1); the lower half is an IPv4 address."""
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""Whatever else there is in IPv6 is wrapped, local or reserved (RFC 4291, section 2.4)."""


class InsideError(OSError):
    """An address that is not of the public internet."""


def sign(secret: str, at: int, body: bytes) -> str:
    """The signature header for a body sent at this unix time."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def is_public(address: str) -> bool:
    """Is this an address of the public internet, whatever it is wrapped in?"""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inside is not None:
            return is_public(str(inside))
        if ip not in _GLOBAL_UNICAST:
            return False
        if int(ip) >> 32 & 0xFFFFFFFF in _ISATAP:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


@dataclass(frozen=True)
class _Due:
    """A webhook and what it is to get."""

    hook: WebhookRow
    entries: list[LogEntry]
    newest: int
    """Up to here everything was looked at."""


class Webhooks:
    """Their use cases, and the delivery."""

    def __init__(self, database: Database, log: FleetLog, *, allow_private: bool = False) -> None:
        self._database = database
        self._log = log
        self._allow_private = allow_private

    def put(self, name: str, body: WebhookCreate, now: datetime) -> WebhookCreated | WebhookView:
        """Make one, whose secret is shown only now; or change one, which switches it on again.

        Raises:
            InvalidError: the URL or a kind is not allowed; the URL leads into a private network.
            ConflictError: there are MAX_WEBHOOKS.
        """
        _check(body)
        if not self._allow_private:
            asyncio.run(self._refuse_inside(httpx.URL(body.url)))
        newest = self._log.bounds()[1]
        with self._database.write() as session:
            row = session.get(WebhookRow, name)
            created = row is None
            if row is None:
                if len(session.scalars(select(WebhookRow.name)).all()) >= MAX_WEBHOOKS:
                    raise ConflictError(f"There are {MAX_WEBHOOKS} webhooks; delete one first.")
                secret = "whsec_" + secrets.token_urlsafe(32)
                row = WebhookRow(name=name, secret=secret, cursor=newest, created_at=now, lost=0)
                session.add(row)
            row.url, row.kinds = body.url, list(body.kinds)
            row.failures, row.last_error, row.next_try, row.disabled_at = 0, "", None, None
            session.flush()
            view, secret = _view(row), row.secret
        return WebhookCreated(webhook=view, secret=secret) if created else view

    def get(self, name: str) -> WebhookView:
        """One webhook. Raises NotFoundError."""
        with self._database.read() as session:
            return _view(_find(session, name))

    def page(self, after: str, limit: int) -> list[WebhookView]:
        """Up to `limit` webhooks by name, after the name `after`."""
        query = select(WebhookRow).where(WebhookRow.name > after).order_by(WebhookRow.name).limit(limit)
        with self._database.read() as session:
            return [_view(row) for row in session.scalars(query)]

    def delete(self, name: str) -> None:
        """Forget one. Raises NotFoundError."""
        with self._database.write() as session:
            session.delete(_find(session, name))

    def deliver(self, clock: Callable[[], datetime]) -> int:
        """One pass over the webhooks that are due; how many events were taken. Writes nothing when there are none."""
        due = self._due(clock())
        if not due:
            return 0
        return asyncio.run(self._deliver_all(due, clock))

    def _due(self, now: datetime) -> list[_Due]:
        oldest, newest = self._log.bounds()
        set_back = WebhookRow.next_try > now + timedelta(seconds=RETRY.cap_s)
        ready = or_(WebhookRow.next_try.is_(None), WebhookRow.next_try <= now, set_back)
        query = select(WebhookRow).where(WebhookRow.disabled_at.is_(None), WebhookRow.cursor < newest, ready)
        with self._database.read() as session:
            rows = session.scalars(query).all()
        due = []
        for row in rows:
            self._count_lost(row, oldest)
            entries = self._log.after(row.cursor, BATCH, kinds=row.kinds or DEFAULT_KINDS)
            last = newest if len(entries) < BATCH else entries[-1].cursor
            due.append(_Due(row, entries, last))
        return due

    def _count_lost(self, row: WebhookRow, oldest: int) -> None:
        if row.cursor < oldest - 1:
            passed = {"lost": WebhookRow.lost + (oldest - 1 - row.cursor), "cursor": oldest - 1}
            with self._database.write() as session:
                session.execute(
                    update(WebhookRow)
                    .where(WebhookRow.name == row.name, WebhookRow.cursor == row.cursor)
                    .values(**passed)
                )
            row.cursor = oldest - 1

    async def _deliver_all(self, due: list[_Due], clock: Callable[[], datetime]) -> int:
        verify = httpx.create_ssl_context()
        async with httpx.AsyncClient(verify=verify, trust_env=False, follow_redirects=False) as client:
            taken = await asyncio.gather(*(self._deliver(client, each, clock) for each in due))
        return sum(taken)

    async def _deliver(self, client: httpx.AsyncClient, due: _Due, clock: Callable[[], datetime]) -> int:
        cursor, error, began = due.hook.cursor, "", time.monotonic()
        for done, entry in enumerate(due.entries):
            if done and time.monotonic() - began > PASS_S:
                self._save(due, cursor, done, "", clock())
                return done
            error = await _within(TIMEOUT_S, self._post(client, due, entry, clock()))
            if error:
                self._save(due, cursor, done, error, clock())
                return done
            cursor = entry.cursor
        self._save(due, max(cursor, due.newest), len(due.entries), "", clock())
        return len(due.entries)

    async def _post(self, client: httpx.AsyncClient, due: _Due, entry: LogEntry, now: datetime) -> str:
        """Why it was not taken; empty when it was."""
        url = httpx.URL(due.hook.url)
        address = await self._resolve(url)
        body = entry.document.encode()
        headers = {
            "Host": url.netloc.decode(),
            "Content-Type": "application/json",
            SIGNATURE: sign(due.hook.secret, int(now.timestamp()), body),
            CURSOR: str(entry.cursor),
        }
        request = client.build_request(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers=headers,
            extensions={"sni_hostname": url.host} if url.scheme == "https" else {},
            timeout=TIMEOUT_S,
        )
        answer = await client.send(request, stream=True)
        await answer.aclose()
        return "" if answer.status_code < 300 else f"answered {answer.status_code}"

    async def _refuse_inside(self, url: httpx.URL) -> None:
        """A name that cannot be looked up now may be set: every delivery judges again."""
        try:
            await asyncio.wait_for(self._resolve(url), LOOK_UP_S)
        except InsideError as error:
            raise InvalidError(f"{error}.") from error
        except (asyncio.TimeoutError, OSError, ValueError):
            return

    async def _resolve(self, url: httpx.URL) -> str:
        """An address that may be connected to. Raises OSError, also where none may be: InsideError."""
        port = url.port or (443 if url.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise InsideError(
                f"{url.host} is inside a private network; set webhooks.allow_private to let events go there"
            )
        return addresses[0]

    def _save(self, due: _Due, cursor: int, taken: int, error: str, now: datetime) -> None:
        """Where it stands now, unless a PUT came between."""
        values: dict[str, object] = {"cursor": cursor, "failures": 0, "last_error": "", "next_try": None}
        if error:
            failures = (0 if taken else due.hook.failures) + 1
            pause = timedelta(seconds=RETRY.delay(failures))
            values |= {"failures": failures, "last_error": error[:500], "next_try": now + pause}
            if RETRY.exhausted(failures):
                values["disabled_at"] = now
        same = (WebhookRow.name == due.hook.name, WebhookRow.url == due.hook.url, WebhookRow.cursor == due.hook.cursor)
        with self._database.write() as session:
            session.execute(update(WebhookRow).where(*same).values(**values))


async def _within(seconds: float, delivery: Awaitable[str]) -> str:
    try:
        return await asyncio.wait_for(delivery, seconds)
    except asyncio.TimeoutError:
        return f"no answer within {seconds:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # ValueError: a name that is none
        return f"{type(error).__name__}: {error}"


def _check(body: WebhookCreate) -> None:
    unknown = [kind for kind in body.kinds if kind not in KINDS]
    if unknown:
        raise InvalidError(f"There are events of the kinds {', '.join(KINDS)}; not {', '.join(unknown)[:100]}.")
    try:
        parts = urlsplit(body.url)
        host, _port = httpx.URL(body.url).host, parts.port
    except (ValueError, httpx.InvalidURL) as error:
        raise InvalidError(f"Not a URL: {error}.") from error
    if not host or parts.username or parts.password or parts.fragment:
        raise InvalidError("A webhook's URL has a host, and neither a user nor a fragment.")


def _find(session: Session, name: str) -> WebhookRow:
    return found(session.get(WebhookRow, name), f"There is no webhook named {name!r}.")


def _view(row: WebhookRow) -> WebhookView:
    return WebhookView(
        name=row.name,
        url=row.url,
        kinds=tuple(row.kinds),
        cursor=row.cursor,
        failures=row.failures,
        last_error=row.last_error,
        next_try=row.next_try,
        lost=row.lost,
        disabled_at=row.disabled_at,
    )
