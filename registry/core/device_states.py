"""In which state a device is: what follows from its signs of life, from what it should serve and from what it reported.

The states and their meanings are `ConnectionState` and `SlotState` of `registry/contracts/api/fleet.py`. Pure: rows of
`device_index` and `device_slots` are always what these functions say of the raw rows. Whoever changes a rule raises
RULES: the rows are then made again at the next start.

A connection state may change by time alone; `connection` says when to look again. What a device says counts for a slot
only where it speaks of the manifest and the attempt that are wanted now: no generations are compared, so a report of
before a restore is judged by what it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry.contracts.api.fleet import ConnectionState, SlotState
from registry.contracts.codes import QUARANTINES, DeviceReasonCode
from registry.contracts.device.deployments import Phase
from registry.contracts.device.messages import ServingState

RULES = 1
"""The revision of the rules in this file."""

_C, _S = ConnectionState, SlotState

THERE = frozenset({_C.ONLINE, _C.HTTP_ONLY, _C.LATE})
"""The same as `registry.core.presence.is_online`."""
HEARD = frozenset({_C.ONLINE, _C.HTTP_ONLY})
"""A sign of life does not change these."""
THERE = HEARD | {_C.LATE}
"""Of a device that is online: its patience is not over."""

WORST_FIRST = (
    _S.DOWN,
    _S.FAILING,
    _S.QUARANTINED,
    _S.WENT_BACK,
    _S.ROLLING_BACK,
    _S.RECOVERING,
    _S.TRYING,
    _S.DOWNLOADING,
    _S.WAITING,
    _S.ASSIGNED,
    _S.LEAVING,
    _S.SERVING,
    _S.IDLE,
)
"""Which state of its models a device is said to be in."""
BAD = frozenset({_S.DOWN, _S.FAILING, _S.QUARANTINED, _S.WENT_BACK})
"""These have a code."""
NO_CODE = DeviceReasonCode.UNEXPLAINED
"""Of a failure for which the device gave none."""

OF_PHASE: dict[Phase, SlotState] = {
    Phase.OFFERED: _S.ASSIGNED,
    Phase.DEFERRED: _S.WAITING,
    Phase.DOWNLOADING: _S.DOWNLOADING,
    Phase.VERIFIED: _S.DOWNLOADING,
    Phase.STAGED: _S.WAITING,
    Phase.WARMING: _S.TRYING,
    Phase.SHADOWING: _S.TRYING,
    Phase.SWITCHING: _S.TRYING,
    Phase.PROBATION: _S.TRYING,
    Phase.COMMITTED: _S.ASSIGNED,
    Phase.ROLLING_BACK: _S.ROLLING_BACK,
    Phase.ROLLED_BACK: _S.WENT_BACK,
    Phase.ROLLBACK_FAILED: _S.DOWN,
    Phase.FAILED: _S.FAILING,
    Phase.SUPERSEDED: _S.ASSIGNED,
    Phase.CANCELLED: _S.ASSIGNED,
}
"""Of the deployment of the wanted manifest, while another one serves or none. (`committed`: it serves something else
since, and will say more.)"""


def connection(
    last_seen: datetime | None,
    heard_until: datetime | None,
    gone_at: datetime | None,
    on_broker: bool,
    now: datetime,
) -> tuple[ConnectionState, datetime | None]:
    """The state, and when it changes by time alone; None: it does not.

    Args:
        last_seen: The last sign of life.
        heard_until: The end of the patience that began with it.
        gone_at: When its session ended, if no sign of life came since.
        on_broker: What the broker said last of its session.
        now: What `registry.core.presence.as_of` says.
    """
    if gone_at is not None:
        return _C.OFFLINE, None
    if last_seen is None:
        return _C.NEVER_SEEN, None
    if heard_until is None or heard_until <= now:
        return _C.SILENT, None
    late_at = last_seen + (heard_until - last_seen) / 2
    if late_at <= now:
        return _C.LATE, heard_until
    return (_C.ONLINE if on_broker else _C.HTTP_ONLY), late_at


@dataclass(frozen=True)
class WantedSlot:
    """What one slot of a device should serve."""

    version: str
    manifest: str
    attempt: int = 0


@dataclass(frozen=True)
class IndexedSlot:
    """What the index says of one slot."""

    version: str
    """What serves; empty: nothing."""
    desired: str
    """What should; empty: nothing."""
    state: SlotState
    code: str = ""
    behind: bool = False
    """Something else serves than should."""


@dataclass(frozen=True)
class IndexedDevice:
    """What the index says of a device besides its connection."""

    state: SlotState
    code: str
    behind: bool
    slots: Mapping[str, IndexedSlot]


def device(wanted: Mapping[str, WantedSlot], reported: Mapping[str, Any] | None) -> IndexedDevice:
    """What a device serves, in words of the index.

    Args:
        wanted: By model.
        reported: The newest `Reported` as JSON that was checked when it came; None: it never reported.
    """
    reported = reported or {}
    said: Mapping[str, Mapping[str, Any]] = reported.get("models") or {}
    slots = {model: slot for model in {*wanted, *said} if (slot := slot_of(wanted.get(model), said.get(model)))}
    found = [(slot.state, slot.code) for _, slot in sorted(slots.items())]
    if fault := reported.get("fault"):
        found.insert(0, (_S.FAILING, fault.get("code") or NO_CODE))
    state, code = min(found, key=lambda each: WORST_FIRST.index(each[0]), default=(_S.IDLE, ""))
    return IndexedDevice(state, code, any(slot.behind for slot in slots.values()), slots)


def slot_of(wanted: WantedSlot | None, said: Mapping[str, Any] | None) -> IndexedSlot | None:
    """One slot; None: nothing is wanted in it, and nothing serves.

    Args:
        wanted: What should serve.
        said: The slot's `ReportedModel` as JSON; None: the device says nothing of the model.
    """
    said = said or {}
    version = said.get("version") or ""
    if wanted is None:
        return IndexedSlot(version, "", _S.LEAVING) if version else None
    serves = bool(version) and said.get("manifest") == wanted.manifest
    state, code = _state(wanted, said, serves=serves, anything=bool(version))
    return IndexedSlot(version, wanted.version, state, code, behind=not serves)


def _state(wanted: WantedSlot, said: Mapping[str, Any], *, serves: bool, anything: bool) -> tuple[SlotState, str]:
    progress: Mapping[str, Any] = said.get("deployment") or {}
    ours = progress.get("manifest") == wanted.manifest and progress.get("attempt", 0) >= wanted.attempt
    phase = Phase(progress["phase"]) if ours else None
    fault_code = (said.get("fault") or {}).get("code", "")
    state = said.get("state")
    if serves and state == ServingState.FAILED:
        return _S.FAILING, fault_code or progress.get("code") or NO_CODE
    if serves:
        if state == ServingState.SERVING and phase in (None, Phase.COMMITTED):
            return _S.SERVING, ""
        return (OF_PHASE[phase] if phase in _UNDER_WAY else _S.SERVING), ""
    if state == ServingState.RECOVERING and phase in (None, Phase.COMMITTED):
        return _S.RECOVERING, ""
    if phase is None:
        if state == ServingState.FAILED and said.get("desired_version") == wanted.version and not progress:
            return (_S.FAILING if anything else _S.DOWN), fault_code or NO_CODE
        return _S.ASSIGNED, ""
    of_phase = OF_PHASE[phase]
    if of_phase not in BAD:
        failed = state == ServingState.FAILED and phase is Phase.COMMITTED  # it served, and was given up since
        return (_S.FAILING if anything else _S.DOWN, fault_code or NO_CODE) if failed else (of_phase, "")
    code = progress.get("code") or fault_code or NO_CODE
    if of_phase is _S.FAILING and code in QUARANTINES:
        of_phase = _S.QUARANTINED
    return (of_phase if anything else _S.DOWN), code


_UNDER_WAY = frozenset({Phase.SWITCHING, Phase.PROBATION, Phase.ROLLING_BACK})
"""In which the wanted manifest may serve already."""


def hardware(facts: Mapping[str, Any]) -> str:
    """Architecture and best usable target of a host, by its `Platform` as JSON: `aarch64/gpu`."""
    usable = (backend for backend in facts.get("backends", ()) if backend.get("usable"))
    targets = {target for backend in usable for target in backend.get("targets", ())}
    return f"{facts.get('arch', '')}/{_best(targets)}"[:64]


def _best(targets: Iterable[str]) -> str:
    """Any accelerator is better than a CPU."""
    accelerators = sorted(set(targets) - {"cpu"})
    return "+".join(accelerators) or ("cpu" if targets else "none")
