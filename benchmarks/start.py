"""From `agent run` to the first answer, and the memory of agent and worker with LeNet.

    .venv/bin/python -m benchmarks.start [--rounds 5]

The agent has its model on disk and serves it without waiting for the registry, as after a reboot. Memory is the
proportional set size (PSS) of agent and worker after 1,000 requests.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.data_path import children
from benchmarks.models import lenet
from registry.client.devices import Client, DeviceError
from scripts.demo.processes import Fleet

DEVICE = "start"


def pss_mb(pid: int) -> float:
    """Proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def first_answer(fleet: Fleet, client: Client, x: np.ndarray) -> float:
    """Seconds from exec to the first result; asks again until the agent has subscribed."""
    begin = time.perf_counter()
    fleet.processes[DEVICE].start(lambda: True)
    while True:
        try:
            client.infer(DEVICE, "lenet", {"x": x}, timeout=0.05, retries=0)
        except DeviceError:
            time.sleep(0.01)
            continue
        return time.perf_counter() - begin


def main() -> None:
    """Start it a few times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    x = np.zeros((1, 1, 28, 28), np.float32)
    with tempfile.TemporaryDirectory() as name, Fleet(Path(name)) as fleet:
        fleet.start_broker()
        fleet.start_registry()
        fleet.registry("publish", "lenet", str(lenet().path), "--version", "1", "--target", "cpu")
        agent = fleet.start_agent(DEVICE, fleet.add_device(DEVICE))
        fleet.registry("deploy", "lenet@1", "--device", DEVICE, "--wait")
        times = []
        with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
            for _ in range(rounds):
                agent.stop()
                times.append(first_answer(fleet, client, x))
            for _ in range(1000):
                client.infer(DEVICE, "lenet", {"x": x})
            own, workers = pss_mb(agent.pid), sum(pss_mb(child) for child in children(agent.pid))
    print(f"start to first answer: median {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")
    print(f"PSS with LeNet: agent {own:.0f} MB + worker {workers:.0f} MB = {own + workers:.0f} MB")


if __name__ == "__main__":
    main()
