"""Rates through the whole data path beside bare ONNX Runtime, and what I/O binding and pinned memory would change."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.data_path import PEERS, peer
from scripts.hardware_check.models import CheckModel
from scripts.hardware_check.report import CheckError, SkipError
from scripts.hardware_check.serving import DEVICE, reference

VARIANTS = 16
WINDOWS = (1, 8, 32)


def session_on(provider: str, path: Path, **options: str) -> ort.InferenceSession:
    """A bare session with this provider, as plain ONNX Runtime makes it. CheckError when it fell back to another."""
    if provider == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    session = ort.InferenceSession(str(path), providers=[(provider, options)] if options else [provider])
    if provider not in session.get_providers():
        raise CheckError(f"ONNX Runtime went to {', '.join(session.get_providers())} , not to {provider}")
    return session


@dataclass(frozen=True)
class Load:
    """`count` requests at QoS 0 with `window` in flight; `header` is the length of the JSON header of a body."""

    model: CheckModel
    header: int
    window: int
    count: int


class LoadGenerator:
    """The benchmark's C load generator and C echo, compiled into `folder`. SkipError without a compiler."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for name in ("mqtt_load", "mqtt_echo"):
                argv = ["gcc", "-O2", "-o", str(folder / name), str(PEERS / f"{name}.c"), "-lm"]
                subprocess.run(argv, check=True, timeout=60)
        except FileNotFoundError:
            raise SkipError("gcc is not here: the load generator cannot be built") from None

    def bodies(self, model: CheckModel) -> int:
        """Writes request bodies and the CPU's values; the length of the JSON header of a body. FP32 models only."""
        items = model.items(VARIANTS)
        tensor = {"name": model.input, "shape": [1, *model.item], "datatype": model.datatype,
                  "parameters": {"binary_data_size": items[0].nbytes}}  # fmt: skip
        document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        header = json.dumps(document, separators=(",", ":")).encode()
        (self.folder / f"{model.name}.bodies").write_bytes(b"".join(header + row.tobytes() for row in items))
        (self.folder / f"{model.name}.expected").write_bytes(reference(model, items).astype(np.float32).tobytes())
        return len(header)

    def agent(self, port: int, load: Load) -> dict[str, float]:
        """The agent's answers, all values compared."""
        topic = f"modelfleet/v1/devices/{DEVICE}/infer/{load.model.name}"
        return self._run(port, topic, load, str(self.folder / f"{load.model.name}.expected"), str(load.model.tolerance))

    def echo(self, port: int, load: Load) -> dict[str, float]:
        """The same requests answered at once by a C program: what broker, loopback and generator take by themselves."""
        size = (self.folder / f"{load.model.name}.expected").stat().st_size // VARIANTS + 150
        with peer([str(self.folder / "mqtt_echo"), str(port), "echo/#", "0", str(size)]):
            return self._run(port, f"echo/{load.model.name}", load)

    def _run(self, port: int, topic: str, load: Load, *checked: str) -> dict[str, float]:
        bodies, warm = self.folder / f"{load.model.name}.bodies", max(2 * load.window, load.count // 10)
        numbers = (VARIANTS, load.window, load.count, warm, 0, load.header)
        argv = [str(self.folder / "mqtt_load"), str(port), topic, str(bodies), *(str(n) for n in numbers), *checked]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode:
            raise RuntimeError(f"{topic}, {load.window} in flight: {done.stdout}{done.stderr}")
        return dict(json.loads(done.stdout))


def bare(session: ort.InferenceSession, model: CheckModel, callers: int, seconds: float) -> dict[str, float]:
    """Plain `run` from `callers` threads, one item each: rate and median."""
    items = model.items(VARIANTS)
    for i in range(5):
        session.run(None, {model.input: items[i : i + 1]})
    times: list[list[float]] = [[] for _ in range(callers)]
    end = time.perf_counter() + seconds

    def call(mine: list[float], place: int) -> None:
        feed = {model.input: items[place % VARIANTS : place % VARIANTS + 1]}
        began = time.perf_counter()
        while began < end:
            session.run(None, feed)
            now = time.perf_counter()
            mine.append(now - began)
            began = now

    threads = [threading.Thread(target=call, args=(mine, i)) for i, mine in enumerate(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(t for mine in times for t in mine)
    return {"per_second": len(every) / seconds, "p50_us": every[len(every) // 2] * 1e6}


def best_us(call: Callable[[], Any], seconds: float = 0.4) -> float:
    """The median of repeated calls, microseconds."""
    for _ in range(5):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] * 1e6


def binding_times(session: ort.InferenceSession, model: CheckModel, batch: int, device: str) -> dict[str, float]:
    """One batch: plain run, I/O binding with arrays of the host, and on CUDA from and to pinned memory."""
    items: NDArray[Any] = np.ascontiguousarray(np.resize(model.items(VARIANTS), (batch, *model.item)))
    found = {"run": best_us(lambda: session.run([model.output], {model.input: items}))}
    binding = session.io_binding()

    def bound() -> Any:
        binding.bind_cpu_input(model.input, items)
        binding.bind_output(model.output)
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    found["I/O binding"] = best_us(bound)
    if device != "cuda":
        return found
    on_device = session.io_binding()
    held = ort.OrtValue.ortvalue_from_numpy(items, device, 0)

    def resident() -> Any:
        held.update_inplace(items)
        on_device.bind_ortvalue_input(model.input, held)
        on_device.bind_output(model.output, device)
        session.run_with_iobinding(on_device)
        return on_device.copy_outputs_to_cpu()

    found["I/O binding, tensor kept on the card"] = best_us(resident)
    try:
        pinned = ort.OrtValue.ortvalue_from_shape_and_type(items.shape, items.dtype, "cuda_pinned", 0)
    except Exception:  # noqa: BLE001 - not every build lends pinned memory to Python; the column stays empty
        return found
    view = pinned.numpy()
    with_pinned = session.io_binding()

    def from_pinned() -> Any:
        np.copyto(view, items)
        with_pinned.bind_ortvalue_input(model.input, pinned)
        with_pinned.bind_output(model.output)
        session.run_with_iobinding(with_pinned)
        return with_pinned.copy_outputs_to_cpu()

    found["I/O binding, pinned memory"] = best_us(from_pinned)
    return found
