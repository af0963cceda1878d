"""Does what this device has still fit this host? A driver upgrade can invalidate what ran yesterday. Pure."""

from __future__ import annotations

from agent.core.slots import Choice
from registry.contracts.catalogue.manifest import Target
from registry.contracts.codes import DeploymentCode, ResolutionCode
from registry.contracts.fit.platforms import Platform
from registry.contracts.fit.resolution import FitOutcome, Resolution, judge


def unfit(choice: Choice, facts: Platform) -> str:
    """Why the variant may not be loaded on this host; empty when it may, or when nobody knows."""
    verdict = judge(choice.variant, facts, pictures=choice.image is not None)
    if verdict.outcome is FitOutcome.UNKNOWN and facts.failed():
        return ""  # A look that failed forbids nothing: the load will tell.
    if verdict.outcome is not FitOutcome.PASS:
        return "; ".join(f"{r.code}: needs {r.need}, host has {r.have}" for r in verdict.reasons)
    backend = next((found for found in facts.backends if found.name == choice.backend), None)
    if backend is None or not (backend.usable or backend.unknown):
        why = backend.reason if backend else "this agent has none of that name"
        return f"the backend {choice.backend} does not work any more: {why}"
    return ""


def why_none(resolution: Resolution, *, pinned: bool) -> DeploymentCode:
    """The code of a version of which nothing fits: where only its code or its size keeps it from fitting, that
    says so."""
    codes = {reason.code for verdict in resolution.verdicts for reason in verdict.reasons}
    if codes == {ResolutionCode.ENTRY_POINT_DISABLED}:
        return DeploymentCode.ENTRY_POINT_DISABLED
    if codes == {ResolutionCode.REQUEST_TOO_LARGE}:
        return DeploymentCode.REQUEST_TOO_LARGE
    if codes == {ResolutionCode.ENTRY_POINT_UNTRUSTED}:
        return DeploymentCode.ENTRY_POINT_UNTRUSTED
    return DeploymentCode.VARIANT_UNFIT if pinned else DeploymentCode.NO_FITTING_VARIANT


def is_undecided(resolution: Resolution, facts: Platform) -> bool:
    """Nothing was chosen, and one that was left out might fit: a look at the host failed that would tell."""
    undecided = any(verdict.outcome is FitOutcome.UNKNOWN for verdict in resolution.verdicts)
    return resolution.chosen is None and undecided and bool(facts.failed())


def points_at_host(code: str, target: Target) -> bool:
    """A load that failed so may have failed because the host is another than its facts say."""
    if code == DeploymentCode.BACKEND_UNAVAILABLE:
        return True
    points = (DeploymentCode.LOAD_FAILED, DeploymentCode.OUT_OF_MEMORY, DeploymentCode.WORKER_CRASHED)
    return code in points and target is not Target.CPU
