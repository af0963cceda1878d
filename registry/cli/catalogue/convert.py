"""`registry convert`: another form of a published version, made here or by a device that has the tool.

The version's manifest is extended, never changed: see docs/conversion.md. The toolchains belong to the agent, which
this program does not import: on this machine it runs them (`python -m agent.jobs.here`), as it would run any tool, and
checks what comes back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from registry.cli.catalogue.pull import bring
from registry.cli.fleet.devices import is_online
from registry.cli.output import CliError, ExitCode, end_well, meter
from registry.cli.session import Session, command, parse_pairs
from registry.client.errors import NoAnswerError, UsageFault
from registry.client.transfers import hash_file, upload
from registry.client.versions import fetch_manifest, find_version, split_version
from registry.contracts.api.devices import DeviceView, JobRequest, JobView
from registry.contracts.api.versions import VariantAnswer, VariantOffer
from registry.contracts.catalogue.conversions import GOALS, Goal, source_for
from registry.contracts.catalogue.manifest import Manifest, MeasuredParity, Variant
from registry.contracts.device.deployments import OVER, JobKind, JobState
from registry.contracts.fit.platforms import Platform
from registry.contracts.golden_vectors import read_cases, with_bytes
from registry.contracts.paths import device_path, job_path, jobs_path, variant_path
from registry.installation import install_command

COMMAND = ("-m", "agent.jobs.here")
PLAN_TIMEOUT_S = 120.0
SLACK_S = 120.0
MAX_ANSWER_BYTES = 4 << 20
STOP_S = 10.0
_MAX_SHOWN = 400


POLL_S = 0.5


def order_of(
    source: Variant,
    goal: Goal,
    options: Mapping[str, str],
    *,
    golden: str | None,
    device: dict[str, str] | None = None,
    folder: Path | None = None,
    timeout_s: float = 0,
    dry_run: bool = False,
) -> dict[str, Any]:
    """As `agent.jobs.here` takes it. `golden`: the file, empty where there will be one, None where there is none.

    `dry_run`: the command is wanted even if its program is not here.
    """
    return {
        "source": source.to_json(),
        "to": str(goal.format),
        "options": dict(options),
        "folder": str(folder) if folder else None,
        "golden": golden,
        "timeout_s": timeout_s,
        "device": device,
        "dry_run": dry_run,
        "parent": os.getpid(),
    }


def plan_of(wanted: dict[str, Any]) -> dict[str, Any]:
    """What would be run: `tool`, `command`, `name`; is its program `missing` here? Raises CliError: it cannot be."""
    found: dict[str, Any] = _run(wanted, PLAN_TIMEOUT_S)["plan"]
    return found


def convert_here(
    session: Session,
    manifest: Manifest,
    source: Variant,
    *,
    goal: Goal,
    options: Mapping[str, str],
    folder: Path,
    timeout_s: float,
) -> None:
    """Makes the variant in `folder`, measures it where it runs here, and adds it. Raises CliError."""
    for file in source.files:
        bring(session, file, folder / "source")
    golden = bring(session, manifest.golden.file, folder / "golden") if manifest.golden else None
    wanted = order_of(source, goal, options, golden=str(golden) if golden else None, folder=folder, timeout_s=timeout_s)
    session.out.note(f"Making {goal.format} from {source.name}.")
    answer = _run(wanted, timeout_s + SLACK_S)
    try:
        variant = Variant.model_validate(answer["variant"])
    except (KeyError, ValidationError) as error:
        raise CliError(f"The conversion's answer cannot be read: {error}", code="bad_answer") from error
    variant = _measured(session, manifest, variant, folder / "out", golden)
    _add(session, manifest, variant, folder / "out")


def _add(session: Session, manifest: Manifest, variant: Variant, folder: Path) -> None:
    path = variant_path(manifest.model, manifest.version, variant.name)
    offer = VariantOffer(variant=variant)
    answer = session.client.change("PUT", path, offer, VariantAnswer, repeatable=True)
    for missing in answer.missing:
        file = hash_file(folder / missing.path)
        if file.digest != missing.digest:
            raise CliError(f"{file.path.name} changed after it was made", code="file_changed")
        with meter(f"uploading {missing.path}", missing.size, quiet=session.out.as_json) as at:
            upload(session.client, file, at, session.out.note)
    if answer.manifest is None:
        answer = session.client.change("PUT", path, offer, VariantAnswer, repeatable=True)
    if answer.manifest is None:
        raise CliError("The registry still lacks files that were uploaded", code="bad_answer")
    if session.out.as_json:
        session.out.document({"variant": variant.to_json(), "manifest": answer.manifest})
    else:
        session.out.say(f"{manifest.model}@{manifest.version} has a variant {variant.name} now ({variant.format}).")


def _measured(session: Session, manifest: Manifest, variant: Variant, folder: Path, golden: Path | None) -> Variant:
    """The variant with its parity; as it was where it cannot run here. Raises CliError(golden_mismatch)."""
    if manifest.golden is None or golden is None:
        session.out.note("  not measured: the version has no golden vectors")
        return variant
    from registry.running.parity import measure  # noqa: PLC0415 - needs NumPy
    from registry.running.process import LocalVariants  # noqa: PLC0415 - as above

    with ExitStack() as stack:
        process = LocalVariants([variant], lambda made: folder / made.entry, stack).process(variant.name)
        if isinstance(process, str):
            session.out.note(f"  not measured here: {process}")
            return variant
        content = golden.read_bytes()
        parity = measure(process, with_bytes(read_cases(content, len(content)), content), manifest.golden.tolerance)
        backend = process.backend
    figures = f"largest error {parity.max_abs:.3g}, relative {parity.max_rel:.3g}"
    if not parity.passed:
        raise CliError(
            f"{variant.name} does not answer the golden vectors as the manifest says: {parity.why}; {figures}",
            code="golden_mismatch",
            hint="It was not added. Its precision is too low for this version's tolerance; try other --option values.",
        )
    session.out.note(f"  measured on {backend}: {figures}: passed")
    measured = MeasuredParity(parity=parity, backend=backend, reference=manifest.golden.reference)
    return variant.model_copy(update={"parity": measured})


def _run(wanted: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The conversion program's answer. Raises CliError. Interrupted, it is told to stop and waited for."""
    with subprocess.Popen(
        [sys.executable, *COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            out, errors = process.communicate(json.dumps(wanted).encode(), timeout=timeout_s)
        except BaseException as error:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise CliError("The conversion did not end in time", code="tool_timeout") from None
            raise
    try:
        answer: dict[str, Any] = json.loads(out[:MAX_ANSWER_BYTES])
        fault = answer.get("error")
    except (ValueError, AttributeError):
        words = " ".join(errors.decode("utf-8", "replace").split())[-_MAX_SHOWN:]
        raise CliError(
            f"The conversion program cannot run here: {words}",
            code="tool_missing",
            hint=f"It needs the agent's packages: {install_command('agent', 'publish')}; or use --on DEVICE",
        ) from None
    if fault is not None:
        raise CliError(str(fault["message"]), code=str(fault["code"]), exit_code=ExitCode.FAILURE)
    return answer


GoalName = Literal["onnx", "mindir", "air", "om", "tensorrt-plan", "onnx-int8"]
"""What to make: the keys of GOALS."""


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
    model, version = split_version(reference)
    if wait and on is None:
        raise UsageFault("--wait waits for a device: name it with --on", hint="Without --on it is done when this ends.")
    goal, options = GOALS[to], _options(option or [])
    manifest = fetch_manifest(session.client, find_version(session.client, model, version))
    start = _source(manifest, goal, to, source)
    device = _device(session, on) if on is not None else None
    golden = "" if manifest.golden else None
    order = order_of(start, goal, options, golden=golden, device=device, dry_run=dry_run)
    plan = plan_of(order)
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
                convert_here(
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
    session.out.say("  " + " ".join(shlex.quote(part) for part in plan["command"]))
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
