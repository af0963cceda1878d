"""Triton Inference Server with LeNet (its Python backend, requests joined up to 32), and tritonclient's asyncio gRPC.

Runs in an environment of its own that has nvidia-pytriton and onnxruntime, not in the product's:

    PYTHON triton.py serve PORT MODEL                      # prints `ready`
    PYTHON triton.py ask PORT BODIES VARIANTS WINDOW COUNT # prints figures as benchmarks.client does
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from tritonclient.grpc.aio import InferenceServerClient, InferInput

ITEM = (1, 28, 28)


def serve(port: int, path: str) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: Triton ends with the benchmark
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    said = os.dup(1)
    os.dup2(2, 1)  # Triton talks
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    @batch
    def infer(x: np.ndarray) -> list[np.ndarray]:
        return list(session.run(None, {name: x}))

    config = TritonConfig(http_port=port + 1, grpc_port=port, metrics_port=port + 2, log_verbose=0)
    with Triton(config=config) as triton:
        triton.bind(
            "lenet", infer, inputs=[Tensor(name="x", dtype=np.float32, shape=ITEM)],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=32, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )  # fmt: skip
        triton.run()
        os.write(said, b"ready\n")
        while True:
            time.sleep(60)


async def ask(port: int, whole: bytes, variants: int, window: int, count: int) -> None:
    size = 4 * int(np.prod(ITEM))
    each = len(whole) // variants
    rows = [np.frombuffer(whole[(n + 1) * each - size : (n + 1) * each], np.float32) for n in range(variants)]
    latencies: list[float] = []

    async with InferenceServerClient(f"127.0.0.1:{port}") as client:

        async def one(number: int) -> None:
            started = time.perf_counter()
            given = InferInput("x", [1, *ITEM], "FP32")
            given.set_data_from_numpy(rows[number % variants].reshape(1, *ITEM))
            answer = await client.infer("lenet", [given])
            if answer.as_numpy("y").shape != (1, 10):
                raise SystemExit("a wrong answer")
            latencies.append(time.perf_counter() - started)

        async def many(number: int) -> None:
            under_way: deque[asyncio.Task[None]] = deque()
            for n in range(number):
                if len(under_way) >= window:
                    await under_way.popleft()
                under_way.append(asyncio.create_task(one(n)))
            await asyncio.gather(*under_way)

        await many(max(2 * window, count // 10))
        latencies.clear()
        begun, cpu = time.perf_counter(), time.process_time()
        await many(count)
        seconds, spent = time.perf_counter() - begun, time.process_time() - cpu
    held = sorted(latencies)
    figures = {"per_second": count / seconds, "cpu_us": spent * 1e6 / count, "p50_us": held[len(held) // 2] * 1e6,
               "p99_us": held[int(len(held) * 0.99)] * 1e6}  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3])
    else:
        asyncio.run(ask(int(sys.argv[2]), Path(sys.argv[3]).read_bytes(), *map(int, sys.argv[4:7])))
