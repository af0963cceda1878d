"""How the variants of a version answered its golden vectors: on the publisher's machine, and on the devices."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from registry.contracts.api.versions import ParityView
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.device.messages import Reported
from registry.db.catalog_rows import VersionRow
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceRow, DeviceStateRow
from registry.db.job_rows import EarlierManifestRow
from registry.services.views import find_version

MAX_DEVICES = 500
"""Devices whose reports are read; of more, the first by name."""


class ParityTable:
    """Reads what was measured; keeps nothing. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, model: str, version: str) -> list[ParityView]:
        """The publisher's figures in the order of the variants, then the devices' by name. Raises NotFoundError.

        A device counts with its newest report: while it serves this version, or while the deployment that it
        reports, under way or ended, is of this version.
        """
        with self._database.read() as session:
            row = find_version(session, model, version)
            manifest = Manifest.model_validate_json(row.body)
            earlier = select(EarlierManifestRow.manifest).where(EarlierManifestRow.version_id == row.id)
            digests = {row.manifest, *session.scalars(earlier)}
            found = [
                ParityView(
                    variant=variant.name,
                    device=variant.build.built_on if variant.build else None,
                    backend=variant.parity.backend,
                    parity=variant.parity.parity,
                    at=row.created_at,
                )
                for variant in manifest.variants
                if variant.parity is not None
            ]
            return found + list(_reported(session, row, digests))


def _reported(session: Session, row: VersionRow, digests: set[str]) -> Iterator[ParityView]:
    mentioned = or_(*(DeviceStateRow.reported.contains(digest) for digest in digests))
    query = select(DeviceRow.name, DeviceStateRow.reported).join(DeviceStateRow).where(mentioned)
    for device, text in session.execute(query.order_by(DeviceRow.name).limit(MAX_DEVICES)):
        try:
            reported = Reported.model_validate_json(text or "")
        except ValidationError:  # by an older registry; the next report replaces it
            continue
        said = reported.models.get(row.model)
        if said is None:
            continue
        if said.manifest in digests and said.parity is not None and said.variant is not None:
            yield ParityView(
                variant=said.variant, device=device, backend=said.backend or "", parity=said.parity, at=reported.at
            )
        under_way = said.deployment
        if under_way and under_way.parity and under_way.manifest in digests and said.manifest not in digests:
            yield ParityView(
                variant=under_way.variant, device=device, backend="", parity=under_way.parity, at=reported.at
            )
