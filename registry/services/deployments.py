"""What each slot of a device should serve: asked for by a person, kept true when facts or settings change.

A version or alias is resolved once, when it is set. The variant is chosen by `registry.contracts.fit.resolution`
from the facts that are known; a variant that a person pinned stays. Rollouts set the same rows by `set_desired`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.api.answers import Scope
from registry.contracts.api.approvals import ChangeKind
from registry.contracts.api.devices import Deployment, DeploymentBefore, DeploymentView
from registry.contracts.catalogue.batching import BatchingMode
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.device.deployments import DeploymentPolicy
from registry.contracts.device.messages import DesiredModel
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import FitOutcome, Resolution
from registry.db.catalog_rows import ModelRow, VersionRow
from registry.db.engine import Changed, Database, announce
from registry.db.fleet_rows import DeploymentRow, DesiredRow, DeviceRow
from registry.errors import ConflictError, InvalidError, PreconditionError
from registry.services.access.permits import require_devices
from registry.services.access.second_person import SecondPerson
from registry.services.choice import choose
from registry.services.fleet.desired import as_desired, find_device, set_desired
from registry.services.queries import UseCases, find_model, find_version, found, manifest_body
from registry.services.rollouts.targets import supersede
from registry.services.withdrawn import require_not_yanked

REISSUE_BATCH = 200
"""Deployments that one transaction issues again after a model's settings changed."""


class Deployments(UseCases):
    """The use cases of deployments on single devices."""

    def __init__(self, database: Database, rule: SecondPerson | None = None) -> None:
        super().__init__(database)
        self._rule = rule or SecondPerson(database, required=False)

    def put(self, device: str, model: str, body: Deployment, by: str, now: datetime) -> DeploymentView:
        """Set what a slot should serve. The same again changes nothing, unless it says `retry`.

        Raises:
            NotFoundError: no such device, model, version or alias.
            InvalidError: the version has no variant of the pinned name, or the policy an unknown field.
            ConflictError: no variant fits what is known of the device, and `force` is not set.
            PreconditionError: what stands is not what `body.seen` names.
            YankedError: the version was yanked, and the slot does not want it already.
        """
        if unknown := body.policy.unknown_fields():
            raise InvalidError(f"A policy has no field {unknown[0]!r}.")
        with self._rule.writing(ChangeKind.DEPLOY, f"{device} {model}", body.to_json(), now) as session:
            row = find_device(session, device)
            require_devices(session, Scope.DEPLOY, model, DeviceRow.id == row.id)
            before = _require_seen(session, row, model, body.seen)
            version = find_version(session, model, body.version)
            _require_deployable(session, row, version)
            manifest = Manifest.model_validate_json(version.body)
            variant, note = _choose(session, manifest, body, row)
            settings = find_model(session, model)
            wanted = DesiredModel(
                version=version.version,
                manifest=version.manifest,
                variant=variant,
                profile=body.profile,
                record_results=settings.record_results,
                attempt=_attempt(session, row, model, version.manifest, retry=body.retry),
                policy=_policy(body),
            )
            supersede(session, model, [row.id], None, now)
            set_desired(session, row, model, wanted, by, now=now, pinned=body.variant is not None, note=note)
            view = _view(device, session.get_one(DeploymentRow, (row.id, model)))
            return view.model_copy(update={"replaced": before})

    def remove(self, device: str, model: str, by: str, now: datetime, *, seen: int | None = None) -> None:
        """The device should no longer serve the model.

        Raises:
            NotFoundError: it should not anyway.
            PreconditionError: what stands is not what `seen` names.
        """
        with self._rule.writing(ChangeKind.UNDEPLOY, f"{device} {model}", {"seen": seen}, now) as session:
            row = find_device(session, device)
            require_devices(session, Scope.DEPLOY, model, DeviceRow.id == row.id)
            _require_seen(session, row, model, seen)
            found(session.get(DeploymentRow, (row.id, model)), f"Device {device!r} has no deployment of {model!r}.")
            supersede(session, model, [row.id], None, now)
            set_desired(session, row, model, None, by, now=now)

    def page(self, device: str, after: str, limit: int) -> list[DeploymentView]:
        """Up to `limit` deployments of a device by model, after the model `after`. Raises NotFoundError."""
        with self._database.read() as session:
            row = find_device(session, device)
            query = select(DeploymentRow).where(DeploymentRow.device_id == row.id, DeploymentRow.model > after)
            return [_view(device, d) for d in session.scalars(query.order_by(DeploymentRow.model).limit(limit))]

    def reissue(self, now: datetime) -> int:
        """Bring documents in line with their models' settings, a batch a transaction; how many slots changed.

        Level-triggered: what a killed process left undone, the next call does.
        """
        done = 0
        differs = DeploymentRow.record_results != ModelRow.record_results
        query = select(DeploymentRow, DeviceRow, ModelRow.record_results).where(differs)
        query = query.join(ModelRow, ModelRow.name == DeploymentRow.model).join(DeviceRow).limit(REISSUE_BATCH)
        while True:
            with self._database.read() as session:
                if session.execute(query.limit(1)).first() is None:
                    break
            with self._database.write() as session:
                rows = session.execute(query).all()
                for row, device, record in rows:
                    _adapt(session, device, row, now, note=row.note, record_results=record)
            done += len(rows)
        return done


def _require_seen(session: Session, device: DeviceRow, model: str, seen: int | None) -> DeploymentBefore | None:
    """What stands in the slot; None: nothing. Raises PreconditionError when it is not what was seen."""
    row = session.get(DeploymentRow, (device.id, model))
    if seen is not None and seen != (row.generation if row is not None else 0):
        stands = f"{row.version}, set by {row.set_by or 'nobody'}" if row is not None else "nothing"
        raise PreconditionError(
            f"What {device.name} should serve of {model} was changed since you looked: it is {stands} now. "
            "Nothing was changed; look again, and decide again."
        )
    return DeploymentBefore(version=row.version, set_at=row.set_at, set_by=row.set_by) if row is not None else None


def _require_deployable(session: Session, device: DeviceRow, version: VersionRow) -> None:
    """A slot that wants a yanked version goes on, also with other settings."""
    before = session.get(DeploymentRow, (device.id, version.model))
    if before is None or before.version != version.version:
        require_not_yanked(version)


def take_facts(session: Session, device: DeviceRow, facts: Platform, now: datetime) -> None:
    """Store a device's facts within the caller's transaction; new ones choose variants again."""
    digest = facts.facts_digest()
    known = digest == device.facts_digest
    device.facts, device.facts_digest, device.facts_at = facts.canonical().decode(), digest, now
    if known:
        return
    announce(session, Changed.FLEET)
    query = select(DeploymentRow).where(DeploymentRow.device_id == device.id, DeploymentRow.pinned.is_(False))
    for row in session.scalars(query).all():
        body = manifest_body(session, row.manifest)
        if body is None:
            continue
        resolution = choose(session, Manifest.model_validate_json(body), facts)
        if resolution.chosen == row.variant or _may_still_fit(resolution, row.variant):
            continue
        note = "" if resolution.chosen else f"No variant fits the facts of {now.isoformat()}:\n{resolution.explain()}"
        _adapt(session, device, row, now, note=note, variant=resolution.chosen)


def _may_still_fit(resolution: Resolution, variant: str | None) -> bool:
    """What was chosen when more was known stays until it is known not to fit."""
    verdict = resolution.verdict(variant) if variant is not None else None
    return verdict is not None and verdict.outcome is FitOutcome.UNKNOWN


def _adapt(
    session: Session, device: DeviceRow, row: DeploymentRow, now: datetime, *, note: str, **changes: object
) -> None:
    """The registry brings a deployment in line; who asked for it, and when, stays."""
    wanted, asked_at = as_desired(row).model_copy(update=changes), row.set_at
    set_desired(session, device, row.model, wanted, row.set_by, now=now, pinned=row.pinned, note=note, adapts=True)
    row.set_at = asked_at


def _choose(session: Session, manifest: Manifest, body: Deployment, device: DeviceRow) -> tuple[str | None, str]:
    """The variant and a note for the operator."""
    if body.variant is not None and manifest.variant(body.variant) is None:
        names = ", ".join(variant.name for variant in manifest.variants)
        raise InvalidError(f"{manifest.model} {manifest.version} has no variant {body.variant!r}; it has {names}.")
    if device.facts is None:
        return body.variant, "The device's facts are not known yet."
    resolution = choose(session, manifest, Platform.model_validate_json(device.facts), pin=body.variant)
    if resolution.chosen is not None:
        return resolution.chosen, "An accelerator of this host lies idle." if resolution.degraded else ""
    if not body.force:
        raise ConflictError(
            f"No variant of {manifest.model}@{manifest.version} fits device {device.name!r}; "
            "`force` assigns it anyway.",
            errors=tuple(resolution.explain().splitlines()),
        )
    return body.variant, "Forced, though no variant fits:\n" + resolution.explain()


def _attempt(session: Session, device: DeviceRow, model: str, manifest: str, *, retry: bool) -> int:
    """A retry is above every attempt that the device was ever told of: none is above the generation it came with."""
    if retry:
        return session.get_one(DesiredRow, device.id).generation + 1
    before = session.get(DeploymentRow, (device.id, model))
    return before.attempt if before is not None and before.manifest == manifest else 0


def _policy(body: Deployment) -> DeploymentPolicy:
    """`batching` may stand beside the policy, or in it."""
    beside = {"batching": body.batching} if body.batching is not BatchingMode.AUTO else {}
    return body.policy.model_copy(update=beside)


def _view(device: str, row: DeploymentRow) -> DeploymentView:
    return DeploymentView(
        device=device,
        model=row.model,
        version=row.version,
        variant=row.variant,
        generation=row.generation,
        set_at=row.set_at,
        set_by=row.set_by,
        note=row.note,
        policy=as_desired(row).policy,
    )
