"""Probes this host: facts from /proc and from using each backend, never from a list.

A backend is probed in a process of its own by its workers' interpreter, which takes a second; the answer is kept in a
file until an interpreter, its packages, the agent or the boot change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from agent.adapters.artifact_cache import disk_free, write_atomically
from agent.backends.catalog import CATALOG
from agent.errors import TransientError
from agent.worker.handle import probe_backend
from registry.contracts.platforms import BackendFacts, Platform

MAX_CACHE_BYTES = 1 << 20
MAX_FEATURES = 512
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_BACKENDS = TypeAdapter(tuple[BackendFacts, ...])


def agent_version() -> str:
    """Of the installed distribution."""
    try:
        return version("modelfleet")
    except PackageNotFoundError:
        return "unknown"


def probe_host(
    *, python_of: Callable[[str], Path], cores: int, data_dir: Path, now: datetime, fresh: bool = False
) -> Platform:
    """What this host is.

    Args:
        python_of: The Python that runs the workers of a backend.
        cores: Processors that workers may use.
        data_dir: Where the kept answer lies, and whose disk is asked about.
        now: For `observed_at`.
        fresh: Probe the backends although a kept answer would do.
    """
    libc, libc_version = platform.libc_ver()
    return Platform(
        os=platform.system().lower(),
        arch=platform.machine(),
        libc=f"{libc} {libc_version}".strip(),
        cpu_count=cores,
        cpu_features=_cpu_features(),
        memory_bytes=memory()[0],
        memory_free_bytes=memory()[1],
        disk_free_bytes=disk_free(data_dir) if data_dir.is_dir() else None,
        backends=_backends({name: python_of(name) for name in CATALOG}, data_dir, fresh=fresh),
        agent_version=agent_version(),
        locale=os.environ.get("LANG", ""),
        observed_at=now,
    )


def memory() -> tuple[int | None, int | None]:
    """Bytes in all, and bytes that a new process could have without swapping. A cgroup's limit counts."""
    values: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            values[name] = int(rest.split()[0]) << 10
    total, free = values.get("MemTotal"), values.get("MemAvailable")
    for limit_file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(limit_file).read_text())
            total = min(total, limit) if total else limit
    return total, min(free, total) if free and total else free


def _cpu_features() -> tuple[str, ...]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return tuple(sorted(set(rest.split())))[:MAX_FEATURES]
    return ()


def _backends(interpreters: Mapping[str, Path], data_dir: Path, *, fresh: bool) -> tuple[BackendFacts, ...]:
    key, file = _probe_key(interpreters), data_dir / "probe.json"
    kept = None if fresh else _kept(file, key)
    if kept is not None:
        return kept
    found = tuple(probe_backend(name, str(interpreter)) for name, interpreter in interpreters.items())
    if data_dir.is_dir():
        with contextlib.suppress(TransientError):  # Not kept: the next start probes again.
            write_atomically(
                file, json.dumps({"key": key, "backends": _BACKENDS.dump_python(found, mode="json")}).encode()
            )
    return found


def _kept(file: Path, key: str) -> tuple[BackendFacts, ...] | None:
    try:
        with file.open("rb") as stream:
            value = json.loads(stream.read(MAX_CACHE_BYTES))
        return _BACKENDS.validate_python(value["backends"]) if value["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _probe_key(interpreters: Mapping[str, Path]) -> str:
    """Changes when an answer might: another interpreter, a package installed or removed, a boot (drivers), an agent."""
    facts = [*(f"{name}={python}" for name, python in interpreters.items()), agent_version(), repr(CATALOG)]
    with contextlib.suppress(OSError):
        facts.append(_BOOT.read_text())
    for interpreter in sorted(set(interpreters.values())):
        facts += _traces(interpreter)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _traces(interpreter: Path) -> list[str]:
    """When the interpreter and its packages last changed."""
    facts = []
    for pattern in ("lib*/python3*/site-packages", "lib*/python3*/dist-packages", "local/lib/python3*/dist-packages"):
        facts += [f"{folder}={folder.stat().st_mtime_ns}" for folder in sorted(interpreter.parent.parent.glob(pattern))]
    with contextlib.suppress(OSError):
        facts.append(str(interpreter.stat().st_mtime_ns))
    return facts
