"""The local policy: when a deployment may download, and when it may switch. Pure.

The registry comes first: a policy that is `urgent` is never held up. Nothing here holds for ever: a window
opens again, and leases and a metered network hold a deployment no longer than `max_defer_s` after it was offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from agent.core.windows import Window, next_opening, open_now
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import DeploymentPolicy


@dataclass(frozen=True)
class Lease:
    """A local program's request that nothing be switched for a while: it has a deadline, so it cannot leak."""

    id: str
    until: datetime
    reason: str
    model: str | None = None
    """None: every model."""


@dataclass(frozen=True)
class HostPolicy:
    """As the settings say it."""

    windows: tuple[Window, ...] = ()
    """Empty: always."""
    zone: tzinfo | None = None
    """The host's, for the windows. None: UTC."""
    max_defer: timedelta = timedelta(days=1)
    """After being offered for so long, a deployment is held up by leases and a metered network no more."""


@dataclass(frozen=True)
class HostNow:
    """What holds at this moment."""

    now: datetime
    offered_at: datetime
    """When this device first saw the deployment."""
    metered: bool = False
    """The network costs by the byte."""
    leases: Sequence[Lease] = ()


@dataclass(frozen=True)
class Wait:
    """Not now: why, and when it will be looked at again at the latest."""

    code: DeploymentCode
    message: str
    until: datetime


def may_download(
    model: str, policy: DeploymentPolicy, host: HostPolicy, at: HostNow, missing_bytes: int
) -> Wait | None:
    """None: go on. Nothing that is on this disk already is held up by a metered network."""
    if policy.urgent or not at.metered or missing_bytes == 0:
        return None
    deadline = at.offered_at + host.max_defer
    if at.now >= deadline:
        return None
    text = f"{missing_bytes} bytes of {model} wait for a network that does not cost by the byte"
    return Wait(DeploymentCode.METERED, text, deadline)


def may_switch(model: str, policy: DeploymentPolicy, host: HostPolicy, at: HostNow) -> Wait | None:
    """None: go on. Asked just before the switch, after everything was downloaded and verified."""
    if policy.urgent:
        return None
    lease = _holding(model, host, at)
    if lease is not None:
        until = min(lease.until, at.offered_at + host.max_defer)
        return Wait(DeploymentCode.LEASE, f"lease {lease.id}: {lease.reason}", until)
    zone = host.zone or at.now.tzinfo
    if zone is None or open_now(host.windows, at.now, zone):
        return None
    opens = next_opening(host.windows, at.now, zone)
    if opens is None:
        return None
    return Wait(DeploymentCode.MAINTENANCE_WINDOW, f"the next maintenance window opens at {opens.isoformat()}", opens)


def _holding(model: str, host: HostPolicy, at: HostNow) -> Lease | None:
    """The lease that lasts longest, of those that hold this model now."""
    if at.now >= at.offered_at + host.max_defer:
        return None
    living = [lease for lease in at.leases if lease.model in (None, model) and lease.until > at.now]
    return max(living, key=lambda lease: (lease.until, lease.id), default=None)
