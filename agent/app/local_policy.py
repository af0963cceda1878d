"""The local policy of this host, by its settings, leases and network: fits `core.local_policy` into the port."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from agent.adapters.disk.leases import Leases
from agent.core.local_policy import HostNow, HostPolicy, Wait, may_download, may_switch
from registry.contracts.device.deployments import DeploymentPolicy


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
