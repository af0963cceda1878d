"""What the slow probes found (backends, chips, drivers), kept in a file until something changes that could matter.

A backend is probed in a process of its own by its workers' interpreter, which takes a second; MindSpore takes five.

What a look that failed left unknown is never kept as a fact. The fact of an earlier look stands for it, marked as such,
and is looked for again at the next start and while the agent runs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agent.adapters.disk.durable import write_atomically
from agent.adapters.disk.rows.faults import row_sum
from agent.adapters.facts.ascend import DEVICES as ASCEND_DEVICES
from agent.adapters.facts.ascend import DRIVER_INFO, FOLDERS, TOOL
from agent.adapters.facts.cann import cann_files
from agent.adapters.facts.nvidia import DEVICES as NVIDIA_DEVICES
from agent.adapters.facts.nvidia import driver_version
from agent.adapters.facts.vendor_tool import find_tool
from agent.errors import TransientError
from registry.contracts.fit.platforms import AscendFacts, BackendFacts, CannFacts, CudaFacts, Evidence
from registry.contracts.wire import Wire

BACKEND = "backend."
"""Before a backend's name in `evidence`."""
FILE = "probe.json"
"""A checksum in its first line, then JSON."""
MAX_BYTES = 1 << 20
MAX_INFO_BYTES = 16 << 10
VARIABLES = ("ASCEND_", "CUDA_", "LD_LIBRARY_PATH", "PATH", "MINDSPORE_", "NVIDIA_")
"""Beginnings of the names of variables that decide what a vendor's library finds."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Probed(Wire):
    """The facts that take time to find out."""

    key: str
    backends: tuple[BackendFacts, ...] = ()
    ascend: AscendFacts | None = None
    cann: CannFacts | None = None
    cuda: CudaFacts | None = None
    evidence: dict[str, Evidence] = Field(default_factory=dict)

    def failed(self) -> set[str]:
        """Names in `evidence` whose last look failed."""
        return {name for name, told in self.evidence.items() if told.failed}

    def or_before(self, before: Probed | None) -> Probed:
        """With the facts of an earlier look where this one failed."""
        if before is None or not self.failed():
            return self
        changes: dict[str, Any] = {}
        evidence = dict(self.evidence)
        for name in self.failed():
            told, then = evidence[name], before.evidence.get(name)
            fact = before.fact(name)
            if fact is None or then is None:
                continue
            if name.startswith(BACKEND):
                backends = changes.get("backends", self.backends)
                changes["backends"] = tuple(fact if each.name == fact.name else each for each in backends)
            else:
                changes[name] = fact
            evidence[name] = told.model_copy(update={"observed_at": then.observed_at})
        return self.model_copy(update={**changes, "evidence": evidence})

    def fact(self, name: str) -> Any:
        """By its name in `evidence`; None where it is not known."""
        if name.startswith(BACKEND):
            found = next((each for each in self.backends if BACKEND + each.name == name), None)
            return None if found is None or (found.unknown and not found.usable) else found
        return getattr(self, name, None)


def kept(data_dir: Path) -> Probed | None:
    """What was found last, under whatever key; None where there is nothing, or not what was written."""
    if not (data_dir / FILE).is_file():  # a pipe would never answer
        return None
    try:
        with (data_dir / FILE).open("rb") as stream:
            total, _, text = stream.read(MAX_BYTES).partition(b"\n")
        if total.decode() != row_sum(text).hex():
            return None
        return Probed.model_validate_json(text)
    except (OSError, ValueError, ValidationError):
        return None


def keep(data_dir: Path, found: Probed) -> None:
    """For the next start, but for a chip's health, which changes meanwhile. Where the disk refuses, that one probes
    again."""
    if found.ascend is not None:
        found = found.model_copy(update={"ascend": found.ascend.model_copy(update={"health": ""})})
    if data_dir.is_dir():
        with contextlib.suppress(TransientError):
            text = found.model_dump_json(indent=1).encode()
            write_atomically(data_dir / FILE, row_sum(text).hex().encode() + b"\n" + text)


def probe_key(
    about: tuple[str, ...],
    interpreters: Mapping[str, Path],
    environ: Mapping[str, str],
    arch: str,
    devices: Path = Path("/dev"),
) -> str:
    """Changes when an answer might: another interpreter, package, driver, CANN, variable, boot or agent, a chip that
    came or went, a vendor's tool that was installed or replaced."""
    facts = [*about, *(f"{name}={python}" for name, python in interpreters.items())]
    facts += [f"{name}={value}" for name, value in sorted(environ.items()) if name.startswith(VARIABLES)]
    facts.append(f"nvidia={driver_version()}")
    nodes = {path.name for pattern in (ASCEND_DEVICES, *NVIDIA_DEVICES) for path in devices.glob(pattern)}
    facts += [f"devices={sorted(nodes)}", f"tool={_age(find_tool(TOOL, FOLDERS, environ))}"]
    for file in (_BOOT, DRIVER_INFO, *cann_files(environ, arch)):
        with contextlib.suppress(OSError), file.open("rb") as stream:
            facts.append(f"{file}={stream.read(MAX_INFO_BYTES)!r}")
    for interpreter in sorted(set(interpreters.values())):
        facts += _traces(interpreter)
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()


def _traces(interpreter: Path) -> Iterator[str]:
    """When the interpreter and its packages last changed."""
    for pattern in ("lib*/python3*/site-packages", "lib*/python3*/dist-packages", "local/lib/python3*/dist-packages"):
        for folder in sorted(interpreter.parent.parent.glob(pattern)):
            yield f"{folder}={folder.stat().st_mtime_ns}"
    yield _age(interpreter)


def _age(file: Path | None) -> str:
    """Which file, how long it is, and when it last changed."""
    if file is None:
        return ""
    with contextlib.suppress(OSError):
        found = file.stat()
        return f"{file}={found.st_mtime_ns},{found.st_size}"
    return str(file)
