"""States of devices and slots as people read them: a word, and the shape and colour that go with it. Pure."""

from __future__ import annotations

from registry.contracts.api.devices import DeploymentView
from registry.contracts.api.fleet import ConnectionState, SlotState
from registry.contracts.fit.choices import ResolutionView
from registry.contracts.fit.platforms import Platform
from registry.services.rollouts.rollouts import DeviceInRollout

CONNECTIONS: dict[ConnectionState, tuple[str, str]] = {
    ConnectionState.ONLINE: ("ok", "Online"),
    ConnectionState.HTTP_ONLY: ("busy", "Only HTTP"),
    ConnectionState.LATE: ("warn", "Late"),
    ConnectionState.SILENT: ("bad", "Silent"),
    ConnectionState.OFFLINE: ("idle", "Offline"),
    ConnectionState.NEVER_SEEN: ("idle", "Never seen"),
}
"""Kind and word."""
SLOTS: dict[SlotState, tuple[str, str]] = {
    SlotState.SERVING: ("ok", "Serving"),
    SlotState.IDLE: ("idle", "Idle"),
    SlotState.LEAVING: ("busy", "Leaving"),
    SlotState.ASSIGNED: ("busy", "Assigned"),
    SlotState.WAITING: ("busy", "Waiting"),
    SlotState.DOWNLOADING: ("busy", "Downloading"),
    SlotState.TRYING: ("busy", "On trial"),
    SlotState.RECOVERING: ("warn", "Recovering"),
    SlotState.ROLLING_BACK: ("warn", "Rolling back"),
    SlotState.WENT_BACK: ("warn", "Went back"),
    SlotState.QUARANTINED: ("bad", "Quarantined"),
    SlotState.FAILING: ("bad", "Failing"),
    SlotState.DOWN: ("bad", "Down"),
}
CHANGING = (SlotState.ASSIGNED, SlotState.WAITING, SlotState.DOWNLOADING, SlotState.TRYING, SlotState.LEAVING)
"""On the way to what should serve, and nothing is wrong."""
TROUBLED = (SlotState.FAILING, SlotState.QUARANTINED, SlotState.DOWN)
MEANINGS: dict[str, str] = {
    ConnectionState.HTTP_ONLY: "It speaks over HTTP and is not connected to the broker: nobody can ask it.",
    ConnectionState.LATE: "Half of its patience is over without a sign of life.",
    ConnectionState.SILENT: "No sign of life in time, and its session did not end: host or network are down.",
    ConnectionState.OFFLINE: "Its session at the broker has ended.",
    ConnectionState.NEVER_SEEN: "It is registered, and never gave a sign of life.",
    SlotState.WENT_BACK: "The version was judged bad there, and the one before serves again.",
    SlotState.QUARANTINED: "The device refuses the version until somebody asks for another attempt.",
    SlotState.FAILING: "The version could not be made to serve; what served before still does.",
    SlotState.DOWN: "It should serve the model, failed to, and nothing serves instead.",
}


def host_text(facts: Platform | None) -> str:
    """Architecture, processors and what really runs there."""
    if facts is None:
        return "not known: its agent has not reported yet"
    targets = sorted({target for backend in facts.backends if backend.usable for target in backend.targets})
    return f"{facts.os} {facts.arch}, {facts.cpu_count} CPUs, runs {', '.join(targets) or 'nothing'}"


def why_text(wanted: DeploymentView, part: DeviceInRollout | None, choice: ResolutionView | None) -> str:
    """Why this version, and why this variant, in one sentence.

    Args:
        wanted: What the slot should serve.
        part: The device's part in the rollout that said so; None: a person did.
        choice: What the registry would choose now; None: it cannot say.
    """
    if part is not None:
        wave = f", in its wave {part.action.wave + 1}" if part.action.wave is not None else ""
        back = "took this device back to it" if part.action.goes_back else "gave it to this device"
        who = f"the rollout {part.rollout} of {part.by or 'somebody'} {back}{wave}"
    else:
        who = f"{wanted.set_by or 'somebody'} deployed it here by hand"
    return f"It should serve {wanted.model}@{wanted.version} because {who}; {_variant_text(wanted, choice)}."


def _variant_text(wanted: DeploymentView, choice: ResolutionView | None) -> str:
    if wanted.variant is None:
        return "the registry does not know the host's facts yet, so its agent chooses the variant"
    if choice is None:
        return f"the variant is {wanted.variant}"
    verdicts = choice.resolution.verdicts
    fitting = [verdict for verdict in verdicts if not verdict.reasons]
    if choice.resolution.chosen != wanted.variant:
        return f"the variant {wanted.variant} was chosen when it was set"
    if len(verdicts) == 1:
        return f"{wanted.variant} is its only variant, and it fits this host"
    if len(fitting) == 1:
        return f"of its {len(verdicts)} variants only {wanted.variant} fits this host"
    return f"of the {len(fitting)} variants that fit this host {wanted.variant} ranks first"
