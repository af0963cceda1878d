"""`registry devices`: the edge hosts, their deployments in words, and the credentials of their agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.fleet.labels import label as change_labels
from registry.cli.fleet.selection import (
    CONNECTION_TEXT,
    BehindOption,
    FailingOption,
    FleetOption,
    LimitOption,
    NameOption,
    ServesOption,
    SortOption,
    StateOption,
    end_line,
    fleet_line,
    nothing_line,
    selected,
    selection,
    summary_of,
)
from registry.cli.fleet.signatures import trust_text
from registry.cli.list_group import list_group
from registry.cli.output import age_text, require_new_file, time_text, write_secret
from registry.cli.session import Session, command, confirm, parse_labels
from registry.cli.streaming import stream
from registry.cli.withdrawn import warn_withdrawn, withdrawn_text
from registry.client.errors import UsageFault
from registry.contracts.api.agents import CA_FILE, TRUST_FILE, AgentConnection, agent_toml, token_file, trust_json
from registry.contracts.api.devices import DeviceCreate, DeviceCreated, DeviceView
from registry.contracts.api.fleet import DeviceSort, SlotState, SlotView
from registry.contracts.api.versions import VersionView
from registry.contracts.codes import QUARANTINES
from registry.contracts.device.deployments import DeploymentProgress, Phase
from registry.contracts.device.messages import ReportedModel
from registry.contracts.fit.platforms import Platform
from registry.contracts.paths import device_credential_path, device_path, version_path
from registry.contracts.texts import size_text

_OVER_BADLY = frozenset({Phase.FAILED, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED, Phase.ROLLING_BACK})


app = list_group("Manage devices, the edge hosts with one agent each.")
Device = Annotated[str, typer.Argument(metavar="DEVICE")]
TokenOut = Annotated[
    Path | None,
    typer.Option(
        "--token-out", metavar="FILE", help="Write the credential to this file (mode 600) and do not print it."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Write agent.toml, the credential, the roots of signed metadata and, where the broker has a private "
        "authority, its certificate into this folder, for /etc/modelfleet of the device. Nothing that is there is "
        "replaced.",
    ),
]


def progress_text(progress: DeploymentProgress) -> str:
    """One line: `2.0.0: rolled_back since ..., failed in probation: probation_nan: 3 of 30 answers ...`."""
    parts = [f"{progress.version}: {progress.phase} since {time_text(progress.since)}"]
    if progress.failed_in is not None:
        parts.append(f"failed in {progress.failed_in}")
    if progress.until is not None:
        parts.append(f"until {time_text(progress.until)}")
    if progress.phase is Phase.DOWNLOADING:
        parts.append(f"{size_text(progress.bytes_done)} of {size_text(progress.bytes_total)}")
    if progress.shadow is not None:
        share = progress.shadow.agreement
        agree = "" if share is None else f", {share:.1%} agree"
        parts.append(f"{progress.shadow.compared} requests compared in its shadow{agree}")
    return ": ".join([", ".join(parts), *(text for text in (progress.code, progress.message) if text)])


def quarantine_text(device: str, model: str, progress: DeploymentProgress | None) -> str:
    """How a version comes out of its quarantine on a device; empty where it is in none."""
    if progress is None or progress.phase not in _OVER_BADLY or progress.code not in QUARANTINES:
        return ""
    again = f"registry deploy {model}@{progress.version} --device {device} --retry"
    return f"{progress.version} is in quarantine there; once more: {again}"


@app.command("list")
@command
def list_devices(
    session: Session,
    *,
    fleet: FleetOption = None,
    state: StateOption = None,
    serves: ServesOption = None,
    failing: FailingOption = None,
    behind: BehindOption = False,
    name: NameOption = None,
    limit: LimitOption = None,
    sort: SortOption = DeviceSort.NAME.value,
) -> None:
    """List the devices: whether each is there, what it serves, and how far it is with what it should.

    The first line counts the whole fleet. Rows are printed as they arrive; with --json they are one JSON array.

    ```
    registry devices list --fleet site=paris --state late --state silent
    registry devices list --failing any --sort=-changed --limit 20
    registry devices list --serves lenet@1.0.0 --json | jq -r '.[].name'
    ```
    """
    chosen = selection(fleet, state, serves, failing, behind=behind, name=name, limit=limit, sort=sort)
    summary = summary_of(session, chosen)
    if summary is not None and not session.out.as_json and summary.devices:
        session.out.say(fleet_line(summary))
    nobody = "No devices yet. Add one: registry devices add NAME"
    count = stream(
        session.out,
        selected(session, chosen, brief=summary is not None),
        ("DEVICE", "STATE", "LAST SEEN", "SERVES", "HOST", "LABELS"),
        lambda device: _row(session, device),
        empty="" if chosen.is_filter else nobody,
        optional=("LABELS", "HOST", "LAST SEEN"),
    )
    if session.out.as_json:
        return
    if not count and chosen.is_filter:
        session.out.say(nothing_line(session, chosen, summary))
    elif count and (end := end_line(count, chosen)):
        session.out.say(end)


def _row(session: Session, device: DeviceView) -> tuple[object, ...]:
    return (
        device.name,
        presence_text(device),
        age_text(device.last_seen, session.now()),
        _serves_text(device),
        device.hardware or host_text(device.facts),
        _labels(device.labels),
    )


def _serves_text(device: DeviceView) -> str:
    """`lenet@1.0.0, iris@2.0.0 (should be 2.1.0: downloading)`."""
    if device.state is None:  # an older registry
        serves = ", ".join(serving_text(name, model) for name, model in sorted(reported_models(device).items()))
        return serves or ("-" if not device.desired else "nothing yet")
    fault = [f"agent: {device.code}"] if device.code and all(not slot.code for slot in device.slots.values()) else []
    return ", ".join([*fault, *(slot_text(name, slot) for name, slot in device.slots.items())]) or "-"


def slot_text(model: str, slot: SlotView) -> str:
    """One model of a device: what serves, what should, and how far it is."""
    if slot.state is SlotState.SERVING:
        return f"{model}@{slot.version}"
    state = slot.state.value.replace("_", " ") + (f", {slot.code}" if slot.code else "")
    if slot.version is None:
        return f"{model}@{slot.desired} ({state})"
    if slot.desired in (None, slot.version):
        return f"{model}@{slot.version} ({state})"
    return f"{model}@{slot.version} (should be {slot.desired}: {state})"


def reported_models(device: DeviceView) -> dict[str, ReportedModel]:
    """What the agent said that it serves."""
    return device.reported.models if device.reported else {}


def presence_text(device: DeviceView) -> str:
    """Is its agent there?"""
    alone = ", TWO AGENTS" if device.rivals else ""
    if device.connection is not None:
        return CONNECTION_TEXT[device.connection] + alone
    if is_online(device):
        return ("online" if device.presence is not None and device.presence.online else "online over HTTP") + alone
    return "never seen" if device.last_seen is None else "offline"


def is_online(device: DeviceView) -> bool:
    """As the registry says; an older one does not say it, and what the broker had last is all there is."""
    if device.online is None:
        return device.presence is not None and device.presence.online
    return device.online


def has_seen(device: DeviceView, generation: int) -> bool:
    """Does its last report answer this desired generation?"""
    reported = device.reported
    return reported is not None and not of_another_epoch(device) and reported.generation >= generation


def of_another_epoch(device: DeviceView) -> bool:
    """Does its last report answer a document of before the registry was put back from a backup?"""
    return device.reported is not None and device.reported.epoch not in ("", device.epoch)


def epoch_text(device: DeviceView) -> str:
    """Why what it reports answers nothing that is asked now."""
    return (
        f"the registry was put back from a backup ({device.epoch_reason}; since {time_text(device.epoch_since)}), and "
        f"{device.name} still follows the state of before: it asks the registry over HTTP as soon as it hears of it"
    )


def broker_text(device: DeviceView) -> str:
    """What to check where its agent polls over HTTP and is not connected to the broker; empty where it is."""
    if not is_online(device) or (device.presence is not None and device.presence.online):
        return ""
    fault = device.health.broker_fault if device.health is not None else ""
    return (
        "it polls over HTTP, but is not connected to the registry's broker, so nobody can send it requests. "
        + (f"Its agent says: {fault}. " if fault else "")
        + "Run `agent doctor` on its host; check host, port, prefix and tls under [mqtt] in its agent.toml, "
        f"and that the broker's access list lets {device.name} read and write the topics of its name"
    )


def serving_text(name: str, model: ReportedModel) -> str:
    """lenet@1.0.0, with the state where it is not simply serving."""
    state = "" if model.state == "serving" else f" ({model.state})"
    return f"{name}@{model.version or 'none'}{state}"


def host_text(facts: Platform | None) -> str:
    """Architecture, processors and the targets that really run there."""
    if facts is None:
        return "unknown"
    targets = sorted({target for backend in facts.backends if backend.usable for target in backend.targets})
    return f"{facts.arch}, {facts.cpu_count} CPUs, runs {'/'.join(targets) or 'nothing'}"


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


@app.command("show")
@command
def show_device(session: Session, device: Device) -> None:
    """Show one device: its host, what it should serve, and what it serves.

    ```
    registry devices show edge-1
    ```
    """
    view = session.client.get(device_path(device), DeviceView)
    if session.out.as_json:
        session.out.document(view)
        return
    out = session.out
    seen = age_text(view.last_seen, session.now())
    out.field(f"{view.name}: ", f"{presence_text(view)}, last seen {seen}, generation {view.generation}")
    rivals = " and ".join(session_id[:12] for session_id in view.rivals)
    alert = f"two agents run under this name (sessions {rivals}): stop one, or give it another name"
    fault = view.reported.fault if view.reported is not None else None
    for label, text in (
        ("ALERT", alert if view.rivals else ""),
        ("NOTE", epoch_text(view) if of_another_epoch(view) else ""),
        ("NOTE", broker_text(view)),
        ("labels", _labels(view.labels)),
        ("FAULT", f"{fault.code}: {fault.message}" if fault is not None else ""),
        ("trust", trust_text(view)),
    ):
        if text:
            out.field(f"  {label:<7} ", text)
    _say_host(session, view.facts)
    out.say("")
    models = reported_models(view)
    rows = (
        (name, view.desired.get(name, "-"), *_report_cells(models.get(name)))
        for name in sorted(set(view.desired) | set(models))
    )
    out.table(
        ("MODEL", "SHOULD", "SERVES", "STATE", "VARIANT", "BACKEND", "SINCE", "FAULT"),
        rows,
        empty=f"It should serve nothing. Deploy: registry deploy MODEL@VERSION --device {view.name}",
        optional=("SINCE", "BACKEND", "VARIANT"),
    )
    for version in _withdrawn(session, models):
        warn_withdrawn(out, version)
    for name, model in sorted(models.items()):
        if model.batching:
            out.say("")
            out.field(f"{name}: ", model.batching)
        if model.deployment is not None:
            out.say("")
            out.field(f"{name}@", progress_text(model.deployment))
            if again := quarantine_text(view.name, name, model.deployment):
                out.field("  ", _yanked_text(session, view, name, model.deployment) or again)


def _yanked_text(session: Session, device: DeviceView, model: str, progress: DeploymentProgress) -> str:
    """Why a version that is in quarantine cannot be tried again there, and what is allowed; empty: it can, as one can
    that the device should serve already."""
    if device.desired.get(model) == progress.version:
        return ""
    version = session.client.find(version_path(model, progress.version), VersionView)
    if version is None:
        return f"{progress.version} is in quarantine there; it was deleted"
    if version.yanked is None:
        return ""
    return (
        f"{progress.version} is in quarantine there, and was {withdrawn_text(version)}. Deploy another version, or let "
        f"this one be deployed again: registry yank {model}@{progress.version} --undo"
    )


def _withdrawn(session: Session, models: Mapping[str, ReportedModel]) -> list[VersionView]:
    """The versions that it serves and that were yanked or taken back; one that was deleted cannot be looked up."""
    served = [version_path(name, model.version) for name, model in sorted(models.items()) if model.version]
    found = (session.client.find(path, VersionView) for path in served)
    return [version for version in found if version is not None and withdrawn_text(version)]


def _say_host(session: Session, facts: Platform | None) -> None:
    if facts is None:
        session.out.field("  host    ", "unknown: its agent has not reported yet")
        return
    memory = size_text(facts.memory_bytes) if facts.memory_bytes is not None else "unknown"
    session.out.field("  host    ", f"{facts.os} {facts.arch}, {facts.cpu_count} CPUs, memory {memory}")
    for backend in facts.backends:
        state = f"runs {'/'.join(backend.targets)}" if backend.usable else f"not usable: {backend.reason}"
        session.out.field("  backend ", f"{backend.name} {backend.version}: {state}")


def _report_cells(model: ReportedModel | None) -> Sequence[object]:
    if model is None:
        return "-", "not reported", "-", "-", "-", ""
    fault = f"{model.fault.code}: {model.fault.message}" if model.fault else ""
    return model.version or "-", model.state, model.variant or "-", model.backend or "-", time_text(model.since), fault


@app.command("add")
@command
def add_device(
    session: Session,
    device: Device,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")] = None,
    out: Out = None,
    token_out: TokenOut = None,
) -> None:
    """Register a device. Prints its agent's credential, once, and the settings that the agent needs.

    If the device is registered already, its credential stays. --label then replaces its labels.

    ```
    registry devices add edge-1 --label site=hall-3
    registry devices add edge-1 --out edge-1/
    ```
    """
    files = _CredentialFiles.chosen(device, out, token_out)
    known = session.client.find(device_path(device), DeviceView) if label is None else None
    body = DeviceCreate(labels=known.labels if known is not None else parse_labels(label or []))
    answer = session.client.send("PUT", device_path(device), body)
    if answer.status == 201:
        _tell_credential(session, answer.decode(DeviceCreated), files, f"Registered {device}.")
        return
    view = answer.decode(DeviceView)
    labels = _labels(view.labels) or "none"
    text = f"{device} was registered already; its labels are: {labels}."
    session.out.answer(view, f"{text} A new credential: registry devices rotate {device}")


@app.command("rotate")
@command
def rotate(session: Session, device: Device, out: Out = None, token_out: TokenOut = None) -> None:
    """Give a device a new credential. The old one stops working at once.

    ```
    registry devices rotate edge-1 --token-out edge-1.token
    registry devices rotate edge-1 --out edge-1/
    ```
    """
    files = _CredentialFiles.chosen(device, out, token_out)
    answer = session.client.send("POST", device_credential_path(device))
    _tell_credential(session, answer.decode(DeviceCreated), files, f"{device} has a new credential.")


def _tell_credential(session: Session, created: DeviceCreated, files: _CredentialFiles, done: str) -> None:
    connection = created.connection or AgentConnection()
    settings = agent_toml(created.device, connection, session.address.url)
    written = files.write(created, settings)
    if session.out.as_json:
        told = {"device": created.device, "agent_toml": settings, "files": [str(path) for path in written]}
        secret = {"token": created.token} if files.token is None else {"token_file": str(files.token)}
        session.out.document({**told, **secret})
        return
    out = session.out
    out.say(done)
    name = token_file(created.device)
    if files.folder is not None:
        out.say(f"For /etc/modelfleet on the device: {', '.join(map(str, written))}")
        out.say(f"Or start the agent from there: agent run --config {files.folder / 'agent.toml'}")
    elif files.token is None:
        out.say(f"Its credential, shown only now; put it into {name} beside agent.toml, readable by the agent only:\n")
        out.say(f"  {created.token}\n")
    else:
        out.say(f"Its credential is in {files.token}; bring it to the device as {name}, beside agent.toml.\n")
    if files.folder is None:
        out.say(settings)
        if connection.broker is not None and connection.broker.authorities:
            out.say(f"{CA_FILE}, beside agent.toml:\n\n{connection.broker.authorities}")
        if trust := trust_json(connection):
            out.say(f"{TRUST_FILE}, beside agent.toml:\n\n{trust}")
    if session.address.is_loopback and not connection.registry_url:
        out.note("These addresses are this host's own. For other hosts, set public.url in the registry's settings.")


@dataclass(frozen=True)
class _CredentialFiles:
    """Where a new credential is written, and what belongs to it."""

    folder: Path | None
    token: Path | None

    @classmethod
    def chosen(cls, device: str, out: Path | None, token_out: Path | None) -> _CredentialFiles:
        """Of the options. Raises UsageFault: both are given, or one of the files is there."""
        if out is None:
            require_new_file(token_out)
            return cls(None, token_out)
        if token_out is not None:
            raise UsageFault("--out writes the credential too: give it or --token-out, not both")
        for name in ("agent.toml", token_file(device), CA_FILE, TRUST_FILE):
            require_new_file(out / name)
        return cls(out, out / token_file(device))

    def write(self, created: DeviceCreated, settings: str) -> list[Path]:
        """The credential first: it is shown only once."""
        if self.token is None:
            return []
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        write_secret(self.token, created.token)
        written = [self.token]
        if self.folder is not None:
            connection = created.connection or AgentConnection()
            broker = connection.broker
            texts = {
                CA_FILE: broker.authorities if broker is not None else "",
                TRUST_FILE: trust_json(connection),
                "agent.toml": settings,
            }
            for name, text in texts.items():
                if text:
                    (self.folder / name).write_text(text, encoding="utf-8")
                    written.append(self.folder / name)
        return written


@app.command("remove")
@command
def remove(
    session: Session,
    device: Device,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a device with its credential, reports and deployments.

    ```
    registry devices remove edge-1
    ```
    """
    view = session.client.get(device_path(device), DeviceView)
    serving = ", ".join(f"{name}@{version}" for name, version in sorted(view.desired.items())) or "nothing"
    confirm(session, f"Remove {device}, which should serve {serving}?", yes=yes)
    session.client.send("DELETE", device_path(device))
    session.out.answer({"removed": device}, f"Removed {device}.")


app.command("label")(change_labels)
