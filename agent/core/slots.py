"""What is known of one model on this device, as the journal keeps it. Values; the reconciler makes new ones.

A slot has three places: active (what answers), candidate (what is being installed), previous (what answered before,
kept in the cache for going back).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from agent.core.lifecycle import State
from registry.contracts.digest import Digest
from registry.contracts.manifest import Classification, ImageInput, Variant
from registry.contracts.messages import DesiredModel, Fault, Profile, ReportedModel, ServingState
from registry.contracts.names import Name, VersionName
from registry.contracts.wire import Wire


class Choice(Wire):
    """A resolved deployment: all that pulling, loading and binding need, so that a restart needs no network."""

    model: Name
    version: VersionName
    manifest: Digest
    variant: Variant
    variant_digest: Digest
    backend: Name
    """The agent's catalogue name of the backend that will run it."""
    profile: Profile
    rollout: str | None = None
    record_results: bool = False
    image: ImageInput | None = None
    classification: Classification | None = None
    degraded: bool = False
    """An accelerator lies idle beside it."""

    def serves(self, desired: DesiredModel) -> bool:
        """Is this what `desired` asks for? A desired variant of None is content with any."""
        return (
            self.manifest == desired.manifest
            and desired.variant in (None, self.variant.name)
            and self.profile == desired.profile
            and self.rollout == desired.rollout
            and self.record_results == desired.record_results
        )


class Serving(Wire):
    """What a loaded worker turned out to be; for reports."""

    backend: str
    """Backend and provider, e.g. `onnxruntime/CPUExecutionProvider`."""
    execution: Literal["process", "inline"]
    max_batch: int
    since: AwareDatetime


class SlotRecord(Wire):
    """One slot in the journal. `desired` None: the model is to go."""

    model: Name
    state: State = State.IDLE
    desired: DesiredModel | None = None
    generation: Annotated[int, Field(ge=0)] = 0
    """The desired generation that `desired` came with."""
    attempts: Annotated[int, Field(ge=0)] = 0
    """Tries of the deployment under way."""
    fault: Fault | None = None
    """Why the deployment waits or was given up."""
    active: Choice | None = None
    candidate: Choice | None = None
    previous: Choice | None = None

    def places(self) -> list[Choice]:
        """Active, candidate and previous, those that are there."""
        return [choice for choice in (self.active, self.candidate, self.previous) if choice is not None]


def report(slot: SlotRecord, serving: Serving | None, crash: Fault | None, *, given_up: bool = False) -> ReportedModel:
    """What a slot says of itself.

    Args:
        slot: The slot.
        serving: The active worker; None while there is none.
        crash: Why the active worker is not there, while it is being started again or was given up.
        given_up: It died too often and is not started again.
    """
    active = slot.active
    answering = active is not None and serving is not None
    return ReportedModel(
        state=_state(slot, answering, given_up),
        version=active.version if active and answering else None,
        manifest=active.manifest if active and answering else None,
        variant=active.variant.name if active and answering else None,
        variant_digest=active.variant_digest if active and answering else None,
        backend=serving.backend if serving else None,
        execution=serving.execution if serving else None,
        max_batch=serving.max_batch if serving else None,
        since=serving.since if serving else None,
        desired_version=slot.desired.version if slot.desired else None,
        fault=crash or slot.fault,
    )


def _state(slot: SlotRecord, answering: bool, given_up: bool) -> ServingState:
    if slot.state is State.FAILED or given_up:
        return ServingState.FAILED
    if slot.active is not None and not answering:
        return ServingState.RECOVERING
    if slot.state is State.IDLE and answering:
        return ServingState.SERVING
    return ServingState.CHANGING if answering else ServingState.PENDING
