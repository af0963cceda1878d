"""`registry deploy | undeploy`: what a device should serve, and, with --wait, until it does.

Desired state is a document, not a command: a device that is away takes it up when it is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from registry.cli.fleet.devices import (
    epoch_text,
    has_seen,
    is_online,
    of_another_epoch,
    presence_text,
    progress_text,
    quarantine_text,
    reported_models,
)
from registry.cli.output import CliError, ExitCode, age_text, time_text
from registry.cli.rollouts.spec import (
    MaxNanOption,
    PolicyOption,
    ProbationOption,
    ShadowOption,
    policy_body,
    policy_of,
)
from registry.cli.session import Session, command
from registry.client.errors import ClientError, NoAnswerError, ProblemError
from registry.client.versions import split_version
from registry.contracts.api.devices import Deployment, DeploymentView, DeviceView
from registry.contracts.catalogue.batching import BatchingMode
from registry.contracts.codes import ON_DEVICE, ProblemCode, known
from registry.contracts.device.deployments import Phase
from registry.contracts.device.messages import Profile, ReportedModel, ServingState
from registry.contracts.paths import deployment_path, device_path

T = TypeVar("T")
POLL_S = 0.5


Devices = Annotated[list[str], typer.Option("--device", "-d", metavar="DEVICE", help="May be repeated.")]


@command
def deploy(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL@VERSION|MODEL@ALIAS")],
    *,
    device: Devices,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Deploy this variant. Default: the best that fits.")
    ] = None,
    profile: Annotated[
        Profile, typer.Option(help="throughput: one thread per run. latency: all cores for one run.")
    ] = Profile.THROUGHPUT,
    batching: Annotated[
        BatchingMode, typer.Option(help="off: one request at a time, whatever the manifest permits.")
    ] = BatchingMode.AUTO,
    force: Annotated[bool, typer.Option("--force", help="Deploy even if no variant fits the device's facts.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try again, even if the device has put this version into quarantine.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the device serves the version or reports a failure.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, max=86_400, metavar="SECONDS", help="Deadline of --wait.")
    ] = 300.0,
    probation: ProbationOption = None,
    shadow: ShadowOption = None,
    max_nan: MaxNanOption = None,
    policy: PolicyOption = None,
) -> None:
    """Deploy a version to devices. An alias is resolved once, now.

    With --wait: exit code 0 when the device serves the version, 1 when it reports a failure, 7 when the time is over.
    The version is then in probation: for a minute the device watches it, and rolls back by itself if it fails. After
    that `registry devices show` shows it as committed. --policy takes every field of a rollout's policy.

    ```
    registry deploy lenet@1.0.0 --device edge-1 --wait
    registry deploy lenet@stable -d edge-1 -d edge-2 --profile latency
    registry deploy lenet@1.0.0 -d edge-1 --retry --wait   # after it failed there
    registry deploy lenet@1.0.0 -d edge-1 --probation 10m --policy probation.max_error_share=0.01
    ```
    """
    model, version = split_version(reference)
    body = Deployment(
        version=version,
        variant=variant,
        profile=profile,
        batching=batching,
        force=force,
        retry=retry,
        policy=policy_of(policy_body(policy, probation, max_nan, shadow)),
    )
    views = _for_each(device, lambda name: _assign(session, name, model, body))
    reports: dict[str, ReportedModel] = {}
    if wait:
        deadline = time.monotonic() + timeout
        reports = {view.device: wait_until_served(session, view, deadline) for view in views}
    if session.out.as_json:
        told = [view.model_dump(mode="json") | {"reported": reports.get(view.device)} for view in views]
        session.out.document(told)


def _for_each(devices: list[str], act: Callable[[str], T]) -> list[T]:
    """`act` for one device after the other; where one fails the error says for which it was done."""
    done: list[T] = []
    try:
        for name in devices:
            done.append(act(name))  # noqa: PERF401 - what was done is told when one fails
    except ClientError as error:
        if done:
            error.errors = (*error.errors, f"before that it was done for {', '.join(devices[: len(done)])}")
        raise
    return done


def _assign(session: Session, device: str, model: str, body: Deployment) -> DeploymentView:
    path = deployment_path(device, model)
    try:
        view = session.client.change("PUT", path, body, DeploymentView, repeatable=True)
    except ProblemError as error:
        if error.code == ProblemCode.CONFLICT:  # no variant fits: it has no other reason
            error.hint = (
                f"Publish or convert a variant for {device} (registry explain {device} {model}@{body.version}), "
                "or deploy it all the same: --force"
            )
        raise
    if not session.out.as_json:
        chosen = f"variant {view.variant}" if view.variant else "the variant that its agent finds to fit"
        session.out.say(f"{device} should serve {model}@{view.version}, {chosen} (generation {view.generation}).")
        was = view.replaced
        if was is not None and was.version != view.version:
            who = f"set by {was.set_by}, " if was.set_by else ""
            session.out.say(f"  It replaces {view.model}@{was.version}, {who}{age_text(was.set_at, session.now())}.")
        if view.note:
            session.out.note(f"  {view.note}")
    return view


def wait_until_served(session: Session, view: DeploymentView, deadline: float) -> ReportedModel:
    """Poll until the device reports that it serves, or cannot; `deadline` is on the monotonic clock.

    Raises:
        CliError: it cannot serve it, the deployment was replaced, or the deadline passed.
    """
    told, device = "", None
    while True:
        try:
            device = session.client.get(device_path(view.device), DeviceView)
        except NoAnswerError as error:
            state = f"the registry does not answer: {error.what}"
        else:
            report = _decided(device, view)
            if report is not None:
                session.out.note(f"{view.device} serves {view.model}@{report.version} on {report.backend or '?'}.")
                if report.deployment is not None and report.deployment.phase is Phase.PROBATION:
                    end = time_text(report.deployment.until)
                    session.out.note(f"  It is in probation until {end}; then: registry devices show {view.device}")
                return report
            state = _state(session, device, view)
        if state != told:
            session.out.note(f"  {view.device}: {state}")
            told = state
        if time.monotonic() >= deadline:
            raise CliError(
                f"The time is over and {view.device} does not serve {view.model}@{view.version} yet: {told}",
                code="deadline",
                hint=f"The assignment stays. See: registry events {view.device}; registry devices show {view.device}",
            )
        time.sleep(POLL_S)


def _decided(device: DeviceView, view: DeploymentView) -> ReportedModel | None:
    """The report when it serves what was asked for, None while it is open."""
    wanted = device.desired.get(view.model)
    if device.generation > view.generation and wanted != view.version:
        raise CliError(f"{device.name} was assigned {view.model}@{wanted or 'nothing'} meanwhile", code="conflict")
    report = device.reported.models.get(view.model) if device.reported else None
    if report is None or not has_seen(device, view.generation):
        return None
    if report.state is ServingState.SERVING and report.version == view.version:
        return report
    if report.state is ServingState.FAILED:
        fault = report.fault
        instead = f" It serves {report.version} instead." if report.version else ""
        progress = report.deployment
        where = f" (failed in {progress.failed_in})" if progress is not None and progress.failed_in else ""
        again = quarantine_text(device.name, view.model, progress) or "The same once more: --retry."
        row = known(fault.code, ON_DEVICE) if fault else None
        todo = f"{row.action} " if row else ""
        raise CliError(
            f"{device.name} cannot serve {view.model}@{view.version}{where}: "
            f"{fault.message if fault else 'no reason given'}.{instead}",
            code=fault.code if fault else "failed",
            hint=f"{todo}See: registry explain {device.name} {view.model}@{view.version}; "
            f"registry events {device.name}. {again}",
            exit_code=ExitCode.FAILURE,
        )
    return None


def _state(session: Session, device: DeviceView, view: DeploymentView) -> str:
    if not is_online(device):
        seen = age_text(device.last_seen, session.now())
        if not has_seen(device, view.generation):
            return f"{presence_text(device)} (last seen {seen}); it takes this up when it is back"
    if of_another_epoch(device):
        return epoch_text(device)
    if not has_seen(device, view.generation):
        fault = device.reported.fault if device.reported else None
        return f"cannot take it up: {fault.code}: {fault.message}" if fault else "has not answered this generation yet"
    report = reported_models(device).get(view.model)
    if report is None:
        return "has not started on it yet"
    progress = f": {progress_text(report.deployment)}" if report.deployment is not None else ""
    return f"{report.state}{f', serves {report.version} meanwhile' if report.version else ''}{progress}"


@command
def undeploy(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    device: Devices,
) -> None:
    """Stop serving a model on devices.

    ```
    registry undeploy lenet --device edge-1
    ```
    """

    def remove(name: str) -> None:
        session.client.send("DELETE", deployment_path(name, model))
        if not session.out.as_json:
            session.out.say(f"{name} should no longer serve {model}.")

    _for_each(device, remove)
    if session.out.as_json:
        session.out.document([{"device": name, "model": model, "deployed": False} for name in device])
