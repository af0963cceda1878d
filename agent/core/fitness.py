"""Does what this device has still fit this host? A driver upgrade can invalidate what ran yesterday. Pure."""

from __future__ import annotations

from agent.core.slots import Choice
from registry.contracts.codes import DeploymentCode
from registry.contracts.manifest import Target
from registry.contracts.platforms import Platform
from registry.contracts.resolution import Outcome, judge


def unfit(choice: Choice, facts: Platform) -> str:
    """Why the variant may not be loaded on this host; empty when it may."""
    verdict = judge(choice.variant, facts)
    if verdict.outcome is not Outcome.PASS:
        return "; ".join(f"{r.code}: needs {r.need}, host has {r.have}" for r in verdict.reasons)
    backend = next((found for found in facts.backends if found.name == choice.backend), None)
    if backend is None or not backend.usable:
        why = backend.reason if backend else "this agent has none of that name"
        return f"the backend {choice.backend} does not work any more: {why}"
    return ""


def points_at_host(code: str, target: Target) -> bool:
    """A load that failed so may have failed because the host is another than its facts say."""
    if code == DeploymentCode.BACKEND_UNAVAILABLE:
        return True
    return code in (DeploymentCode.LOAD_FAILED, DeploymentCode.WORKER_CRASHED) and target is not Target.CPU
