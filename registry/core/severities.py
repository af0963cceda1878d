"""How severe an event is: by what was told of it alone, so that a stored event has its severity for ever."""

from __future__ import annotations

from registry.contracts.api.events import Severity
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import Phase
from registry.contracts.rollout.states import RolloutState

_WAITS = frozenset(
    {
        DeploymentCode.MAINTENANCE_WINDOW.value,
        DeploymentCode.LEASE.value,
        DeploymentCode.METERED.value,
        DeploymentCode.HELD.value,
    }
)
_GOES_ON = frozenset(
    phase.value
    for phase in (
        Phase.OFFERED, Phase.DEFERRED, Phase.DOWNLOADING, Phase.VERIFIED, Phase.STAGED, Phase.WARMING, Phase.SHADOWING,
        Phase.SWITCHING, Phase.PROBATION,
    )
)  # fmt: skip
_BAD = frozenset(
    {RolloutState.ROLLING_BACK.value, RolloutState.ROLLED_BACK.value, RolloutState.ROLLBACK_INCOMPLETE.value}
)
_UNFINISHED = frozenset(
    {
        RolloutState.PAUSED.value, RolloutState.DENIED.value, RolloutState.ABORTING.value, RolloutState.ABORTED.value,
        RolloutState.EXPIRING.value, RolloutState.COMPLETED_WITH_EXCEPTIONS.value,
    }
)  # fmt: skip


def of_device(phase: str, code: str) -> Severity:
    """Of what a device told.

    Args:
        phase: The deployment's phase, or the part of the agent.
        code: Why; empty: nothing failed.
    """
    if code in _WAITS or (not code and phase != "degraded"):
        return Severity.INFO
    return Severity.WARNING if not code or phase in _GOES_ON else Severity.ERROR


def of_rollout(after: str, by: str) -> Severity:
    """Of a rollout that is in the state `after` now.

    Args:
        after: A `RolloutState`.
        by: Who commanded it; empty: it did so by itself.
    """
    if after in _BAD or (after == RolloutState.PAUSED.value and not by):
        return Severity.ERROR
    return Severity.WARNING if after in _UNFINISHED else Severity.INFO
