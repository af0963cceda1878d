"""What `agent status` prints: a file in the data directory, replaced whole by the running agent.

`lock` is held by the running agent for as long as it lives: that one runs per data directory, and whether it does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.adapters.disk.durable import disk_errors, write_atomically
from agent.config.settings import AgentConfig
from agent.core.slots import SlotRecord
from agent.errors import PermanentError
from registry.contracts.device.messages import Health, Reported
from registry.contracts.texts import size_text
from registry.private_files import make_private

_INDENT = " " * 21


def status_lines(settings: AgentConfig, running: bool, kept: dict[str, Any] | None) -> Iterator[str]:
    """For people. `kept`: the status file; None: there is none yet."""
    state = f"runs (pid {kept.get('pid')})" if running and kept else "runs" if running else "does not run"
    yield f"{settings.device} {state}, data in {settings.data_dir}"
    if kept is None:
        yield "no status yet"
        return
    reported = kept.get("reported", {})
    broker = "connected" if running and kept.get("connected") else "away (`agent doctor` says why)"
    yield f"broker {broker}; desired generation {reported.get('generation', 0)}; as of {kept.get('written_at')}"
    yield trust_line(reported.get("trust"))
    for name, model in sorted(reported.get("models", {}).items()):
        serves = f"{model.get('version')} on {model.get('backend')}" if model.get("version") else "nothing"
        yield f"  {name:20} {model.get('state'):10} serves {serves}"
        yield from (f"  {_INDENT}{line}" for line in deployment_lines(model))
    yield from health_lines(kept.get("health"), kept.get("registry_answered_at"))
    for name, entries in sorted(kept.get("quarantine", {}).items()):
        for bad in entries:
            text = f"{bad.get('code')}: {bad.get('message', '')}"
            yield f"  {name:20} in quarantine: {bad.get('version')} ({bad.get('variant_digest')}): {text}"


def health_lines(health: dict[str, Any] | None, answered: str | None) -> Iterator[str]:
    """Figures of the last report of health, and when the registry last answered; a dash for what was not measured."""
    yield f"registry last answered {answered}" if answered else "registry has not answered since this agent started"
    if health is None:
        yield "no figures yet: the first come with the first report of health"
        return
    free = health.get("disk_free_bytes")
    yield (
        f"figures of {health['at']}; disk {'-' if free is None else size_text(free)} free; "
        f"{health['outbox_queued']} results wait, {health['outbox_dropped']} dropped"
    )
    if health.get("broker_fault"):
        yield f"broker: {health['broker_fault']}"
    yield f"  {'MODEL':20} {'REQUESTS':>9} {'ERRORS':>7} {'p50':>9} {'p99':>9}  QUEUE"
    for name, model in sorted(health["models"].items()):
        p50, p99 = (_ms(model["latency_us"][which]) for which in ("p50", "p99"))
        queue = f"{model['queue_depth']} of {model['queue_limit']}" if model["queue_limit"] else "-"
        errors = sum(model["errors"].values())
        yield f"  {name:20} {model['requests']:9} {errors:7} {p50:>9} {p99:>9}  {queue}"
    yield "  REQUESTS, ERRORS: since the agent started."
    yield f"  p50, p99: of {health['window_s']:.0f} s; - where nothing was answered in that time."


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms" if microseconds else "-"


def trust_line(trust: dict[str, Any] | None) -> str:
    """What is signed, and how fresh it is."""
    if trust is None or trust.get("state") == "unsigned":
        return "unsigned: it believes whoever speaks for the registry (set trust.root)"
    text = f"signed, fresh until {trust['expires']}" if trust.get("expires") else "signed"
    if trust.get("state") == "stale":
        since = f"metadata stale since {trust['stale_since']}" if trust.get("stale_since") else "metadata stale"
        text = f"{since}, nothing new is installed: {trust.get('why', '')}"
    refused = ", ".join(f"{count} {cause}" for cause, count in sorted(trust.get("refused", {}).items()))
    return text + (f"; documents refused: {refused}" if refused else "")


def deployment_lines(model: dict[str, Any]) -> list[str]:
    """How far the deployment is, or how the last one ended; then what is wrong."""
    lines = []
    progress = model.get("deployment") or {}
    fault = model.get("fault")
    if progress:
        failed_in, until, shadow = (progress.get(name) for name in ("failed_in", "until", "shadow"))
        loads = progress.get("phase") == "downloading"
        parts = (
            (True, f"{progress.get('version')}: {progress.get('phase')} since {progress.get('since')}"),
            (failed_in, f"failed in {failed_in}"),
            (until, f"until {until}"),
            (loads, f"{progress.get('bytes_done', 0)} of {progress.get('bytes_total', 0)} bytes"),
            (shadow, f"{(shadow or {}).get('compared', 0)} requests compared in its shadow"),
        )
        lines.append(", ".join(text for is_said, text in parts if is_said))
        if progress.get("message") and not fault:
            lines.append(str(progress["message"]))
    if fault:
        lines.append(f"{fault.get('code')}: {fault.get('message', '')}")
    return lines


MAX_STATUS_BYTES = 4 << 20


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Makes the directory (mode 0700) and holds its lock.

    Raises:
        PermanentError: another agent runs there.
        TransientError: the disk refuses.
    """
    file = data_dir / "lock"
    with disk_errors(file):
        make_private(data_dir)
        descriptor = _open_lock(file)
    try:
        with disk_errors(file):
            free = _lock(descriptor)
        if not free:
            text = f"another agent runs with {data_dir}: stop it, or give this one its own data_dir"
            raise PermanentError("already_running", text)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """False: another agent holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_lock(file: Path) -> int:
    """A lock may be held on a file that is only open for reading: so one agent runs on a read-only or full disk, too.
    Where even the file cannot be made, the folder is locked. Raises OSError."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def is_running(data_dir: Path) -> bool:
    """Does an agent hold the lock?"""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def write_status(
    data_dir: Path,
    reported: Reported,
    *,
    connected: bool,
    at: datetime,
    slots: Iterable[SlotRecord] = (),
    health: Health | None = None,
    registry_answered_at: datetime | None = None,
) -> None:
    """Replaces the file.

    Args:
        data_dir: Of the agent.
        reported: Its last report.
        connected: With the broker.
        at: Now.
        slots: For what a report does not say, the quarantine.
        health: The last report of health; None: there was none yet.
        registry_answered_at: When the registry last answered; None: never since the start, or it is not asked.

    Raises:
        TransientError: the disk refuses.
    """
    status = {
        "pid": os.getpid(),
        "written_at": at.isoformat(),
        "connected": connected,
        "reported": reported.to_json(),
        "health": None if health is None else health.model_dump(mode="json", by_alias=True),
        "registry_answered_at": None if registry_answered_at is None else registry_answered_at.isoformat(),
        "quarantine": {slot.model: [bad.to_json() for bad in slot.quarantine] for slot in slots if slot.quarantine},
    }
    write_atomically(data_dir / "status.json", json.dumps(status).encode())


def read_status(data_dir: Path) -> dict[str, Any] | None:
    """The last status; None when there is none that can be read."""
    try:
        with (data_dir / "status.json").open("rb") as stream:
            value = json.loads(stream.read(MAX_STATUS_BYTES))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
