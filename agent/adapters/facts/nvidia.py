"""The NVIDIA GPUs of this host: asked in a process of its own (`nvml_probe`), then the one that CUDA would use.

NVML counts GPUs in the order of the bus; CUDA puts the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID, and sees
only those in CUDA_VISIBLE_DEVICES (CUDA programming guide, environment variables). Where GPUs of several kinds leave
it open which is used, the compute capability is unknown rather than guessed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agent.adapters.facts import nvml_probe
from agent.adapters.facts.vendor_tool import ToolError, run_tool
from registry.contracts.fit.platforms import CudaFacts
from registry.contracts.wire import Wire

DEVICES = ("nvidia[0-9]*", "nvidiactl", "nvhost-gpu", "nvgpu")
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
        here = any(next(devices.glob(pattern), None) is not None for pattern in DEVICES)
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
    if len(alike) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and not _by_uuid(environ):
        return CudaFacts(**general), (
            "GPUs of several kinds: which of them CUDA uses is not certain; set CUDA_DEVICE_ORDER=PCI_BUS_ID, "
            "and CUDA_VISIBLE_DEVICES"
        )
    facts = CudaFacts(
        name=first.name, compute_capability=first.compute_capability, memory_bytes=first.memory_bytes, **general
    )
    return facts, reason


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


def _by_uuid(environ: Mapping[str, str]) -> bool:
    return environ.get("CUDA_VISIBLE_DEVICES", "").startswith("GPU-")


def driver_version(kernel: Path = Path("/sys/module/nvidia/version")) -> str:
    """Of the kernel module that is loaded; empty where there is none. Cheap: it tells when to probe again."""
    try:
        return kernel.read_text(encoding="ascii", errors="replace")[:64].strip()
    except OSError:
        return ""
