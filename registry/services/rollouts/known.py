"""What the registry knows of the devices that a rollout is planned for: in bulk, a few queries for any number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import Session

from registry.contracts.manifest import Manifest
from registry.contracts.platforms import Platform
from registry.contracts.rollouts import RolloutSpec
from registry.core.rollouts.plan import Known
from registry.db.fleet_rows import DeploymentRow, DeviceLabelRow, DeviceRow, DeviceStateRow
from registry.services.rollouts.snapshot import is_online

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
    query = (
        select(DeviceRow.id, DeviceRow.name, DeviceRow.facts_digest, is_online(now))
        .join(DeviceStateRow, DeviceStateRow.device_id == DeviceRow.id)
        .where(which)
    )
    return [
        Known(name, facts, device in current, bool(online), labels.get(device, {}))
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
