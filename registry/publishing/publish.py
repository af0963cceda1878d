"""Carrying out a publishing: hash, measure, send what the registry lacks, then make the version visible in one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from registry.cli.catalogue.alias import move
from registry.cli.catalogue.manifest_text import image_text, requirement_text, tensor_row
from registry.cli.catalogue.network_options import network_text
from registry.cli.output import size_text
from registry.cli.progress import meter
from registry.cli.session import Session
from registry.client.errors import ClientError, NoAnswerError, UsageFault
from registry.client.local_files import LocalFile, hash_file
from registry.client.upload import upload
from registry.client.versions import fetch_manifest
from registry.contracts.api.versions import PublishAnswer, VersionView
from registry.contracts.catalogue.batching import batching_text
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.paths import blob_path, version_path
from registry.core.differences import differences
from registry.publishing.golden import given_golden, measured
from registry.publishing.golden_versions import with_others
from registry.publishing.plan import Plan, build_manifest
from registry.publishing.republish import declared, require_as_asked


@dataclass
class Outcome:
    """What a publishing did, as `--json` prints it."""

    manifest: Manifest
    created: bool = False
    sent_bytes: int = 0
    """Blobs that went over the wire."""
    present_bytes: int = 0
    """Blobs that the registry had."""
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    aliases: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "model": self.manifest.model,
            "version": self.manifest.version,
            "digest": self.manifest.canonical_digest(),
            "created": self.created,
            "dry_run": self.dry_run,
            "sent_bytes": self.sent_bytes,
            "present_bytes": self.present_bytes,
            "aliases": self.aliases,
            "warnings": list(self.warnings),
            "manifest": self.manifest,
        }


def carry_out(session: Session, plan: Plan, *, dry_run: bool) -> Outcome:
    """Publishes what was planned, and points the aliases at it.

    Raises:
        ClientError: it is published with other content, a golden answer is off, or the registry refuses.
    """
    for warning in plan.warnings:
        session.out.warn(warning)
    files = _hash_all(session, plan)
    manifest = build_manifest(plan, files.__getitem__)
    if manifest.version in plan.source.aliases:
        raise UsageFault(f"{manifest.version!r} is the version's own name; an alias needs another one")
    _tell_findings(session, plan, manifest)
    with TemporaryDirectory(prefix="modelfleet-publish-") as folder:
        plan, others = with_others(session, plan, Path(folder))
        manifest, golden = given_golden(plan, manifest, others)
        published = _published(session, manifest, dry_run=dry_run)
        tried: tuple[str, ...] = ()
        if published is None:
            made = measured(session, plan, manifest, others)
            manifest, golden, tried = made.manifest, made.file, made.warnings
        else:
            require_as_asked(plan, published)
        outcome = Outcome(published or manifest, dry_run=dry_run, warnings=(*plan.warnings, *tried))
        if dry_run:
            _compare(session, outcome)
            return outcome
        blobs = {file.digest: file for file in (*files.values(), *([golden] if golden else []))}
        wanted = outcome.manifest.blobs()
        _send_blobs(session, outcome, {digest: file for digest, file in blobs.items() if digest in wanted})
        if published is None:
            answer = session.client.change(
                "PUT", version_path(manifest.model, manifest.version), manifest, PublishAnswer, repeatable=True
            )
            outcome.created = answer.created
            outcome.warnings += answer.warnings
            for warning in answer.warnings:
                session.out.warn(warning)
    for name in plan.source.aliases:
        _point(session, manifest, name)
        outcome.aliases.append(name)
    return outcome


def _point(session: Session, manifest: Manifest, alias: str) -> None:
    try:
        move(session, manifest.model, alias, manifest.version)
    except ClientError as error:
        done = f"{manifest.model}@{manifest.version} is published"
        error.what = f"{done}, but the alias {alias} was not set: {error.what}"
        raise


def _hash_all(session: Session, plan: Plan) -> dict[Path, LocalFile]:
    files: dict[Path, LocalFile] = {}
    for path in plan.paths:
        with meter(f"reading {path.name}", path.stat().st_size, quiet=session.out.as_json) as shown:
            files[path] = hash_file(path, shown.advance)
    return files


def _tell_findings(session: Session, plan: Plan, manifest: Manifest) -> None:
    note = session.out.note
    note(f"{manifest.model}@{manifest.version}")
    for planned, variant in zip(plan.variants, manifest.variants, strict=True):
        by = f", by {planned.facts.producer}" if planned.facts.producer else ""
        needs = requirement_text(variant.requirements) or "nothing in particular"
        note(f"  variant {variant.name}: {variant.format} for {variant.target}, {size_text(variant.size)}{by}")
        note(f"    needs   {needs}")
        note(f"    files   {', '.join(file.path for file in variant.files)}")
        if planned.facts.parameters:
            total = sum(parameter.size for parameter in planned.facts.parameters)
            note(f"    holds   {len(planned.facts.parameters)} parameters, {total} bytes")
        if network_text(variant):
            note(f"    network {network_text(variant)}")
        note(f"    batches {batching_text(variant.batching)}")
        for kind, specs in (("input", variant.inputs), ("output", variant.outputs)):
            for spec in specs:
                note(f"    {kind:<7} {' '.join(tensor_row(spec))}")
    if manifest.image is not None:
        note(f"  pictures: {image_text(manifest)}")


def _published(session: Session, manifest: Manifest, *, dry_run: bool) -> Manifest | None:
    """The published version when it is there with the same content, None when it is not there.

    What was measured or made on the publisher's machine may differ: it does from run to run.

    Raises:
        ClientError: it is there with other content.
    """
    path = version_path(manifest.model, manifest.version)
    try:
        view = session.client.find(path, VersionView)
    except NoAnswerError as error:
        if not dry_run:
            raise
        session.out.warn(f"not compared with the registry: {error.what}")
        return None
    if view is None or view.version != manifest.version:  # an alias of that name
        return None
    theirs = fetch_manifest(session.client, view)
    there, offered = declared(theirs).to_json(), declared(manifest).to_json()
    if there == offered:
        return theirs
    raise ClientError(
        f"{manifest.model}@{manifest.version} is published with other content, and a published version never changes",
        code="conflict",
        hint="Publish this as a new version: --version",
        errors=differences(there, offered),
    )


def _compare(session: Session, outcome: Outcome) -> None:
    """What publishing would send, as far as the registry answers."""
    try:
        for digest, size in outcome.manifest.blobs().items():
            if session.client.exists(blob_path(digest)):
                outcome.present_bytes += size
            else:
                outcome.sent_bytes += size
    except NoAnswerError:
        outcome.sent_bytes = outcome.present_bytes = 0  # it was said before


def _send_blobs(session: Session, outcome: Outcome, files: dict[str, LocalFile]) -> None:
    """What the registry does not have, or has damaged: it looks when it is asked to take it."""
    for file in files.values():
        with meter(f"sending {file.path.name}", file.size, quiet=session.out.as_json) as shown:
            sent = upload(session.client, file, shown.at, session.out.note)
        outcome.sent_bytes += sent
        outcome.present_bytes += file.size - min(sent, file.size)
