"""A deployment in words: its phase, why it waits or failed, and what brings it on."""

from __future__ import annotations

from registry.cli.output import time_text
from registry.contracts.codes import QUARANTINES
from registry.contracts.device.deployments import DeploymentProgress, Phase
from registry.contracts.texts import size_text

_OVER_BADLY = frozenset({Phase.FAILED, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED, Phase.ROLLING_BACK})


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
