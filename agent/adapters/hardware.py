"""Probes this host: facts from the kernel, from the vendors' own tools, and from using each backend; never from a list.

Each fact has its source and its time in `Platform.evidence`, and where there is none, the reason.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agent.adapters.artifact_cache import disk_free
from agent.adapters.ascend_facts import probe_ascend
from agent.adapters.cann_facts import probe_cann
from agent.adapters.nvidia_facts import probe_nvidia
from agent.adapters.probe_cache import Probed, keep, kept, probe_key
from agent.backends.catalog import CATALOG
from agent.worker.handle import probe_backend
from registry.contracts.digest import Digest
from registry.contracts.manifest import Format
from registry.contracts.platforms import AscendFacts, BackendFacts, Evidence, Platform

MAX_FEATURES = 512
MAX_REASON = 500
MEMORY_STEP, DISK_STEP = 16 << 20, 256 << 20
"""Sizes are rounded down to these: boards of one kind differ by a few pages, and are one class."""
ACL = "ascend_acl"
"""The backend whose provider is the SoC's name, as ACL says it."""


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
    probed = _probed({name: python_of(name) for name in CATALOG}, data_dir, arch, environ, now, fresh=fresh)
    disk = shutil.disk_usage(data_dir).total if data_dir.is_dir() else None
    return Platform(
        os=platform.system().lower(),
        arch=arch,
        libc=f"{libc} {libc_version}".strip(),
        cpu_count=cores,
        cpu_features=_cpu_features(),
        memory_bytes=None if memory_bytes is None else memory_bytes // MEMORY_STEP * MEMORY_STEP,
        memory_free_bytes=memory_free,
        disk_bytes=None if disk is None else disk // DISK_STEP * DISK_STEP,
        disk_free_bytes=None if disk is None else disk_free(data_dir),
        max_request_bytes=max_request_bytes,
        ascend=probed.ascend,
        cann=probed.cann,
        cuda=probed.cuda,
        backends=tuple(_with_entry_points(backend, entry_points) for backend in probed.backends),
        agent_version=agent_version(),
        python=platform.python_version(),
        locale=environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG", ""),
        observed_at=now,
        evidence={**_own_evidence(data_dir, now), **probed.evidence},
    )


def _with_entry_points(backend: BackendFacts, keys: tuple[Digest, ...]) -> BackendFacts:
    """Only checkpoints come with code."""
    return backend.model_copy(update={"entry_points": keys}) if Format.MINDSPORE_CKPT in backend.formats else backend


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


def _own_evidence(data_dir: Path, now: datetime) -> dict[str, Evidence]:
    """Of what the kernel and Python say, asked anew each time."""
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
    }
    evidence = {name: Evidence(source=source, observed_at=now) for name, source in sources.items()}
    if not data_dir.is_dir():
        missing = Evidence(source=sources["disk_bytes"], observed_at=now, reason="the data directory is not there yet")
        evidence |= {"disk_bytes": missing, "disk_free_bytes": missing}
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
    before = None if fresh else kept(data_dir, key)
    if before is not None:
        return before
    backends = tuple(probe_backend(name, str(interpreter)) for name, interpreter in interpreters.items())
    ascend, ascend_reason = probe_ascend(environ)
    cann, cann_source = probe_cann(environ, arch)
    cuda, cuda_reason = probe_nvidia(environ)
    evidence = {
        "ascend": _evidence("npu-smi info", ascend_reason, now),
        "cann": _evidence(cann_source if cann else "CANN's files", "" if cann else cann_source, now),
        "cuda": _evidence("NVML", cuda_reason, now),
        **{f"backend.{b.name}": _evidence(f"used by {interpreters[b.name]}", b.reason, now) for b in backends},
    }
    ascend = with_acl(ascend, backends)
    if ascend is not None and ascend.soc and ascend.soc == _acl_soc(backends):
        evidence["ascend.soc"] = _evidence("acl.get_soc_name", "", now)
    found = Probed(key=key, backends=backends, ascend=ascend, cann=cann, cuda=cuda, evidence=evidence)
    keep(data_dir, found)
    return found


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


def _evidence(source: str, reason: str, now: datetime) -> Evidence:
    return Evidence(source=source[:256], observed_at=now, reason=reason[:MAX_REASON])
