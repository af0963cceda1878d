"""Carries out a plan: hash, measure, send what the registry lacks, then make the version visible in one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from registry.client.api import ApiClient
from registry.client.errors import ClientError, NoAnswerError
from registry.client.local_files import LocalFile, hash_file
from registry.client.upload import upload
from registry.client.versions import move_alias
from registry.contracts.api.versions import PublishAnswer
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.paths import blob_path, version_path
from registry.publishing.golden import measured, with_given
from registry.publishing.manifest import build_manifest
from registry.publishing.observer import Observer
from registry.publishing.plan import PublishPlan
from registry.publishing.republish import find_published, require_as_asked
from registry.publishing.source import GoldenSource

SILENT = Observer()


@dataclass(frozen=True)
class PublishResult:
    """What a publishing did, or would do."""

    manifest: Manifest
    """As the registry has it."""
    created: bool = False
    """False: the same content was published before, or nothing was changed."""
    sent_bytes: int = 0
    """Of blobs, over the wire; of a dry run: what would be sent."""
    present_bytes: int = 0
    """Of blobs that the registry had."""
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    """Those that point at the version now, because it was asked for."""


def publish(
    client: ApiClient, plan: PublishPlan, *, observer: Observer = SILENT, dry_run: bool = False
) -> PublishResult:
    """Publishes what was planned, and points the aliases at it. Doing it again is safe: it goes on where it stopped.

    Args:
        client: The registry.
        plan: Of `make_plan`.
        observer: Told of progress, findings and warnings.
        dry_run: Inspect, measure and compare; change nothing.

    Raises:
        ClientError: it is published with other content (`conflict`), a variant does not answer the golden vectors
            (`golden_mismatch`), the request cannot be fulfilled (`UsageFault`), or the registry refuses.
        InspectionError: a file of golden vectors is wrong.
    """
    for warning in plan.warnings:
        observer.warn(warning)
    files = {path: _hashed(path, observer) for path in plan.paths}
    manifest = build_manifest(plan, files)
    observer.inspected(manifest, [planned.facts for planned in plan.variants])
    with TemporaryDirectory(prefix="modelfleet-publish-") as folder:
        source = GoldenSource(client, plan.request.golden, Path(folder), observer)
        golden = with_given(source, manifest)
        try:
            published = find_published(client, golden.manifest)
        except NoAnswerError as error:
            if not dry_run:
                raise
            observer.warn(f"not compared with the registry: {error.what}")
            published = None
        if published is None:
            entries = {planned.name: planned.section.file for planned in plan.variants}
            golden = measured(entries, source, golden, observer)
        else:
            require_as_asked(source.asked, published)
        manifest = published or golden.manifest
        warnings = (*plan.warnings, *golden.warnings)
        if dry_run:
            return PublishResult(manifest, False, *_missing(client, manifest), dry_run=True, warnings=warnings)
        blobs = {file.digest: file for file in (*files.values(), golden.file) if file is not None}
        sent = _send(client, {d: blobs[d] for d in manifest.blobs() if d in blobs}, observer)
    created = False
    if published is None:
        path = version_path(manifest.model, manifest.version)
        answer = client.change("PUT", path, manifest, PublishAnswer, repeatable=True)
        created, warnings = answer.created, (*warnings, *answer.warnings)
        for warning in answer.warnings:
            observer.warn(warning)
    for alias in plan.request.aliases:
        _point(client, manifest, alias)
    return PublishResult(manifest, created, *sent, warnings=warnings, aliases=plan.request.aliases)


def _hashed(path: Path, observer: Observer) -> LocalFile:
    with observer.progress(f"reading {path.name}", path.stat().st_size) as at:
        return hash_file(path, at)


def _missing(client: ApiClient, manifest: Manifest) -> tuple[int, int]:
    """Bytes that publishing would send, and those that are there; (0, 0) where the registry does not answer."""
    count = {False: 0, True: 0}
    try:
        for digest, size in manifest.blobs().items():
            count[client.exists(blob_path(digest))] += size
    except NoAnswerError:  # it was said before
        return 0, 0
    return count[False], count[True]


def _send(client: ApiClient, files: Mapping[str, LocalFile], observer: Observer) -> tuple[int, int]:
    """What the registry does not have, or has damaged: it looks when it is asked to take it. Bytes sent and present."""
    sent = present = 0
    for file in files.values():
        with observer.progress(f"sending {file.path.name}", file.size) as at:
            count = upload(client, file, at, observer.note)
        sent, present = sent + count, present + file.size - min(count, file.size)
    return sent, present


def _point(client: ApiClient, manifest: Manifest, alias: str) -> None:
    try:
        move_alias(client, manifest.model, alias, manifest.version)
    except ClientError as error:
        done = f"{manifest.model}@{manifest.version} is published"
        error.what = f"{done}, but the alias {alias} was not set: {error.what}"
        raise
