"""How many connections there may be, of one address and of all, and which one gives way to another.

A process may open a bounded number of files, and each connection is one: where all are taken nobody is served. So the
bound follows from that of the process, which is raised to what the system allows, and one address has a part of it.
When an address has all of its part, or all connections are taken, one without a request is closed for the new one: of
that address, or of the address that has the most. A half-open connection holds up nobody so.
"""

from __future__ import annotations

import ipaddress
import logging
import resource
from collections.abc import Sequence
from typing import Protocol

from registry.config import Limits
from registry.core.shares import Holdings, Lack, part_of
from registry.services.shares import ShareRefusals

MOST_FILES = 1 << 17
"""More are of no use: it is several times the most connections that a setting can ask for in practice."""
OTHER_FILES = 128
"""The database, the store, the broker, the log, threads that read for all."""
_PREFIX = 64
"""Bits of an IPv6 address that name one network, whose hosts choose the rest."""
log = logging.getLogger(__name__)


def raise_open_files() -> int:
    """Allow this process as many open files as the system lets it have; how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if most > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays %d: %s", soft, error)
            return soft
        return most
    return soft


def connections_for(limits: Limits, files: int) -> int:
    """How many connections fit: each request may open a file besides, as a blob."""
    return max(8, min(limits.connections, (files - OTHER_FILES) // 2))


class Closable(Protocol):
    """A connection that can give way."""

    def give_way(self) -> None:
        """Ends it: it has no request."""


class Connections:
    """The open ones, by address; for one event loop.

    Args:
        total: Of all addresses.
        share: The part of one address.
        proxies: Networks whose hosts pass on what others ask: they have no part, they bound their own clients.
    """

    def __init__(self, total: int, share: float, proxies: Sequence[str], refusals: ShareRefusals) -> None:
        self._proxies = [ipaddress.ip_network(each) for each in proxies]
        self._held = Holdings(total, part_of(total, share))
        self._of_proxies = Holdings(total, total)
        self._refusals = refusals
        self._idle: dict[str, dict[Closable, None]] = {}
        self._address: dict[Closable, str] = {}
        self.refused = dict.fromkeys(Lack, 0)
        """Since the start, by reason."""
        self.gave_way = 0
        """Connections that were closed for others."""

    @property
    def total(self) -> int:
        """The most."""
        return self._held.total

    @property
    def each(self) -> int:
        """The most of one address."""
        return self._held.each

    @property
    def open(self) -> int:
        """How many there are now."""
        return len(self._address)

    def enter(self, connection: Closable, peer: str) -> Lack | None:
        """A new one, without a request yet; why it has no place."""
        address = address_of(peer)
        lack = self._take(address)
        if lack is not None:
            self.refused[lack] += 1
            if lack is Lack.OWN:
                self._refusals.note("connections", address)
            return lack
        self._address[connection] = address
        self._idle.setdefault(address, {})[connection] = None
        return None

    def busy(self, connection: Closable) -> None:
        """It has a request now."""
        address = self._address.get(connection)
        if address is not None and (idle := self._idle.get(address)) is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[address]

    def idle(self, connection: Closable) -> None:
        """Its request is answered."""
        address = self._address.get(connection)
        if address is not None:
            self._idle.setdefault(address, {})[connection] = None

    def leave(self, connection: Closable) -> None:
        """It ended. Again is allowed."""
        self.busy(connection)
        address = self._address.pop(connection, None)
        if address is not None:
            self._holdings(address).give(address)

    def _take(self, address: str) -> Lack | None:
        holdings = self._holdings(address)
        if self.open >= self.total and not self._make_room(address):
            return Lack.ALL
        lack = holdings.take(address)
        if lack is Lack.OWN and self._close_idle(address):
            lack = holdings.take(address)
        return lack

    def _make_room(self, address: str) -> bool:
        """Close one without a request of the address that has the most of those; not for one that has as many."""
        most = max(self._idle, key=lambda each: len(self._idle[each]), default=None)
        if most is None:
            return False
        own = self._holdings(address).held[address]
        return (most == address or len(self._idle[most]) > own) and self._close_idle(most)

    def _close_idle(self, address: str) -> bool:
        idle = self._idle.get(address)
        if not idle:
            return False
        oldest = next(iter(idle))
        self.leave(oldest)
        self.gave_way += 1
        oldest.give_way()
        return True

    def _holdings(self, address: str) -> Holdings:
        return self._of_proxies if self._is_proxy(address) else self._held

    def _is_proxy(self, address: str) -> bool:
        if not self._proxies:
            return False
        try:
            found = ipaddress.ip_network(address)
        except ValueError:
            return False
        return any(found.version == each.version and each.overlaps(found) for each in self._proxies)


def address_of(peer: str) -> str:
    """What counts as one address: of IPv6 a network of 64 bits; an IPv4 address that a socket of both families shows as
    one of IPv6 is that of IPv4."""
    if ":" not in peer:
        return peer
    try:
        found = ipaddress.IPv6Address(peer.partition("%")[0])
    except ValueError:
        return peer
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, _PREFIX), strict=False))
