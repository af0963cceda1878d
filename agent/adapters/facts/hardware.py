"""Probes this host: facts from the kernel, from the vendors' own tools, and from using each backend; never from a list.

Each fact has its source and its time in `Platform.evidence`, and where there is none, the reason.

What the slow probes found (backends, chips, drivers) is kept in a file until something changes that could matter: a
backend is probed in a process of its own by its workers' interpreter, which takes a second; MindSpore takes five. What
a look that failed left unknown is never kept as a fact. The fact of an earlier look stands for it, marked as such, and
is looked for again at the next start and while the agent runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agent.adapters.disk.artifact_cache import disk_free
from agent.adapters.disk.durable import write_atomically
from agent.adapters.disk.row_file import row_sum
from agent.adapters.facts.accelerators import (
    ASCEND_DEVICES,
    DRIVER_INFO,
    FOLDERS,
    NVIDIA_DEVICES,
    TOOL,
    cann_files,
    probe_ascend,
    probe_cann,
    probe_nvidia,
)
from agent.adapters.facts.process_stats import BOOT, kernel_lines, kernel_text, kib
from agent.adapters.facts.vendor_tool import find_tool
from agent.backends.catalog import CATALOG
from agent.errors import TransientError
from agent.worker.handle import probe_backend
from registry.contracts.catalogue.manifest import Format
from registry.contracts.fit.platforms import AscendFacts, BackendFacts, CannFacts, CudaFacts, Evidence, Platform
from registry.contracts.wire import Digest, Wire

BACKEND = "backend."
"""Before a backend's name in `evidence`."""
FILE = "probe.json"
"""A checksum in its first line, then JSON."""
MAX_BYTES = 1 << 20
MAX_INFO_BYTES = 16 << 10
VARIABLES = ("ASCEND_", "CUDA_", "LD_LIBRARY_PATH", "PATH", "MINDSPORE_", "NVIDIA_")
"""Beginnings of the names of variables that decide what a vendor's library finds."""
MAX_FEATURES = 512
MAX_REASON = 500
MEMORY_STEP, DISK_STEP, SMALLEST_STEP = 16 << 20, 256 << 20, 4096
"""Sizes are rounded down to these: boards of one kind differ by a few pages, and are one class."""
ACL = "ascend_acl"
"""The backend whose provider is the SoC's name, as ACL says it."""
NVIDIA_DRIVER = Path("/sys/module/nvidia/version")
"""Of the kernel module that is loaded. Cheap: it tells when to probe again."""


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

    def or_before(self, before: Probed) -> Probed:
        """With the facts of an earlier look where this one failed."""
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
    facts.append(f"nvidia={kernel_text(NVIDIA_DRIVER)}")
    nodes = {path.name for pattern in (ASCEND_DEVICES, *NVIDIA_DEVICES) for path in devices.glob(pattern)}
    facts += [f"devices={sorted(nodes)}", f"tool={_age(find_tool(TOOL, FOLDERS, environ))}"]
    for file in (BOOT, DRIVER_INFO, *cann_files(environ, arch)):
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


def agent_version() -> str:
    """Of the installed distribution."""
    try:
        return version("modelfleet")
    except PackageNotFoundError:
        return "unknown"


def probe_host(
    *,
    python_of: Callable[[str], Path],
    cores: int,
    data_dir: Path,
    now: datetime,
    fresh: bool = False,
    entry_points: tuple[Digest, ...] = (),
    max_request_bytes: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Platform:
    """What this host is.

    Args:
        python_of: The Python that runs the workers of a backend.
        cores: Processors that workers may use.
        data_dir: Where the kept answer lies, and whose disk is asked about.
        now: For `observed_at`.
        fresh: Probe backends, chips and drivers although a kept answer would do.
        entry_points: Ids of the keys whose signed code this host runs; a setting, so not among what is kept.
        max_request_bytes: A setting, too.
        environ: The variables of the agent.
    """
    libc, libc_version = platform.libc_ver()
    arch, (memory_bytes, memory_free) = platform.machine(), memory()
    disk, free, disk_reason = _disk(data_dir)
    probed = _probed({name: python_of(name) for name in CATALOG}, data_dir, arch, environ, now, fresh=fresh)
    return Platform(
        os=platform.system().lower(),
        arch=arch,
        libc=f"{libc} {libc_version}".strip(),
        cpu_count=cores,
        cpu_features=_cpu_features(),
        memory_bytes=None if memory_bytes is None else rounded(memory_bytes, MEMORY_STEP),
        memory_free_bytes=memory_free,
        disk_bytes=None if disk is None else rounded(disk, DISK_STEP),
        disk_free_bytes=free,
        max_request_bytes=max_request_bytes,
        ascend=probed.ascend,
        cann=probed.cann,
        cuda=probed.cuda,
        backends=tuple(_with_entry_points(backend, entry_points) for backend in probed.backends),
        agent_version=agent_version(),
        python=platform.python_version(),
        locale=environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG", ""),
        observed_at=now,
        evidence={
            **_own_evidence(data_dir, now, disk_reason, no_memory=memory_bytes is None),
            **probed.evidence,
        },
    )


def rounded(size: int, step: int) -> int:
    """Down to `step`, or for a small one to a step that takes at most a sixteenth of it away."""
    while step > SMALLEST_STEP and size < 16 * step:
        step //= 2
    return size // step * step


def _disk(folder: Path) -> tuple[int | None, int | None, str]:
    """Size and free bytes of the disk with the data; or why they are not known now."""
    if not folder.is_dir():
        return None, None, "the data directory is not there yet"
    try:
        return shutil.disk_usage(folder).total, disk_free(folder), ""
    except OSError as error:
        return None, None, f"statvfs: {error.strerror}"


def _with_entry_points(backend: BackendFacts, keys: tuple[Digest, ...]) -> BackendFacts:
    """Only checkpoints come with code."""
    return backend.model_copy(update={"entry_points": keys}) if Format.MINDSPORE_CKPT in backend.formats else backend


def memory() -> tuple[int | None, int | None]:
    """Bytes in all, and bytes that a new process could have without swapping. A cgroup's limit counts."""
    told = kernel_lines("/proc/meminfo")
    total, free = (kib(told[name]) if name in told else None for name in ("MemTotal", "MemAvailable"))
    for limit_file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(limit_file).read_text())
            total = min(total, limit) if total else limit
    return total, min(free, total) if free and total else free


def _cpu_features() -> tuple[str, ...]:
    told = kernel_lines("/proc/cpuinfo")
    return tuple(sorted(set((told.get("flags") or told.get("Features", "")).split())))[:MAX_FEATURES]


def _own_evidence(data_dir: Path, now: datetime, disk_reason: str, *, no_memory: bool) -> dict[str, Evidence]:
    """Of what the kernel and Python say, asked again each time."""
    sources = {
        "os": "uname",
        "arch": "uname",
        "libc": "confstr",
        "cpu_count": "settings and sched_getaffinity",
        "cpu_features": "/proc/cpuinfo",
        "memory_bytes": "/proc/meminfo and the cgroup",
        "memory_free_bytes": "/proc/meminfo and the cgroup",
        "disk_bytes": f"statvfs of {data_dir}"[:256],
        "disk_free_bytes": f"statvfs of {data_dir}"[:256],
        "agent_version": "the installed package",
        "python": "the agent's interpreter",
        "locale": "LC_ALL, LC_CTYPE, LANG",
        "max_request_bytes": "settings",
    }
    evidence = {name: Evidence(source=source, observed_at=now) for name, source in sources.items()}
    if disk_reason:
        missing = Evidence(source=sources["disk_bytes"], observed_at=now, reason=disk_reason, failed=True)
        evidence |= {"disk_bytes": missing, "disk_free_bytes": missing}
    if no_memory:
        evidence["memory_bytes"] = evidence["memory_bytes"].model_copy(update={"failed": True})
    return evidence


def _probed(
    interpreters: Mapping[str, Path],
    data_dir: Path,
    arch: str,
    environ: Mapping[str, str],
    now: datetime,
    *,
    fresh: bool,
) -> Probed:
    key = probe_key((agent_version(), repr(CATALOG)), interpreters, environ, arch)
    before = kept(data_dir) or Probed(key="")
    known = before if before.key == key and not fresh else Probed(key=key)
    if known.evidence and not known.failed():
        return known
    found = _looked(interpreters, arch, environ, now, known).or_before(before)
    keep(data_dir, found)
    return found


def _looked(
    interpreters: Mapping[str, Path],
    arch: str,
    environ: Mapping[str, str],
    now: datetime,
    known: Probed,
) -> Probed:
    """What a look finds now: only what failed in `known`, or is not there, is looked at."""
    told = dict(known.evidence)

    def is_due(name: str) -> bool:
        return name not in told or told[name].failed

    backends: list[BackendFacts] = []
    for name, interpreter in interpreters.items():
        fact = None if is_due(BACKEND + name) else known.fact(BACKEND + name)
        if fact is None:
            fact = probe_backend(name, str(interpreter))
            told[BACKEND + name] = _evidence(f"used by {interpreter}", fact.reason, now, failed=fact.unknown)
        backends.append(fact)
    ascend, cann, cuda = known.ascend, known.cann, known.cuda
    if is_due("ascend"):
        ascend, reason = probe_ascend(environ)
        told["ascend"] = _evidence("npu-smi info", reason, now, failed=ascend is None)
    if is_due("cann"):
        cann, source = probe_cann(environ, arch)
        told["cann"] = _evidence(source if cann else "CANN's files", "" if cann else source, now)
    if is_due("cuda"):
        cuda, reason = probe_nvidia(environ)
        told["cuda"] = _evidence("NVML", reason, now, failed=cuda is None)
    ascend = with_acl(ascend, tuple(backends))
    if ascend is not None and ascend.soc and ascend.soc == _acl_soc(tuple(backends)):
        told["ascend.soc"] = _evidence("acl.get_soc_name", "", now)
    return Probed(key=known.key, backends=tuple(backends), ascend=ascend, cann=cann, cuda=cuda, evidence=told)


def with_acl(ascend: AscendFacts | None, backends: tuple[BackendFacts, ...]) -> AscendFacts | None:
    """What ACL says of the SoC counts more than what npu-smi prints, and is there in containers without npu-smi."""
    soc = _acl_soc(backends)
    if not soc:
        return ascend
    known = ascend or AscendFacts()
    virtual = known.virtual if known.virtual is not None else ("vir" in soc.lower() or None)
    return known.model_copy(update={"soc": soc, "chips": max(known.chips, 1), "virtual": virtual})


def _acl_soc(backends: tuple[BackendFacts, ...]) -> str:
    return next((b.providers[0] for b in backends if b.name == ACL and b.usable and b.providers), "")


def _evidence(source: str, reason: str, now: datetime, *, failed: bool = False) -> Evidence:
    return Evidence(source=source[:256], observed_at=now, reason=reason[:MAX_REASON], failed=failed)
