"""What `agent status` prints, from the file that the running agent keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.config.settings import AgentConfig

_INDENT = " " * 21


def status_lines(settings: AgentConfig, running: bool, kept: dict[str, Any] | None) -> Iterator[str]:
    """For people. `kept`: the status file; None: there is none yet."""
    state = f"runs (pid {kept.get('pid')})" if running and kept else "runs" if running else "does not run"
    yield f"{settings.device} {state}, data in {settings.data_dir}"
    if kept is None:
        yield "no status yet"
        return
    reported = kept.get("reported", {})
    broker = "connected" if running and kept.get("connected") else "away"
    yield f"broker {broker}; desired generation {reported.get('generation', 0)}; as of {kept.get('written_at')}"
    for name, model in sorted(reported.get("models", {}).items()):
        serves = f"{model.get('version')} on {model.get('backend')}" if model.get("version") else "nothing"
        yield f"  {name:20} {model.get('state'):10} serves {serves}"
        yield from (f"  {_INDENT}{line}" for line in deployment_lines(model))
    for name, entries in sorted(kept.get("quarantine", {}).items()):
        for bad in entries:
            text = f"{bad.get('code')}: {bad.get('message', '')}"
            yield f"  {name:20} in quarantine: {bad.get('version')} ({bad.get('variant_digest')}): {text}"


def deployment_lines(model: dict[str, Any]) -> list[str]:
    """How far the deployment is, or how the last one ended; then what is wrong."""
    lines = []
    progress = model.get("deployment") or {}
    fault = model.get("fault")
    if progress:
        parts = [f"{progress.get('version')}: {progress.get('phase')} since {progress.get('since')}"]
        if progress.get("failed_in"):
            parts.append(f"failed in {progress['failed_in']}")
        if progress.get("until"):
            parts.append(f"until {progress['until']}")
        if progress.get("phase") == "downloading":
            parts.append(f"{progress.get('bytes_done', 0)} of {progress.get('bytes_total', 0)} bytes")
        if progress.get("shadow"):
            parts.append(f"{progress['shadow'].get('compared', 0)} requests compared in its shadow")
        lines.append(", ".join(parts))
        if progress.get("message") and not fault:
            lines.append(str(progress["message"]))
    if fault:
        lines.append(f"{fault.get('code')}: {fault.get('message', '')}")
    return lines
