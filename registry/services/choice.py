"""The registry's choice of a variant: `resolve` with the speeds that hosts of the same class reported.

Speed matters only between variants that rank the same, so it is looked up only where a version has such.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.device.messages import Reported
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import Resolution, resolve, ties
from registry.contracts.wire import Digest
from registry.db.fleet_rows import DeviceRow, DeviceStateRow

SAMPLE = 50
"""Devices of a class whose reports are read."""


def choose(session: Session, manifest: Manifest, facts: Platform, pin: str | None = None) -> Resolution:
    """The variant for hosts with these facts. The same for all of them: once a class is enough."""
    speeds = measured_speeds(session, manifest, facts.facts_digest()) if ties(manifest) else {}
    return resolve(manifest, facts, pin, speeds)


def measured_speeds(session: Session, manifest: Manifest, facts_digest: str) -> dict[Digest, float]:
    """Microseconds of one run by the variant's digest: the median of what hosts of the class measured at warm-up."""
    query = select(DeviceStateRow.reported).join(DeviceRow, DeviceRow.id == DeviceStateRow.device_id)
    query = query.where(DeviceRow.facts_digest == facts_digest, DeviceStateRow.reported.is_not(None))
    found: dict[Digest, list[float]] = defaultdict(list)
    for text in session.scalars(query.order_by(DeviceRow.id).limit(SAMPLE)):
        try:
            model = Reported.model_validate_json(text or "").models.get(manifest.model)
        except ValidationError:
            continue  # of a newer agent, or damaged: it says nothing about speed
        if model is not None and model.variant_digest and model.parity and model.parity.run_us is not None:
            found[model.variant_digest].append(model.parity.run_us)
    return {digest: median(values) for digest, values in found.items()}
