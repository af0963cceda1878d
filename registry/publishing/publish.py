"""Carries out a plan: hash, measure, send what the registry lacks, then make the version visible in one step.

A version that is there under its name already has to be the same, with the golden vectors that are asked for. What was
measured or made on the publisher's machine differs from run to run. So it is left out of the comparison, and golden
vectors that were made are compared by what was said of them: tolerance and origin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from registry.client.api import ApiClient
from registry.client.errors import ClientError, NoAnswerError
from registry.client.transfers import LocalFile, hash_file, upload
from registry.client.versions import fetch_manifest, move_alias
from registry.contracts.api.versions import PublishAnswer, VersionView
from registry.contracts.catalogue.batching import Basis, Batching
from registry.contracts.catalogue.manifest import Manifest, Tolerance
from registry.contracts.paths import blob_path, version_path
from registry.core.differences import differences
from registry.publishing.golden import GoldenSource, measured, with_given
from registry.publishing.plan import Observer, PublishPlan, build_manifest
from registry.publishing.request import GoldenSection

SILENT = Observer()


def find_published(client: ApiClient, manifest: Manifest) -> Manifest | None:
    """The published version when it is there with the same content, None when it is not there.

    Raises:
        ClientError: it is there with other content (conflict).
    """
    view = client.find(version_path(manifest.model, manifest.version), VersionView)
    if view is None or view.version != manifest.version:  # an alias of that name
        return None
    published = fetch_manifest(client, view)
    there, offered = _declared(published).to_json(), _declared(manifest).to_json()
    if there != offered:
        raise _conflict(manifest, "content", differences(there, offered))
    return published


def require_as_asked(asked: GoldenSection, published: Manifest) -> None:
    """A published version whose golden vectors are not what is asked for now is other content.

    Raises:
        ClientError: conflict.
    """
    theirs = published.golden
    faults: list[str] = []
    if theirs is None:
        if asked.random != 0 and asked.says_more:
            faults.append("golden: has none; some are asked for")
    else:
        if asked.random == 0:
            faults.append(f"golden: has {theirs.cases}; none are asked for")
        if asked.tolerance != theirs.tolerance:
            faults.append(f"golden.tolerance: is {_said(theirs.tolerance)}; {_said(asked.tolerance)} is asked for")
        for name, wanted, there in (
            ("reference", asked.reference, theirs.reference),
            ("of", asked.of, theirs.of),
            ("compared_with", asked.compare_with, theirs.compared_with),
        ):
            if wanted not in (None, there):
                faults.append(f"golden.{name}: is {there}; {wanted} is asked for")
    if faults:
        raise _conflict(published, "golden vectors", tuple(faults))


def _conflict(manifest: Manifest, what: str, errors: tuple[str, ...]) -> ClientError:
    return ClientError(
        f"{manifest.model}@{manifest.version} is published with other {what}, and a published version never changes",
        code="conflict",
        hint="Publish this as a new version: --version",
        errors=errors,
    )


def _declared(manifest: Manifest) -> Manifest:
    """What the publisher said: without what was measured or made here."""
    variants = tuple(
        variant.model_copy(update={"parity": None, "batching": _said_by_publisher(variant.batching)})
        for variant in manifest.variants
    )
    golden = manifest.golden
    if golden is not None and (golden.reference or golden.of or golden.compared_with):
        golden = None
    return manifest.model_copy(update={"variants": variants, "golden": golden})


def _said_by_publisher(batching: Batching | None) -> Batching | None:
    """What a graph proves may change with the program that reads it; the largest size is the publisher's."""
    if batching is None or batching.basis is Basis.PUBLISHER:
        return batching
    return batching.model_copy(update={"why": ""}) if batching.max_size is not None else None


def _said(tolerance: Tolerance) -> str:
    return f"absolute={tolerance.absolute:g},relative={tolerance.relative:g},top1={tolerance.top1_agreement:g}"


@dataclass(frozen=True)
class PublishResult:
    """What a publishing did, or would do."""

    manifest: Manifest
    """As the registry has it."""
    created: bool = False
    """False: the same content was published before, or nothing was changed."""
    sent_bytes: int | None = 0
    """Of blobs, over the wire; of a dry run: what would be sent, and None where the registry does not answer."""
    present_bytes: int | None = 0
    """Of blobs that the registry had; None as above."""
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    """Those that point at the version now, because it was asked for."""


def publish(
    client: ApiClient,
    plan: PublishPlan,
    *,
    observer: Observer = SILENT,
    dry_run: bool = False,
    sign: Callable[[Manifest], object] | None = None,
) -> PublishResult:
    """Publishes what was planned, and points the aliases at it. Doing it again is safe: it goes on where it stopped.

    Args:
        client: The registry.
        plan: Of `make_plan`.
        observer: Told of progress, findings and warnings.
        dry_run: Inspect, measure and compare; change nothing.
        sign: Has a publisher's own keys sign the version before it appears.

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
            would_send, there = _missing(client, manifest)
            return PublishResult(manifest, False, would_send, there, dry_run=True, warnings=warnings)
        blobs = {file.digest: file for file in (*files.values(), golden.file) if file is not None}
        sent = _send(client, {d: blobs[d] for d in manifest.blobs() if d in blobs}, observer)
    created = False
    if published is None:
        path = version_path(manifest.model, manifest.version)
        if sign is not None:
            sign(manifest)
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


def _missing(client: ApiClient, manifest: Manifest) -> tuple[int, int] | tuple[None, None]:
    """Bytes that publishing would send, and those that are there; None where the registry does not answer."""
    count = {False: 0, True: 0}
    try:
        for digest, size in manifest.blobs().items():
            count[client.exists(blob_path(digest))] += size
    except NoAnswerError:  # it was said before
        return None, None
    return count[False], count[True]


def _send(client: ApiClient, files: Mapping[str, LocalFile], observer: Observer) -> tuple[int, int]:
    """What the registry does not have, or has damaged: it looks when it is asked to take it. Bytes sent and present."""
    sent = present = 0
    for file in files.values():
        count = _send_file(client, file, observer)
        sent, present = sent + count, present + file.size - min(count, file.size)
    return sent, present


def _send_file(client: ApiClient, file: LocalFile, observer: Observer) -> int:
    """Bytes sent. Progress is shown once the registry has asked for some."""
    with ExitStack() as stack:
        at: Callable[[int], None] | None = None

        def tell(position: int) -> None:
            nonlocal at
            if at is None and position < file.size:
                at = stack.enter_context(observer.progress(f"sending {file.path.name}", file.size))
            if at is not None:
                at(position)

        return upload(client, file, tell, observer.note)


def _point(client: ApiClient, manifest: Manifest, alias: str) -> None:
    try:
        move_alias(client, manifest.model, alias, manifest.version)
    except ClientError as error:
        done = f"{manifest.model}@{manifest.version} is published"
        error.what = f"{done}, but the alias {alias} was not set: {error.what}"
        raise
