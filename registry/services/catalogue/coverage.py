"""What a host would run and why, and what a fleet would: one resolution for each class of hosts with the same facts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.fit.choices import (
    MAX_CLASSES,
    NAMED,
    ClassCoverage,
    CoverageView,
    ResolutionView,
    ResolveBody,
    imagine,
)
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import Resolution
from registry.db.fleet_rows import DeviceRow
from registry.errors import ConflictError, InvalidError
from registry.services.choice import choose
from registry.services.fleet.desired import find_device
from registry.services.fleet.listing import DeviceFilter, matching_filter
from registry.services.queries import UseCases, find_version


class Coverage(UseCases):
    """Reads; keeps nothing. Thread-safe."""

    def resolution(self, body: ResolveBody) -> ResolutionView:
        """Which variant a host would run.

        Raises:
            NotFoundError: no such device, model or version.
            ConflictError: the device has not told its facts.
            InvalidError: neither or both of device and facts, an unknown variant or fact.
        """
        if (body.device is None) == (body.facts is None):
            raise InvalidError("Say `device` or `facts`: one of them.")
        with self._database.read() as session:
            manifest = read_manifest(session, body.model, body.version)
            if body.variant is not None and manifest.variant(body.variant) is None:
                raise InvalidError(f"{manifest.model} {manifest.version} has no variant {body.variant!r}.")
            facts, at = _host(session, body)
            facts = imagined(facts, body.what_if)
            return ResolutionView(
                model=manifest.model,
                version=manifest.version,
                device=body.device,
                resolution=choose(session, manifest, facts, body.variant),
                facts=facts,
                facts_digest=facts.facts_digest(),
                facts_at=at,
                what_if=body.what_if,
            )

    def coverage(self, model: str, version: str, wanted: DeviceFilter, now: datetime) -> CoverageView:
        """A version on the devices that are asked for.

        Raises:
            NotFoundError: no such model or version.
            InvalidError: the selector is none.
            BusyError: the index is not made yet, and the filter asks for more than labels.
        """
        with self._database.read() as session:
            manifest = read_manifest(session, model, version)
            return cover(session, manifest, matching_filter(session, wanted, now), wanted.selector or "*")


def cover(session: Session, manifest: Manifest, of: ColumnElement[bool], selector: str = "*") -> CoverageView:
    """A version on the devices for which `of` holds, within the caller's transaction."""
    count = func.count()
    query = select(DeviceRow.facts_digest, count, func.min(DeviceRow.id)).where(of).group_by(DeviceRow.facts_digest)
    found = session.execute(query.order_by(count.desc(), DeviceRow.facts_digest)).all()
    known = [(digest, number, first) for digest, number, first in found if digest is not None]
    silent = sum(number for digest, number, _ in found if digest is None)
    classes = [_cover_class(session, manifest, of, row) for row in known[:MAX_CLASSES]]
    return CoverageView(
        model=manifest.model,
        version=manifest.version,
        selector=selector,
        devices=sum(number for _, number, _ in found),
        without=sum(item.devices for item in classes if item.chosen is None),
        degraded=sum(item.devices for item in classes if item.degraded),
        silent=silent,
        silent_names=_names(session, of & DeviceRow.facts_digest.is_(None)) if silent else (),
        variants={v.name: sum(c.devices for c in classes if c.chosen == v.name) for v in manifest.variants},
        classes=tuple(classes),
        more_classes=max(len(known) - MAX_CLASSES, 0),
    )


def known_classes(session: Session) -> list[tuple[Platform, int]]:
    """The facts of each class of devices, the largest MAX_CLASSES first, with how many devices have them."""
    count = func.count()
    query = select(count, func.min(DeviceRow.id)).where(DeviceRow.facts_digest.is_not(None))
    query = query.group_by(DeviceRow.facts_digest).order_by(count.desc(), DeviceRow.facts_digest).limit(MAX_CLASSES)
    return [
        (Platform.model_validate_json(session.get_one(DeviceRow, first).facts or "{}"), number)
        for number, first in session.execute(query)
    ]


def read_manifest(session: Session, model: str, version: str) -> Manifest:
    """Of a version or an alias. Raises NotFoundError."""
    return Manifest.model_validate_json(find_version(session, model, version).body)


def imagined(facts: Platform, changes: Mapping[str, str]) -> Platform:
    """`imagine`, with the registry's error. Raises InvalidError."""
    try:
        return imagine(facts, changes)
    except ValueError as error:
        raise InvalidError(f"What if: {error}.") from None


def remedy(resolution: Resolution) -> str:
    """What would have to change for the nearest miss; empty when there is none."""
    verdict = resolution.verdict(resolution.nearest) if resolution.nearest else None
    return "; ".join(reason.remedy for reason in verdict.reasons if reason.remedy) if verdict else ""


def class_title(facts: Platform) -> str:
    """What tells one class from another, in a line."""
    parts = [f"{facts.os} {facts.arch}"]
    if facts.ascend and facts.ascend.chips:
        parts.append(f"{facts.ascend.soc or facts.ascend.name or 'Ascend'} x{facts.ascend.chips}")
    if facts.cann and facts.cann.version:
        parts.append(f"CANN {facts.cann.version}")
    if facts.cuda and facts.cuda.gpus:
        parts.append(f"{facts.cuda.name or 'GPU'} ({facts.cuda.compute_capability or '?'}) x{facts.cuda.gpus}")
    parts += [f"{b.name} {b.version}" for b in facts.backends if b.usable]
    return ", ".join(parts)


def _host(session: Session, body: ResolveBody) -> tuple[Platform, datetime | None]:
    if body.facts is not None or body.device is None:
        return body.facts or Platform(os="", arch=""), None
    row = find_device(session, body.device)
    if row.facts is None:
        raise ConflictError(f"{body.device} has not told what it is yet, so nobody knows which variant it would run.")
    return Platform.model_validate_json(row.facts), row.facts_at


def _cover_class(
    session: Session, manifest: Manifest, of: ColumnElement[bool], row: tuple[str, int, int]
) -> ClassCoverage:
    """`row`: the digest of the facts, how many devices have them, the id of one."""
    digest, devices, first = row
    facts = Platform.model_validate_json(session.get_one(DeviceRow, first).facts or "{}")
    resolution = choose(session, manifest, facts)
    variant = manifest.variant(resolution.chosen) if resolution.chosen else None
    return ClassCoverage(
        facts_digest=digest,
        title=class_title(facts),
        devices=devices,
        names=_names(session, of & (DeviceRow.facts_digest == digest)),
        chosen=resolution.chosen,
        target=variant.target if variant else None,
        degraded=resolution.degraded,
        why=() if variant else tuple(resolution.explain().splitlines()),
        nearest=resolution.nearest,
        remedy=remedy(resolution),
    )


def _names(session: Session, of: ColumnElement[bool]) -> tuple[str, ...]:
    return tuple(session.scalars(select(DeviceRow.name).where(of).order_by(DeviceRow.name).limit(NAMED)))
