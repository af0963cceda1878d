"""`registry convert`: another form of a published version, made here or by a device that has the tool.

The version's manifest is extended, never changed: see docs/conversion.md.
"""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Annotated, Any

import typer

from registry.cli.catalogue import convert_here
from registry.cli.fleet.devices import is_online
from registry.cli.output import CliError, end_well
from registry.cli.session import Session, command, parse_pairs
from registry.client.errors import NoAnswerError, UsageFault
from registry.client.versions import fetch_manifest, find_version, split_reference
from registry.contracts.api.devices import DeviceView, JobRequest, JobView
from registry.contracts.catalogue.conversions import GOALS, Goal, source_for
from registry.contracts.catalogue.manifest import Manifest, Variant
from registry.contracts.device.jobs import JobKind, JobState
from registry.contracts.fit.platforms import Platform
from registry.contracts.paths import device_path, job_path, jobs_path

POLL_S = 0.5
OVER = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class GoalName(str, Enum):
    """What to make."""

    ONNX = "onnx"
    MINDIR = "mindir"
    AIR = "air"
    OM = "om"
    TENSORRT_PLAN = "tensorrt-plan"
    ONNX_INT8 = "onnx-int8"


@command
def convert(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL@VERSION|MODEL@ALIAS")],
    *,
    to: Annotated[GoalName, typer.Option("--to", help="What to make.")],
    on: Annotated[
        str | None, typer.Option("--on", metavar="DEVICE", help="Convert on this device. Default: on this machine.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="VARIANT",
            help="The variant to convert. Default: one from which a tool leads to the goal.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-O", metavar="KEY=VALUE", help="An option of the tool; KEY=@FILE uses a file's text."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="With --on: wait until the job is over.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, max=86_400, metavar="SECONDS", help="Time limit of the tool.")
    ] = 3600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the exact command; run and change nothing.")] = False,
) -> None:
    """Add another form of a version: ONNX, MindIR, AIR, OM, a TensorRT plan or INT8.

    The result becomes a variant of the version, with a record of how it was made. Every device with the same facts
    downloads it and need not compile. If the result can run where it was made, it is first compared with the version's
    golden vectors.

    ```
    registry convert lenet@1.0.0 --to onnx
    registry convert lenet@1.0.0 --to onnx-int8 --option mode=static
    registry convert lenet@1.0.0 --to om --on edge-310 --wait -O dynamic_batch_size=1,2,4,8
    registry convert lenet@1.0.0 --to om -O soc_version=Ascend310P3 -O cann_version=8.0.RC1 --dry-run
    registry convert lenet@1.0.0 --to tensorrt-plan --on edge-gpu --wait
    ```
    """
    model, version = split_reference(reference)
    if version is None:
        raise UsageFault(f"Which version of {model}?", hint=f"For example {model}@1.0.0 or {model}@stable")
    if wait and on is None:
        raise UsageFault("--wait waits for a device: name it with --on", hint="Without --on it is done when this ends.")
    goal, options = GOALS[to.value], _options(option or [])
    manifest = fetch_manifest(session.client, find_version(session.client, model, version))
    start = _source(manifest, goal, to.value, source)
    device = _device(session, on) if on is not None else None
    golden = "" if manifest.golden else None
    order = convert_here.order(start, goal, options, golden=golden, device=device, dry_run=dry_run)
    plan = convert_here.plan(order)
    if manifest.variant(plan["name"]) is not None:
        raise CliError(
            f"{model}@{manifest.version} has a variant {plan['name']!r} already, and variants never change",
            code="conflict",
            hint="To see it: registry show. To add another one, give it a name: --option name=...",
        )
    if dry_run:
        _tell_plan(session, plan, start, on)
    elif on is not None:
        request = JobRequest(
            device=on,
            kind=JobKind.CONVERT,
            model=model,
            version=manifest.version,
            source=start.name,
            to=goal.format,
            options=options,
            timeout_s=timeout,
        )
        _on_device(session, request, wait=wait, online=is_online(session.client.get(device_path(on), DeviceView)))
    else:
        end_well()
        try:
            with TemporaryDirectory(prefix="modelfleet-convert-") as folder:
                convert_here.convert(
                    session, manifest, start, goal=goal, options=options, folder=Path(folder), timeout_s=timeout
                )
        except OSError as error:
            hint = "Free some space there, or name another folder in TMPDIR."
            raise CliError(f"{gettempdir()}: {error}", code="disk_error", hint=hint) from error


def _options(pairs: list[str]) -> dict[str, str]:
    options = parse_pairs(pairs, "--option", "KEY=VALUE")
    for key, value in options.items():
        if value.startswith("@"):
            try:
                options[key] = Path(value[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageFault(f"--option {key}: {value[1:]} cannot be read: {error}") from error
    return options


def _source(manifest: Manifest, goal: Goal, to: str, name: str | None) -> Variant:
    """The variant to start from. Raises UsageFault."""
    wanted = ", ".join(goal.sources)
    found = source_for(manifest, goal) if name is None else manifest.variant(name)
    have = ", ".join(f"{variant.name} ({variant.format})" for variant in manifest.variants)
    if name is not None and found is None:
        raise UsageFault(f"{manifest.model}@{manifest.version} has no variant {name!r}; it has: {have}")
    if found is None or found.format not in goal.sources:
        raise UsageFault(f"{to} is made from: {wanted}; {manifest.model}@{manifest.version} has: {have}")
    return found


def _device(session: Session, name: str) -> dict[str, str]:
    """What of a device's facts decides about its commands. Raises CliError: there is no such device."""
    facts = session.client.get(device_path(name), DeviceView).facts or Platform(os="", arch="")
    return {
        "name": name,
        "soc": facts.ascend.soc if facts.ascend else "",
        "cann": facts.cann.version if facts.cann else "",
        "compute_capability": facts.cuda.compute_capability if facts.cuda else "",
    }


def _tell_plan(session: Session, plan: dict[str, Any], start: Variant, on: str | None) -> None:
    if session.out.as_json:
        session.out.document({**plan, "source": start.name, "on": on})
        return
    session.out.say(f"{plan['tool']} would make {plan['name']} from {start.name}, {f'on {on}' if on else 'here'}:")
    session.out.say("  " + " ".join(convert_here.quoted(part) for part in plan["command"]))
    if plan["missing"]:
        session.out.note("  What runs this is not installed here: install it, or convert on a device: --on DEVICE")


def _on_device(session: Session, request: JobRequest, *, wait: bool, online: bool) -> None:
    view = session.client.change("POST", jobs_path(), request, JobView)
    session.out.note(f"Job {view.id} for {view.device}.")
    if not online:
        session.out.note(f"  {view.device} is offline: it begins when it comes back, by {view.expires_at:%F %R} UTC.")
    if wait:
        session.out.note(f"  Ctrl-C ends the waiting, not the job: registry jobs cancel {view.id}")
        view = wait_until_over(session, view)
    if session.out.as_json:
        session.out.document(view)
    elif wait:
        made, measured = view.status.result.get("variant", {}), view.status.result.get("measured", "")
        session.out.say(f"{view.device} made {made.get('name', '?')} of {request.model}@{view.job.version}.")
        session.out.say(
            f"  not measured: {measured}" if isinstance(measured, str) else "  It answers the golden vectors."
        )
    else:
        session.out.say(f"{view.device} will do it. See: registry jobs show {view.id}")


def wait_until_over(session: Session, view: JobView) -> JobView:
    """Poll until the job is over. Raises CliError when it failed, was cancelled or its time passed."""
    told, deadline = "", view.expires_at
    while True:
        try:
            view = session.client.get(job_path(view.id), JobView)
        except NoAnswerError as error:
            state = f"the registry does not answer: {error.what}"
        else:
            status, deadline = view.status, view.expires_at
            state = f"{status.state}{f', {status.message}' if status.message else ''}"
        if state != told:
            session.out.note(f"  {view.device}: {state}")
            told = state
        if view.status.state is JobState.SUCCEEDED:
            return view
        if view.status.state in OVER:
            raise CliError(
                f"{view.device} did not do it: {view.status.message or view.status.state}",
                code=view.status.code or "failed",
                hint=f"See: registry jobs show {view.id}; registry events {view.device}",
            )
        if session.now() > deadline:
            raise CliError(f"Job {view.id} is not over yet: {told}", code="deadline")
        time.sleep(POLL_S)
