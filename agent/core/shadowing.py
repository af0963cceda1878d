"""Shadow: when a candidate has been compared long enough with what serves, and whether it may take its place. Pure."""

from __future__ import annotations

from agent.core.probation import ProbationVerdict
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import ShadowFigures, ShadowPolicy


def judge(policy: ShadowPolicy, figures: ShadowFigures, *, over: bool) -> ProbationVerdict | None:
    """None: it goes on.

    A request that the candidate failed where the active version answered is one that it does not agree on.

    Args:
        policy: How many requests are needed, and which share of them must agree.
        figures: What comparing showed so far.
        over: Its time is over: it is judged by what there is, and too little is no reason to fail.
    """
    asked = figures.compared + figures.errors
    enough = asked >= policy.min_requests
    if not enough and not over:
        return None
    agreed = figures.compared * (figures.agreement or 0.0)
    share = agreed / asked if asked else 0.0
    text = f"shadow: {share:.1%} of {asked} requests agree, {figures.errors} failed, {figures.skipped} were skipped"
    if not enough:
        return ProbationVerdict("", f"{text}; too few to judge, which takes {policy.min_requests}")
    if policy.min_agreement is not None and share < policy.min_agreement - 1e-9:
        return ProbationVerdict(DeploymentCode.SHADOW_DISAGREES, f"{text}; {policy.min_agreement:.1%} must")
    return ProbationVerdict("", text)
