"""The other ceiling: ONNX Runtime alone, THREADS callers on one session, batch 1, no transport. Prints one JSON line.

usage: bare.py MODEL.onnx SHAPE THREADS SECONDS     e.g. bare.py m.onnx 1,3,224,224 2 5
"""

from __future__ import annotations

import json
import sys
import threading
import time

import numpy as np
import onnxruntime as ort

path, shape, threads, seconds = (
    sys.argv[1],
    [int(n) for n in sys.argv[2].split(",")],
    int(sys.argv[3]),
    float(sys.argv[4]),
)
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feed = {session.get_inputs()[0].name: np.random.default_rng(0).random(shape, np.float32)}
for _ in range(5):
    session.run(None, feed)
times: list[list[float]] = [[] for _ in range(threads)]
stop = time.perf_counter() + seconds


def caller(mine: list[float]) -> None:
    """Runs until the time is over."""
    start = time.perf_counter()
    while start < stop:
        session.run(None, feed)
        end = time.perf_counter()
        mine.append(end - start)
        start = end


workers = [threading.Thread(target=caller, args=(mine,)) for mine in times]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
every = sorted(t for mine in times for t in mine)
print(json.dumps({"per_second": len(every) / seconds, "p50_us": every[len(every) // 2] * 1e6}))
