"""Leases of local programs, one small file each: `agent lease` writes them, the running agent reads them.

A lease is a request with a deadline, not a lock: a program that never releases it blocks nothing for ever. Files that
are not leases are counted as nothing and said once in the log; expired ones are removed."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from agent.adapters.disk.durable import write_atomically
from agent.core.local_policy import Lease, SteadyUntil
from agent.errors import PermanentError, TransientError
from registry.contracts.wire import Name, Wire

log = logging.getLogger(__name__)
MAX_LEASES = 64
MAX_LEASE = timedelta(days=7)
MAX_REASON = 200
_MAX_BYTES = 4096
_MAX_ID = 32


class _LeaseFile(Wire):
    until: AwareDatetime
    reason: str
    model: Name | None = None


class Leases:
    """The folder of leases. Any process of the agent's user may use it at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._said: set[str] = set()
        self._ends: dict[str, SteadyUntil] = {}

    def living(self, now: datetime, monotonic: float | None = None) -> list[Lease]:
        """Those that hold now, by id; the expired ones are removed.

        `monotonic`: the time of that clock, by a caller that asks again and again: a lease then lasts as long as it did
        when it was first seen, however the wall clock is set.
        """
        leases = []
        for path in sorted(self.folder.glob("*.json"))[: 2 * MAX_LEASES]:
            lease = self._read(path)
            if lease is None:
                continue
            if monotonic is not None:
                lease = replace(lease, until=self._steady(lease, now, monotonic))
            if lease.until <= now:
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            leases.append(lease)
        self._ends = {lease.id: self._ends[lease.id] for lease in leases if lease.id in self._ends}
        return leases

    def _steady(self, lease: Lease, now: datetime, monotonic: float) -> datetime:
        known = self._ends.get(lease.id)
        if known is None or known.until != lease.until:
            known = self._ends[lease.id] = SteadyUntil(lease.until, now, monotonic, MAX_LEASE)
        return known.at(now, monotonic)

    def add(self, until: datetime, reason: str, model: str | None, now: datetime) -> Lease:
        """Write a lease down.

        Raises:
            PermanentError: too long, too many, or the folder cannot be written.
        """
        if not now < until <= now + MAX_LEASE:
            raise PermanentError("bad_lease", f"a lease ends in the future, within {MAX_LEASE.days} days")
        if len(self.living(now)) >= MAX_LEASES:
            raise PermanentError("too_many_leases", f"{MAX_LEASES} leases are held already; give some back")
        lease = Lease(secrets.token_hex(4), until, reason[:MAX_REASON] or "no reason given", model)
        body = {"until": until.isoformat(), "reason": lease.reason, **({"model": model} if model else {})}
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.folder / f"{lease.id}.json", json.dumps(body).encode())
        except (OSError, TransientError) as error:
            raise PermanentError("bad_lease", f"the lease cannot be written: {error}") from None
        return lease

    def give_back(self, lease: str) -> None:
        """Remove a lease. PermanentError: there is none of that id."""
        unknown = f"there is no lease {lease[:_MAX_ID]!r}: it is over or given back; see: agent lease list"
        if not lease.isalnum() or len(lease) > _MAX_ID:
            raise PermanentError("no_such_lease", unknown)
        try:
            (self.folder / f"{lease}.json").unlink()
        except FileNotFoundError:
            raise PermanentError("no_such_lease", unknown) from None
        except OSError as error:
            why = f"lease {lease} cannot be removed: {error.strerror}; is this the agent's user?"
            raise PermanentError("bad_lease", why) from None

    def _read(self, path: Path) -> Lease | None:
        try:
            with path.open("rb") as file:
                found = _LeaseFile.model_validate_json(file.read(_MAX_BYTES))
        except (OSError, ValidationError) as error:
            if path.name not in self._said and len(self._said) < MAX_LEASES:
                self._said.add(path.name)
                log.warning("%s is no lease: %s", path, str(error).splitlines()[0])
            return None
        return Lease(path.stem, found.until, found.reason[:MAX_REASON], found.model)
