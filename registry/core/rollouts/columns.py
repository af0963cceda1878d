"""The states of a rollout's devices in the few columns that people read."""

from __future__ import annotations

from collections.abc import Mapping

from registry.contracts.rollout.states import ActionState

_A = ActionState
COLUMNS: dict[str, frozenset[ActionState]] = {
    "WAITING": frozenset({_A.PLANNED, _A.OFFERED, _A.DEFERRED, _A.EXCLUDED}),
    "UNDER WAY": frozenset({_A.DOWNLOADING, _A.VERIFIED, _A.STAGED, _A.WARMING, _A.SHADOWING, _A.SWITCHING,
                            _A.PROBATION, _A.ROLLING_BACK, _A.CONFIRMING}),
    "COMMITTED": frozenset({_A.COMMITTED, _A.COMMITTED_LATE}),
    "FAILED": frozenset({_A.FAILED, _A.ROLLED_BACK, _A.ROLLBACK_FAILED, _A.REJECTED, _A.REGRESSED}),
    "UNKNOWN": frozenset({_A.TIMED_OUT}),
    "APART": frozenset({_A.ALREADY_CURRENT, _A.INCOMPATIBLE, _A.SUPERSEDED, _A.CANCELLED, _A.DECOMMISSIONED}),
}  # fmt: skip
"""Every state of a device stands in exactly one column (a test says so)."""
BACK = "BACK"
"""Of devices that returned to their last good version: not a state of its own, but `committed` on the way back."""


def counted(counts: Mapping[ActionState, int], back: Mapping[ActionState, int] | None = None) -> dict[str, int]:
    """Devices per column. `back`: those of them that were told to go back; who committed there is back."""
    returned = sum((back or {}).get(state, 0) for state in COLUMNS["COMMITTED"])
    found = {name: sum(counts.get(state, 0) for state in states) for name, states in COLUMNS.items()}
    found["COMMITTED"] -= returned
    columns = list(found.items())
    columns.insert(list(found).index("COMMITTED") + 1, (BACK, returned))
    return dict(columns)
