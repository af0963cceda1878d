"""What the agent and its workers take of this host, from /proc and /sys. What the kernel does not tell is None."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

MAX_SENSORS = 64
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""This boot of the host, by the kernel's random name for it."""


def proportional_memory(pids: Iterable[int]) -> int | None:
    """Bytes of these processes, pages that they share counted once (PSS); resident memory where there is no PSS."""
    sizes = [size for pid in set(pids) if (size := _memory_of(pid)) is not None]
    return sum(sizes) if sizes else None


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used since it started; 0 when it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime: proc(5), 14 and 15
    return 0.0


def children(pid: int) -> list[int]:
    """Processes that `pid` started and that are still there."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def temperatures() -> dict[str, float]:
    """Degrees Celsius by sensor, where the host tells."""
    readings: dict[str, float] = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*"))[:MAX_SENSORS]:
        with contextlib.suppress(OSError, ValueError):
            name = (zone / "type").read_text().strip()[:64]
            readings[f"{name}-{zone.name.removeprefix('thermal_zone')}"] = int((zone / "temp").read_text()) / 1000
    return readings


def load_1m() -> float | None:
    """Of the host, over the last minute."""
    with contextlib.suppress(OSError):
        return os.getloadavg()[0]
    return None


def _memory_of(pid: int) -> int | None:
    with contextlib.suppress(KeyError, ValueError):
        return kib(kernel_lines(f"/proc/{pid}/smaps_rollup")["Pss"])
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def kib(value: str) -> int:
    """Bytes of what the kernel writes like `123 kB`. Raises ValueError."""
    return int(value.removesuffix("kB")) << 10


def kernel_lines(file: str) -> dict[str, str]:
    """Lines of the form `name: value`; of a name that comes again the last; none where the kernel does not tell."""
    with contextlib.suppress(OSError):
        lines = (line.partition(":") for line in Path(file).read_text().splitlines())
        return {name.strip(): value.strip() for name, _, value in lines}
    return {}


def kernel_text(file: Path) -> str:
    """A line that the kernel tells; empty where it does not."""
    try:
        return file.read_text(encoding="ascii", errors="replace")[:64].strip()
    except OSError:
        return ""
