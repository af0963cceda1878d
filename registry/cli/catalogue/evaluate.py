"""`registry evaluate`: what a version scores on a validation set: on this machine, or on the devices that use it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.catalogue.manifest_text import SCORES, evaluations_of, show_evaluations
from registry.cli.catalogue.pull import bring
from registry.cli.fleet.selection import (
    BehindOption,
    DeviceSelection,
    FailingOption,
    FleetOption,
    NameOption,
    ServesOption,
    StateOption,
    nothing_matches,
    selected,
    selection,
    summary_of,
)
from registry.cli.listing import MAX_SORTED, show_list, sort_option
from registry.cli.output import CliError, ExitCode, end_well
from registry.cli.session import Session, command
from registry.client.errors import UsageFault
from registry.client.versions import fetch_manifest, find_version, split_reference
from registry.contracts.api.devices import DeviceView, JobRequest, JobView
from registry.contracts.api.versions import VersionView
from registry.contracts.catalogue.manifest import FileRef, Manifest, Target, Variant
from registry.contracts.device.deployments import OVER, JobKind, JobState
from registry.contracts.evaluation import METRICS, DatasetView, EvaluationCreate, EvaluationView
from registry.contracts.paths import dataset_path, device_path, evaluations_path, job_path, jobs_path
from registry.contracts.texts import how_many

if TYPE_CHECKING:
    from registry.running.process import Order


@dataclass(frozen=True)
class Wanted:
    """What is to be measured."""

    version: VersionView
    dataset: DatasetView
    metric: str
    variant: str | None
    """None: the one that the host uses."""
    timeout_s: float


POLL_S = 0.5


@command
def evaluate(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|@ALIAS]", help="Without VERSION: the newest.")],
    *,
    dataset: Annotated[str | None, typer.Option("--dataset", help="A published validation set.")] = None,
    metric: Annotated[str, typer.Option("--metric", help=f"One of: {', '.join(METRICS)}.")] = "accuracy",
    on: Annotated[
        list[str] | None, typer.Option("--on", metavar="DEVICE", help="Evaluate on this device; may be repeated.")
    ] = None,
    fleet: FleetOption = None,
    state: StateOption = None,
    serves: ServesOption = None,
    failing: FailingOption = None,
    behind: BehindOption = False,
    name: NameOption = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Evaluate this variant. Default: the one that the host uses.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Only show the existing scores, newest first.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, max=MAX_SORTED, help="So many devices or scores at most.")
    ] = None,
    sort: Annotated[str | None, sort_option(SCORES.orders, "the newest first; with --list")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, max=86_400, metavar="SECONDS", help="Time limit for each device.")
    ] = 3600.0,
) -> None:
    """Measure a version's score on a validation set, for each variant and device.

    Without a device the variant that fits this machine runs here. --on names devices; the other options choose them as
    `registry devices list` does. A device runs the variant that it serves, or would serve, in a separate worker. Exit
    code 1: a device failed. Exit code 7: a device did not answer in time; its job continues.

    ```
    registry evaluate lenet@1.0.0 --dataset digits-test
    registry evaluate lenet@1.0.0 --dataset digits-test --metric macro_f1 --on edge-1 --on edge-2
    registry evaluate lenet@1.0.0 --dataset digits-test --fleet site=paris --json
    registry evaluate lenet@1.0.0 --dataset digits-test --serves lenet@1.0.0 --limit 5
    registry evaluate lenet@1.0.0 --list --sort value
    ```
    """
    version = find_version(session.client, *split_reference(reference))
    chosen = selection(fleet, state, serves, failing, behind=behind, name=name, limit=limit)
    if listed:
        if chosen.is_filter or on:
            raise UsageFault("--list shows the scores of every device", hint="registry devices list chooses devices")
        show_list(session, SCORES, evaluations_path(version.model, version.version), limit=limit, sort=sort)
        return
    if sort is not None:
        raise UsageFault("--sort orders the existing scores", hint="Give --list with it")
    if dataset is None:
        raise UsageFault("No validation set is given", hint="--dataset NAME; registry dataset lists them")
    if metric not in METRICS:
        raise UsageFault(f"Unknown metric {metric!r}", hint=f"One of: {', '.join(METRICS)}")
    view = session.client.get(dataset_path(dataset), DatasetView)
    wanted = Wanted(version, view, metric, variant, timeout)
    devices = _devices(session, on or [], chosen) if on or chosen.is_filter else []
    show_evaluations(session, _on_devices(session, wanted, devices) if devices else [_here(session, wanted)])


def _here(session: Session, wanted: Wanted) -> EvaluationView:
    from registry.running import parity as running  # noqa: PLC0415 - needs NumPy
    from registry.running.process import ModelProcess  # noqa: PLC0415 - as above

    end_well()
    version, dataset = wanted.version, wanted.dataset
    manifest = fetch_manifest(session.client, version)
    variant, order = _runs_here(manifest, wanted.variant)
    with TemporaryDirectory(prefix="modelfleet-evaluate-") as folder:
        for file in variant.files:
            bring(session, file, Path(folder) / "variant")
        set_ref = FileRef(path="dataset.safetensors", digest=dataset.digest, size=dataset.size)
        items = bring(session, set_ref, Path(folder))
        with ModelProcess(replace(order, file=Path(folder) / "variant" / variant.entry)) as process:
            session.out.note(f"running {variant.name} on {process.backend}")
            found = running.evaluate(process, variant, manifest.classification, items, wanted.metric)
            backend = process.backend
    body = EvaluationCreate(
        variant=variant.name,
        dataset=dataset.name,
        metric=wanted.metric,
        value=found.value,
        items=found.items,
        backend=backend,
        seconds=found.seconds,
    )
    return session.client.change("POST", evaluations_path(version.model, version.version), body, EvaluationView)


def _runs_here(manifest: Manifest, name: str | None) -> tuple[Variant, Order]:
    """The named variant, or the first that this machine can run, and how: nothing is fetched to find that out."""
    from registry.running.process import (  # noqa: PLC0415 - needs NumPy
        CannotRunError,
        order_for,
        require_device,
    )

    reasons = []
    for variant in manifest.variants:
        if name not in (None, variant.name):
            continue
        sides = variant.inputs, variant.outputs
        order = order_for(Path(variant.entry), variant.format, variant.target, *sides, network=variant.network)
        if not isinstance(order, str) and variant.target is not Target.CPU:  # every machine has that one
            try:
                require_device(order)
            except CannotRunError as error:
                order = error.message
        if not isinstance(order, str):
            return variant, order
        reasons.append(f"{variant.name}: {order}")
    if not reasons:
        have = ", ".join(variant.name for variant in manifest.variants)
        raise CliError(f"There is no variant {name!r}; there are {have}", code="not_found")
    raise CliError("No variant can be run here", code="cannot_run", hint="On a device: --on", errors=tuple(reasons))


def _devices(session: Session, named: Sequence[str], chosen: DeviceSelection) -> list[DeviceView]:
    found = [session.client.get(device_path(name), DeviceView) for name in named]
    if chosen.is_filter:
        summary = summary_of(session, chosen)
        found += [device for device in selected(session, chosen, brief=False) if device.name not in named]
        if not found:
            raise nothing_matches(session, chosen, summary)
    return found


def _on_devices(session: Session, wanted: Wanted, devices: Sequence[DeviceView]) -> list[EvaluationView]:
    version, dataset = wanted.version, wanted.dataset
    jobs = [_begin(session, wanted, device) for device in devices]
    deadline = time.monotonic() + wanted.timeout_s
    ended = [_wait(session, job, deadline) for job in jobs]
    failed = [job for job in ended if job.status.state is not JobState.SUCCEEDED]
    devices_done = {job.device for job in ended} - {job.device for job in failed}
    scores = [
        found
        for found in evaluations_of(session, version)
        if found.device in devices_done and (found.dataset_digest, found.metric) == (dataset.digest, wanted.metric)
    ]
    if failed:
        late = all(job.status.state not in OVER for job in failed)
        if scores:
            show_evaluations(session, scores)
        raise CliError(
            f"{len(failed)} of {how_many(len(ended), 'device')} gave no score",
            code="deadline" if late else failed[0].status.code or "failed",
            hint="registry evaluate --list shows what comes later" if late else "",
            errors=tuple(f"{job.device}: {job.status.state}: {job.status.code} {job.status.message}" for job in failed),
            exit_code=ExitCode.DEADLINE if late else ExitCode.FAILURE,
        )
    return scores


def _serves(device: DeviceView, version: VersionView) -> str | None:
    """The variant of this version that the device says it serves; None: the device chooses."""
    said = device.reported.models.get(version.model) if device.reported else None
    return said.variant if said is not None and said.version == version.version else None


def _begin(session: Session, wanted: Wanted, device: DeviceView) -> JobView:
    request = JobRequest(
        device=device.name,
        kind=JobKind.EVALUATE,
        model=wanted.version.model,
        version=wanted.version.version,
        source=wanted.variant or _serves(device, wanted.version),
        dataset=wanted.dataset.digest,
        dataset_bytes=wanted.dataset.size,
        dataset_name=wanted.dataset.name,
        metric=wanted.metric,
        timeout_s=wanted.timeout_s,
    )
    job = session.client.change("POST", jobs_path(), request, JobView)
    session.out.note(f"{device.name}: job {job.id}")
    return job


def _wait(session: Session, job: JobView, deadline: float) -> JobView:
    """Until the job is over, or the time is."""
    while job.status.state not in OVER and time.monotonic() < deadline:
        time.sleep(POLL_S)
        job = session.client.get(job_path(job.id), JobView)
    return job
