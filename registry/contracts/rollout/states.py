"""The states of a rollout, of a wave, of one device in it; and what a person may ask.

Which command is legal in which state, and what moves a device, are the tables in `registry/core/rollouts`.
"""

from __future__ import annotations

from registry.contracts.enums import StrEnum


class RolloutState(StrEnum):
    """Where a rollout is. Which command is legal in which: `registry/core/rollouts/machine.py`."""

    DRAFT = "draft"
    PLANNING = "planning"
    """Devices, variants and waves are being worked out, to be frozen."""
    AWAITING_APPROVAL = "awaiting_approval"
    DENIED = "denied"
    SCHEDULED = "scheduled"
    """Waits for `start_at`."""
    RUNNING = "running"
    PAUSED = "paused"
    """No new offers. Always with one reason."""
    ABORTING = "aborting"
    """What has not switched is withdrawn; what has, ends its probation."""
    ABORTED = "aborted"
    ROLLING_BACK = "rolling_back"
    """Each device returns to its own last good version."""
    ROLLED_BACK = "rolled_back"
    ROLLBACK_INCOMPLETE = "rollback_incomplete"
    """Some devices did not come back; they are listed."""
    EXPIRING = "expiring"
    """`valid_until` is over: as `aborting`."""
    SUCCEEDED = "succeeded"
    """Every device that could get it was seen serving it."""
    COMPLETED_WITH_EXCEPTIONS = "completed_with_exceptions"
    """It is over; some devices do not serve it, each with its reason."""


class Command(StrEnum):
    """What a person may ask of a rollout."""

    SUBMIT = "submit"
    """Plan it; then it waits for approval where it needs one."""
    APPROVE = "approve"
    DENY = "deny"
    PAUSE = "pause"
    RESUME = "resume"
    """Go on: the failures so far are accepted, and the gate counts from zero again."""
    ABORT = "abort"
    ROLLBACK = "rollback"
    RETRY = "retry"
    """A new generation for the devices that failed."""
    DELETE = "delete"


class WaveState(StrEnum):
    """Where one wave is."""

    PENDING = "pending"
    RELEASING = "releasing"
    """Devices are being offered it, as fast as the rate allows."""
    SOAKING = "soaking"
    """Enough have committed; it is watched for `soak_s`."""
    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class ActionState(StrEnum):
    """One device in a rollout: the device's own phases, and what only the registry can say."""

    PLANNED = "planned"
    """Not yet told."""
    OFFERED = "offered"
    """In its desired state; it has not said anything yet, or only that it saw it."""
    DEFERRED = "deferred"
    DOWNLOADING = "downloading"
    VERIFIED = "verified"
    STAGED = "staged"
    WARMING = "warming"
    SHADOWING = "shadowing"
    SWITCHING = "switching"
    PROBATION = "probation"
    ROLLING_BACK = "rolling_back"
    CONFIRMING = "confirming"
    """The device says committed; the registry has not yet seen it serve that digest."""
    COMMITTED = "committed"
    """Committed, and seen serving the digest: the only success."""
    COMMITTED_LATE = "committed_late"
    """The same, after it had been timed out; counted apart."""
    REGRESSED = "regressed"
    """Committed once, and later seen serving something else that nobody asked for."""
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """Somebody wants another version on this device now: another rollout, a deployment."""
    CANCELLED = "cancelled"
    """Withdrawn by abort, rollback or expiry before it switched."""
    ALREADY_CURRENT = "already_current"
    """Served it before the rollout came; no success of the rollout."""
    INCOMPATIBLE = "incompatible"
    """No variant fits its facts."""
    REJECTED = "rejected"
    """The device refused this deployment: quarantine, expired desired state."""
    TIMED_OUT = "timed_out"
    """Silent for too long in one phase; counted as unknown."""
    EXCLUDED = "excluded"
    """Offline: out of its wave's denominator, and follows in the tail wave when it is back."""
    DECOMMISSIONED = "decommissioned"
    """Removed from the registry meanwhile."""
