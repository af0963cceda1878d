"""The local policy of this host, by its settings, the leases of local programs and its network.

A lease is a request with a deadline, not a lock: a program that never releases it blocks nothing for ever. Each is one
small file: `agent lease` writes them, the running agent reads them. Files that are not leases are counted as nothing
and said once in the log; expired ones are removed.

Does the network cost by the byte? As the settings say, or as NetworkManager knows of its primary connection: its D-Bus
property `Metered` (NMMetered: 0 unknown, 1 yes, 2 no, 3 guessed yes, 4 guessed no), read with busctl. Where it cannot
be asked the network counts as not metered: a device must not wait for ever for a network that it has.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from agent.adapters.disk.durable import write_atomically
from agent.adapters.facts.vendor_tool import ToolError, run_tool
from agent.core.local_policy import HostNow, HostPolicy, Lease, SteadyUntil, Wait, may_download, may_switch
from agent.errors import PermanentError, TransientError
from registry.contracts.device.deployments import DeploymentPolicy
from registry.contracts.wire import Name, Wire

log = logging.getLogger(__name__)
ASK_EVERY_S = 60.0
TIMEOUT_S = 2.0
_NAME = "org.freedesktop.NetworkManager"
COMMAND = ("busctl", "--system", "get-property", _NAME, "/org/freedesktop/NetworkManager", _NAME, "Metered")
_YES = frozenset({"1", "3"})


class Metered:
    """Never blocks: an answer is at most ASK_EVERY_S and one question old. Thread-safe."""

    def __init__(self, setting: Literal["no", "yes", "auto"], ask: Callable[[], str] | None = None) -> None:
        """`ask` gives what busctl prints; default: asks it."""
        self._setting = setting
        self._ask = ask or partial(run_tool, COMMAND, os.environ, timeout_s=TIMEOUT_S, limit=256)
        self._known = setting == "yes"
        self._asked_at = float("-inf")
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        """True: it costs by the byte."""
        if self._setting == "auto" and time.monotonic() - self._asked_at >= ASK_EVERY_S and self._lock.acquire(False):
            self._asked_at = time.monotonic()
            threading.Thread(target=self._look, name="metered", daemon=True).start()
        return self._known

    def _look(self) -> None:
        try:
            found = re.fullmatch(r"u ([0-4])\s*", self._ask())
            self._known = found is not None and found[1] in _YES
        except ToolError as error:
            log.info("whether the network is metered is not known: %s", error)
            self._known = False
        finally:
            self._lock.release()


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


class HostLocalPolicy:
    """Implements `agent.reconciler.ports.LocalPolicy`."""

    def __init__(
        self,
        policy: HostPolicy,
        leases: Leases,
        metered: Callable[[], bool],
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._leases, self._metered, self._now = policy, leases, metered, now
        self._monotonic = monotonic

    def may_download(
        self, model: str, policy: DeploymentPolicy, offered_at: datetime, missing_bytes: int
    ) -> Wait | None:
        """None: now; else why it waits, by the window, the size and the network."""
        at = HostNow(self._now(), offered_at, metered=self._metered())
        return may_download(model, policy, self._policy, at, missing_bytes)

    def may_switch(self, model: str, policy: DeploymentPolicy, offered_at: datetime) -> Wait | None:
        """None: now; else why it waits, by the window and the leases of local programs."""
        now = self._now()
        leases = self._leases.living(now, self._monotonic())
        return may_switch(model, policy, self._policy, HostNow(now, offered_at, leases=leases))
