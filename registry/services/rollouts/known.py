"""What the registry knows of the devices that a rollout is planned for: in bulk, a few queries for any number."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import Session

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.codes import QUARANTINES
from registry.contracts.device.deployments import Phase
from registry.contracts.fit.platforms import Platform
from registry.contracts.rollout.spec import RolloutSpec
from registry.core.rollouts import actions
from registry.core.rollouts.plan import Known
from registry.db.fleet_rows import DeploymentRow, DeviceLabelRow, DeviceRow, DeviceStateRow
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.services.fleet.presence import is_online

_OVER_BADLY = frozenset({Phase.FAILED, Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED})
_GAVE_UP = tuple(state.value for state in actions.REQUEST_ENDS)
_EVERY: ColumnElement[bool] = true()


def known_devices(
    session: Session,
    spec: RolloutSpec,
    manifest: Manifest,
    now: datetime,
    which: ColumnElement[bool],
    *,
    again: bool = False,
) -> list[Known]:
    """The devices, with what decides about them; in one query, whatever their number."""
    digest = manifest.canonical_digest()
    labels = _labels(session) if any(wave.selector for wave in spec.waves) else {}
    current = set() if again else serving(session, manifest.model, digest)
    barred = {} if again else quarantines(session, manifest, digest)  # another attempt lifts them
    query = (
        select(DeviceRow.id, DeviceRow.name, DeviceRow.facts_digest, is_online(session, now))
        .join(DeviceStateRow, DeviceStateRow.device_id == DeviceRow.id)
        .where(which)
    )
    return [
        Known(name, facts, device in current, bool(online), labels.get(device, {}), barred.get(device, ()))
        for device, name, facts, online in session.execute(query)
    ]


def _labels(session: Session) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    for device, key, value in session.execute(
        select(DeviceLabelRow.device_id, DeviceLabelRow.key, DeviceLabelRow.value)
    ):
        found.setdefault(device, {})[key] = value
    return found


def serving(session: Session, model: str, digest: str, which: ColumnElement[bool] = _EVERY) -> set[int]:
    """Devices that should serve the manifest, and say that they do; of those that the condition names."""
    query = (
        select(DeviceStateRow.device_id, DeviceStateRow.reported)
        .join(DeploymentRow, DeploymentRow.device_id == DeviceStateRow.device_id)
        .where(DeploymentRow.model == model, DeploymentRow.manifest == digest, DeviceStateRow.reported.is_not(None))
        .where(which)
    )
    return {
        device
        for device, text in session.execute(query)
        if json.loads(text or "{}").get("models", {}).get(model, {}).get("manifest") == digest
    }


def quarantines(session: Session, manifest: Manifest, digest: str) -> dict[int, set[str]]:
    """Device to the variants of a manifest that it took back or gave up for good, as far as is known here: from its
    last report, and from rollouts of the version that have not been rolled back since. All where it names none."""
    found: dict[int, set[str]] = defaultdict(set)
    every = {variant.name for variant in manifest.variants}
    told = select(DeviceStateRow.device_id, DeviceStateRow.reported).where(DeviceStateRow.reported.contains(digest))
    for device, text in session.execute(told):
        last = (json.loads(text or "{}").get("models", {}).get(manifest.model) or {}).get("deployment") or {}
        if last.get("manifest") == digest and last.get("phase") in _OVER_BADLY and last.get("code") in QUARANTINES:
            found[device] |= {last["variant"]} if last.get("variant") else every
    ended = (
        select(ActionRow.device_id, ActionRow.variant)
        .join(RolloutRow, RolloutRow.id == ActionRow.rollout_id)
        .where(RolloutRow.model == manifest.model, RolloutRow.manifest == digest, ActionRow.goes_back.is_(False))
        .where(ActionRow.state.in_(_GAVE_UP), ActionRow.code.in_(QUARANTINES), ActionRow.device_id.is_not(None))
    )
    for gave_up, variant in session.execute(ended):
        found[gave_up or 0] |= {variant} if variant else every
    return found


def platforms_of(session: Session, known: Iterable[Known]) -> dict[str, Platform]:
    """The facts of every digest that these devices have."""
    wanted = {device.facts for device in known if device.facts is not None}
    one = select(func.min(DeviceRow.id)).where(DeviceRow.facts_digest.is_not(None)).group_by(DeviceRow.facts_digest)
    query = select(DeviceRow.facts_digest, DeviceRow.facts).where(DeviceRow.id.in_(one))
    return {
        digest: Platform.model_validate_json(facts)
        for digest, facts in session.execute(query)
        if digest in wanted and facts is not None
    }
