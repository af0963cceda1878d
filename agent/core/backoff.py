"""The pauses between tries on this host, and when to stop trying.

An outage (registry, disk, network, a credential that is not valid yet) and bytes that were spoilt on the way are waited
out for ever, ever more slowly: nobody has to touch the device when it ends.
What fails on this host by itself (a load, a crash) has a limit, then waits for a person.
"""

from __future__ import annotations

from registry.contracts.backoff import Backoff
from registry.contracts.codes import DeploymentCode as Code

OUTAGES = frozenset(
    {
        *(Code.REGISTRY_UNREACHABLE, Code.CREDENTIAL_REFUSED, Code.INSUFFICIENT_DISK, Code.DISK_ERROR),
        *(Code.FACTS_UNKNOWN, Code.METADATA_STALE, Code.METADATA_REFUSED),
    }
)
SPOILT = frozenset({Code.BAD_ANSWER, Code.MANIFEST_MISMATCH, Code.DIGEST_MISMATCH})
"""As the code of a TransientError: what came is not what the registry holds, or the registry's copy is damaged."""
LONGEST_S: dict[str, float] = {
    Code.CREDENTIAL_REFUSED: 30.0,
    Code.METADATA_STALE: 30.0,
    Code.DIGEST_MISMATCH: 3600.0,
}
"""Where it is not the usual longest pause: a new credential and new signatures are taken soon, a gigabyte
is not fetched in vain often."""


def exhausted(pauses: Backoff, attempt: int, code: str) -> bool:
    """Is `attempt` the last one? Never for an outage, nor for what was spoilt on the way."""
    return pauses.exhausted(attempt) and code not in OUTAGES and code not in SPOILT


DEPLOYMENT = Backoff(first_s=1.0, cap_s=300.0, limit=8)
"""Between the tries of a deployment."""
RESTART = Backoff(first_s=0.2, cap_s=60.0, limit=10)
"""Between the starts of a worker that dies."""
REPAIR = Backoff(first_s=0.2, cap_s=300.0)
"""Between the tries to bring back what served and cannot be started now: for ever, nobody has to touch the device."""
STABLE_AFTER_S = 120.0
"""A worker that served this long has its earlier deaths forgiven."""
ROLLBACK_TRIES = 5
"""Starts of the previous version before the rollback is told as failed; it is then tried on, every REPAIR_S."""
REPAIR_S = 300.0
LOOK_AGAIN = Backoff(first_s=30.0, cap_s=600.0)
"""Between looks at a host of which something is not known."""
HOST_LOOK_S = 60.0
"""Between looks at whether drivers, chips or packages have changed; cheap while they have not."""

RETRIABLE = OUTAGES | {
    Code.ATTEMPTS_EXHAUSTED,
    Code.WORKER_CRASHED,
    Code.LOAD_TIMEOUT,
    Code.MEMORY_INSUFFICIENT,
    Code.ROLLBACK_FAILED,
    Code.BAD_ANSWER,
    Code.DIGEST_MISMATCH,
    Code.MANIFEST_UNTRUSTED,
}
BROKEN = frozenset({Code.DIGEST_MISMATCH, Code.DISK_ERROR})
"""The files in the cache are gone or wrong: they have to be pulled again before a start is of use."""
VERIFIED = frozenset(
    {
        Code.VARIANT_UNFIT,
        Code.ENTRY_POINT_DISABLED,
        Code.ENTRY_POINT_UNTRUSTED,
        Code.ENTRY_POINT_SIGNATURE,
    }
)
"""Reasons that hold until something is changed: this host was looked at again, or its settings say so."""
OF_HOST = frozenset({Code.NO_FITTING_VARIANT, Code.VARIANT_UNFIT, Code.BACKEND_UNAVAILABLE, Code.LOAD_FAILED})
"""A host that changed may run what failed so."""
JUDGED = frozenset(
    {
        Code.GOLDEN_MISMATCH,
        Code.SHADOW_DISAGREES,
        Code.PROBATION_ERRORS,
        Code.PROBATION_LATENCY,
        Code.PROBATION_NAN,
        Code.PROBATION_CRASHES,
        Code.QUARANTINED,
        Code.MANIFEST_MISMATCH,
        Code.REGISTRY_REFUSED,
        Code.DESIRED_EXPIRED,
    }
)
"""What no restart of this host changes."""


def is_retriable(code: str) -> bool:
    """Could another attempt succeed without anything being changed?"""
    return code in RETRIABLE
