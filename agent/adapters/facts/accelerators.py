"""The accelerators of this host: its Ascend chips with CANN, and its NVIDIA GPUs.

Ascend: what `npu-smi info` prints; pyACL, where it works, knows the SoC's name better. The table has two rows for a
chip: `NPU Name | Health | Power Temp Hugepages` and `Chip Device | Bus-Id | AICore Memory [HBM]`; which columns there
are differs by chip and driver, so the parser reads cells, not columns. The SoC's name (ATC user guide,
`--soc_version`): `Ascend` and the Name of the table; where that Name is `Ascend910` (A3) the chip's and the NPU's name
of `npu-smi info -t board`.

CANN: `<arch>-linux/ascend_toolkit_install.info` (or `ascend_nnrt_install.info`) below the folder that set_env.sh names
has the line `version=8.0.RC1`; the operator library's `version.info` has `Version=...`.

NVIDIA: asked in a process of its own (`nvml_probe`), then the GPU that CUDA would use. NVML counts GPUs in the order of
the bus; CUDA puts the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID, and sees only those in CUDA_VISIBLE_DEVICES
(CUDA programming guide, environment variables). Where GPUs of several kinds leave it open which is used, the compute
capability is unknown rather than guessed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from agent.adapters.facts import nvml_probe
from agent.adapters.facts.vendor_tool import REASON_CHARS, ToolError, find_tool, run_tool
from agent.worker.spawn import printable
from registry.contracts.fit.platforms import AscendFacts, CannFacts, CudaFacts
from registry.contracts.wire import Wire

NVIDIA_DEVICES = ("nvidia[0-9]*", "nvidiactl", "nvhost-gpu", "nvgpu")
"""In /dev: of a GPU's driver, and of a Jetson's."""


class Gpu(Wire):
    """One GPU, as NVML says."""

    name: str
    uuid: str
    compute_capability: str
    memory_bytes: int


class Nvml(Wire):
    """What the probe prints."""

    driver: str = ""
    cuda: int = 0
    """1000 * major + 10 * minor."""
    gpus: tuple[Gpu, ...] = Field(default=(), max_length=nvml_probe.MAX_GPUS)
    error: str = ""
    absent: bool = False


def probe_nvidia(environ: Mapping[str, str], devices: Path = Path("/dev")) -> tuple[CudaFacts | None, str]:
    """The GPUs of this host and, where something is missing, the reason.

    Returns:
        Facts with `gpus` 0 where there is certainly none; None where it cannot be told.
    """
    command = [sys.executable, "-I", "-B", str(Path(nvml_probe.__file__).resolve())]
    try:
        found = Nvml.model_validate_json(run_tool(command, environ))
    except (ToolError, ValidationError) as error:
        return None, f"NVML could not be asked: {error}"[:500]
    if found.error:
        here = any(next(devices.glob(pattern), None) is not None for pattern in NVIDIA_DEVICES)
        if here and not found.absent:
            return None, found.error
        if not here:
            return CudaFacts(), f"no NVIDIA GPU: neither its driver's library nor {devices}/nvidia* is here"
        return None, f"{devices} has NVIDIA's devices, but {found.error}: is libnvidia-ml.so.1 of the driver here?"
    return choose(found, environ)


def choose(found: Nvml, environ: Mapping[str, str]) -> tuple[CudaFacts, str]:
    """The facts of the GPU that CUDA uses first, and why one of them is not known."""
    usable, reason = visible(found.gpus, environ.get("CUDA_VISIBLE_DEVICES"))
    general: dict[str, Any] = {
        "gpus": len(usable),
        "driver": found.driver,
        "cuda": f"{found.cuda // 1000}.{found.cuda % 1000 // 10}" if found.cuda else "",
    }
    if not usable:
        return CudaFacts(**general), reason or "NVML finds no GPU: check with `nvidia-smi`"
    first = usable[0]
    alike = {(gpu.compute_capability, gpu.memory_bytes) for gpu in found.gpus}
    by_uuid = environ.get("CUDA_VISIBLE_DEVICES", "").startswith("GPU-")
    if len(alike) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and not by_uuid:
        return CudaFacts(**general), (
            "GPUs of several kinds: which of them CUDA uses is not certain; set CUDA_DEVICE_ORDER=PCI_BUS_ID, "
            "and CUDA_VISIBLE_DEVICES"
        )
    general.update(name=first.name, compute_capability=first.compute_capability, memory_bytes=first.memory_bytes)
    return CudaFacts(**general), reason


def visible(gpus: tuple[Gpu, ...], setting: str | None) -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; from the first that is not there on, none counts."""
    if setting is None:
        return gpus, ""
    chosen: list[Gpu] = []
    for text in (part.strip() for part in setting.split(",")):
        found = next((gpu for index, gpu in enumerate(gpus) if text == str(index)), None)
        if found is None and text.startswith("GPU-"):
            found = next((gpu for gpu in gpus if gpu.uuid.startswith(text)), None)
        if found is None:
            break
        chosen.append(found)
    return tuple(chosen), "" if chosen else f"CUDA_VISIBLE_DEVICES={setting} leaves no GPU"


HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
USUAL = tuple(Path("/usr/local/Ascend") / name for name in ("ascend-toolkit/latest", "nnrt/latest", "cann"))
KINDS = ("toolkit", "nnrt")
MAX_BYTES = 16 << 10
_CANN_VERSION = re.compile(r"^\s*[Vv]ersion\s*=\s*\[?([\w.+:-]{1,64})\]?\s*$", re.MULTILINE)


def probe_cann(environ: Mapping[str, str], arch: str, usual: tuple[Path, ...] = USUAL) -> tuple[CannFacts | None, str]:
    """CANN's version and that of its operator library; else None and the reason.

    Returns:
        The facts and the file that they are from, or None and why there are none.
    """
    homes = _homes(environ, usual)
    for home in homes:
        for file in install_infos(home, arch):
            version = _version(file)
            if version:
                library = Path(environ.get("ASCEND_OPP_PATH") or home / "opp")
                return CannFacts(version=version, opp=_version(library / "version.info")), str(file)
    where = ", ".join(map(str, homes)) or "no folder"
    return None, f"no CANN: looked for ascend_*_install.info in {where}; source CANN's set_env.sh before the agent"


def cann_files(environ: Mapping[str, str], arch: str, usual: tuple[Path, ...] = USUAL) -> Iterator[Path]:
    """The files that change with CANN, whether or not they are there."""
    for home in _homes(environ, usual):
        yield from install_infos(home, arch)
        yield Path(environ.get("ASCEND_OPP_PATH") or home / "opp") / "version.info"


def install_infos(home: Path, arch: str) -> Iterator[Path]:
    """Where the toolkit and the runtime say their version."""
    for kind in KINDS:
        yield home / f"{arch}-linux" / f"ascend_{kind}_install.info"


def _homes(environ: Mapping[str, str], usual: tuple[Path, ...]) -> list[Path]:
    return [Path(environ[name]) for name in HOMES if environ.get(name)] or list(usual)


def _version(file: Path) -> str:
    """Empty where the file does not say it."""
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            found = _CANN_VERSION.search(stream.read(MAX_BYTES))
    except OSError:
        return ""
    return found[1] if found else ""


TOOL = "npu-smi"
FOLDERS = ("/usr/local/bin", "/usr/local/sbin", "/usr/local/Ascend/driver/tools")
ASCEND_DEVICES = "davinci[0-9]*"
DRIVER_INFO = Path("/usr/local/Ascend/driver/version.info")
MAX_CHIPS = 256
_VERSION = re.compile(r"Version:\s*([0-9][\w.\-]{0,63})")
_NPU = re.compile(r"(\d{1,4})\s+((?:Ascend)?\d{3}[\w-]{0,24})")
"""`310`, `310P3`, `910B4-1`, `Ascend910`: at least three digits, which a chip's number never has."""
_CHIP = re.compile(r"(\d{1,2})(?:\s+(\d{1,4}|-))?")
_USAGE = re.compile(r"(\d+)\s*/\s*(\d+)")
_BOARD = re.compile(r"^\s*(Chip Name|NPU Name)\s*:\s*([\w-]{1,40})\s*$", re.MULTILINE)
_BARE_A3 = "Ascend910"

Run = Callable[[Sequence[str]], str]


class Chip(NamedTuple):
    """One chip of the table."""

    npu: int
    chip: int
    name: str
    health: str
    memory_bytes: int | None


class Smi(NamedTuple):
    """What `npu-smi info` says."""

    driver: str
    chips: tuple[Chip, ...]


def parse_info(text: str) -> Smi:
    """Read the table of `npu-smi info`. Raises ToolError when it holds no chip."""
    version = _VERSION.search(text)
    chips = tuple(islice(_chips(text), MAX_CHIPS))
    if not chips:
        raise ToolError(f"{TOOL} info shows no chip: {printable(text, REASON_CHARS)}")
    return Smi(version[1] if version else "", chips)


def soc_of(name: str, board: str = "") -> str:
    """The SoC's name for ATC; empty when it cannot be told.

    Args:
        name: In the table: 310P3.
        board: What `npu-smi info -t board` says; needed for the A3 generation, whose name in the table is Ascend910.
    """
    if name != _BARE_A3:
        return name if name.startswith("Ascend") else f"Ascend{name}"
    told = dict(_BOARD.findall(board))
    npu = told.get("NPU Name", "")
    if not npu:
        return ""
    return npu if npu.startswith("Ascend") else f"{told.get('Chip Name', _BARE_A3)}_{npu}"


def probe_ascend(environ: Mapping[str, str], devices: Path = Path("/dev")) -> tuple[AscendFacts | None, str]:
    """The chips of this host and, where something is missing, the reason.

    Returns:
        Facts with `chips` 0 where there is certainly none; None where it cannot be told.
    """
    tool = find_tool(TOOL, FOLDERS, environ)
    if tool is None:
        if next(devices.glob(ASCEND_DEVICES), None) is None:
            return AscendFacts(), f"no Ascend chip: neither {TOOL} nor {devices}/davinci* is here"
        return None, f"{devices}/davinci* is here and {TOOL} is not: install the driver's tools, or put it in PATH"
    try:
        return describe(lambda arguments: run_tool([str(tool), *arguments], environ))
    except ToolError as error:
        return None, str(error)


def describe(run: Run) -> tuple[AscendFacts, str]:
    """The facts by what `npu-smi` answers to `run`. Raises ToolError."""
    found = parse_info(run(["info"]))
    first = found.chips[0]
    soc, reason = soc_of(first.name), ""
    if not soc:
        try:
            soc = soc_of(first.name, run(["info", "-t", "board", "-i", str(first.npu), "-c", str(first.chip)]))
            reason = "" if soc else f"{TOOL} info -t board does not name the NPU"
        except ToolError as error:
            reason = str(error)
    kinds = sorted({chip.name for chip in found.chips})
    if len(kinds) > 1:
        reason = f"chips of several kinds: {', '.join(kinds)}; the facts are those of the first"
    facts = AscendFacts(
        soc=soc,
        name=first.name,
        chips=len(found.chips),
        memory_bytes=first.memory_bytes,
        health=first.health,
        driver=found.driver,
        virtual="vir" in first.name.lower(),
    )
    return facts, reason


def _chips(text: str) -> Iterator[Chip]:
    """Pairs a chip's two rows; whatever else is in the table (headings, processes) has another form."""
    npu: tuple[int, str, str] | None = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3 or not line.lstrip().startswith("|"):
            continue
        named, chip = _NPU.fullmatch(cells[0]), _CHIP.fullmatch(cells[0])
        if named:
            npu = int(named[1]), named[2], cells[1][:32]
        elif chip and npu is not None:
            usage = _USAGE.findall(cells[2])
            memory = int(usage[-1][1]) << 20 if usage else None  # of DDR and HBM the last, which models lie in
            yield Chip(npu[0], int(chip[1]), npu[1], npu[2], memory)
            npu = None
