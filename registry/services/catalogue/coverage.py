"""What a host would run and why, and what a fleet would: one resolution for each class of hosts with the same facts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, true
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
from registry.services.tallies import tallied


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
            every = wanted == DeviceFilter(selector=wanted.selector) and wanted.selector.strip() in ("", "*")
            of = None if every else matching_filter(session, wanted, now)
            return cover(session, manifest, of, wanted.selector or "*")


def cover(session: Session, manifest: Manifest, of: ColumnElement[bool] | None, selector: str = "*") -> CoverageView:
    """A version on the devices for which `of` holds, within the caller's transaction. None: on all, whose classes the
    database counts; the devices of a condition are counted now."""
    found = _classes(session, of)
    of = true() if of is None else of
    known = [(digest, number) for digest, number in found if digest is not None]
    silent = sum(number for digest, number in found if digest is None)
    classes = [_cover_class(session, manifest, of, *row) for row in known[:MAX_CLASSES]]
    return CoverageView(
        model=manifest.model,
        version=manifest.version,
        selector=selector,
        devices=sum(number for _, number in found),
        without=sum(item.devices for item in classes if item.chosen is None),
        degraded=sum(item.devices for item in classes if item.degraded),
        silent=silent,
        silent_names=_names(session, of & DeviceRow.facts_digest.is_(None)) if silent else (),
        variants={v.name: sum(c.devices for c in classes if c.chosen == v.name) for v in manifest.variants},
        classes=tuple(classes),
        more_classes=max(len(known) - MAX_CLASSES, 0),
    )


def _classes(session: Session, of: ColumnElement[bool] | None = None) -> list[tuple[str | None, int]]:
    """Digests of facts, None for devices that have not told any, and how many devices have them; the largest first."""
    if of is None:
        found = [(digest, number) for (digest,), number in tallied(session, "hosts").items()]
    else:
        query = select(DeviceRow.facts_digest, func.count()).where(of).group_by(DeviceRow.facts_digest)
        found = [(digest, number) for digest, number in session.execute(query)]
    return sorted(found, key=lambda each: (-each[1], each[0] or ""))


def known_classes(session: Session) -> list[tuple[Platform, int]]:
    """The facts of each class of devices, the largest MAX_CLASSES first, with how many devices have them."""
    known = [(digest, number) for digest, number in _classes(session) if digest is not None]
    return [(_facts(session, digest), number) for digest, number in known[:MAX_CLASSES]]


def _facts(session: Session, digest: str) -> Platform:
    """Of the first device that has them."""
    query = select(DeviceRow.facts).where(DeviceRow.facts_digest == digest).order_by(DeviceRow.name).limit(1)
    return Platform.model_validate_json(session.scalar(query) or "{}")


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
    session: Session, manifest: Manifest, of: ColumnElement[bool], digest: str, devices: int
) -> ClassCoverage:
    """`digest`: of the facts; `devices`: how many have them."""
    facts = _facts(session, digest)
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
