"""Requests through a real broker: the agent against a C echo (the ceiling), bare ONNX Runtime and the naive rival.

    .venv/bin/python -m benchmarks.data_path            # about 6 minutes
    .venv/bin/python -m benchmarks.data_path --quick    # one short round, to see that it works

All contenders run at the same time on one Mosquitto and are asked in turn, round by round; every reply is matched by
its correlation data and its values are compared with ONNX Runtime's. Ratios are of the same round; medians are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.models import BenchModel, lenet, squeezenet
from scripts.demo.processes import Fleet

PEERS = Path(__file__).parent / "peers"
VARIANTS = 16


@dataclass
class Workload:
    """One model, one quality of service, one window."""

    model: BenchModel
    qos: int
    window: int
    count: int

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.model.name} QoS {self.qos}, {self.window} in flight"


@dataclass
class Contender:
    """Something that answers on a topic; `pids` are its processes, whose CPU time is counted."""

    name: str
    topic: Callable[[BenchModel], str]
    pids: Callable[[], list[int]]
    checked: bool = True
    figures: list[dict[str, float]] = field(default_factory=list)


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The direct children of a process: an agent's workers."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()] + [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for child in (task / "children").read_text().split()
    ]


class Bench:
    """Builds the peers, the bodies and the fleet in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("mqtt_load", "mqtt_echo"):
            subprocess.run(["gcc", "-O2", "-o", folder / name, PEERS / f"{name}.c", "-lm"], check=True, timeout=60)

    def bodies(self, model: BenchModel) -> int:
        """Writes request bodies and expected values; the length of the JSON header of a body."""
        rng = np.random.default_rng(1)
        x = rng.random((VARIANTS, *model.item), np.float32)
        session = ort.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
        y = np.concatenate([session.run([model.output], {model.input: x[i : i + 1]})[0] for i in range(VARIANTS)])
        tensor = {
            "name": model.input,
            "shape": [1, *model.item],
            "datatype": "FP32",
            "parameters": {"binary_data_size": x[0].nbytes},
        }
        document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        header = json.dumps(document, separators=(",", ":")).encode()
        (self.folder / f"{model.name}.bodies").write_bytes(b"".join(header + row.tobytes() for row in x))
        (self.folder / f"{model.name}.expected").write_bytes(y.astype(np.float32).tobytes())
        return len(header)

    def load(self, port: int, topic: str, work: Workload, header: int, *, checked: bool) -> dict[str, float]:
        """One run of the load generator."""
        warm = max(work.window * 2, work.count // 10)
        argv = [self.folder / "mqtt_load", port, topic, self.folder / f"{work.model.name}.bodies", VARIANTS]
        argv += [work.window, work.count, warm, work.qos, header]
        argv += [self.folder / f"{work.model.name}.expected"] if checked else []
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{topic}: {done.stdout}{done.stderr}")
        return {**json.loads(done.stdout), "total": work.count + warm}


@contextmanager
def peer(argv: list[Any]) -> Iterator[int]:
    """A peer process that printed `ready`; its pid."""
    with subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{argv[0]} did not start")
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def start_agents(fleet: Fleet, models: list[BenchModel]) -> dict[str, int]:
    """Two devices that serve all models: one with workers, one inline; their pids."""
    pids = {}
    for model in models:
        fleet.registry("publish", model.name, str(model.path), "--version", "1.0.0", "--target", "cpu")
    for device, env in (
        ("worker", {}),
        ("inline", {"MODELFLEET_AGENT_WORKER__INLINE_MODELS": json.dumps([m.name for m in models])}),
    ):
        pids[device] = fleet.start_agent(device, fleet.add_device(device), **env).pid
        for model in models:
            fleet.registry("deploy", f"{model.name}@1.0.0", "--device", device, "--wait")
    return pids


def contenders_for(
    bench: Bench, fleet: Fleet, work: Workload, pids: dict[str, int], stack: ExitStack
) -> list[Contender]:
    """The peers are started for each workload, since they know one model and one quality of service."""
    reply = 150 + (bench.folder / f"{work.model.name}.expected").stat().st_size // VARIANTS
    port = fleet.broker_port
    echo = stack.enter_context(peer([bench.folder / "mqtt_echo", port, "echo/#", work.qos, reply]))
    rival = stack.enter_context(peer([sys.executable, PEERS / "rival.py", port, "rival/#", work.model.path, work.qos]))
    chosen = [
        Contender("C echo", lambda m: f"echo/{m.name}", lambda: [echo], checked=False),
        Contender("rival", lambda m: f"rival/{m.name}", lambda: [rival]),
    ]
    for device, pid in pids.items():
        chosen.append(
            Contender(
                f"agent, {device}",
                lambda m, device=device: f"modelfleet/v1/devices/{device}/infer/{m.name}",
                lambda pid=pid: [pid],
            )
        )
    return chosen


def measure(
    bench: Bench, fleet: Fleet, work: Workload, pids: dict[str, int], *, rounds: int, header: int
) -> dict[str, Any]:
    """All contenders, `rounds` times in turn."""
    broker = fleet.processes["broker"].pid
    with ExitStack() as stack:
        contenders = contenders_for(bench, fleet, work, pids, stack)
        bare = []
        for _ in range(rounds):
            for contender in contenders:
                own, worker = contender.pids(), [c for p in contender.pids() for c in children(p)]
                before = [cpu_seconds(p) for p in (own, worker, [broker])]
                figures = bench.load(
                    fleet.broker_port, contender.topic(work.model), work, header, checked=contender.checked
                )
                spent = [cpu_seconds(p) - b for p, b in zip((own, worker, [broker]), before, strict=True)]
                for name, seconds in zip(("own", "workers", "broker"), spent, strict=True):
                    figures[f"{name}_cpu_us"] = seconds * 1e6 / figures["total"]
                contender.figures.append(figures)
            if work.model.name == "squeezenet":
                shape = ",".join(str(n) for n in (1, *work.model.item))
                threads = min(2, work.window)
                argv = [sys.executable, PEERS / "bare.py", work.model.path, shape, threads, 3]
                done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=60, check=True)
                bare.append(json.loads(done.stdout))
    table = {c.name: summary(c.figures, contenders[0].figures, contenders[1].figures, bare) for c in contenders}
    if bare:
        table[f"bare ONNX Runtime, {min(2, work.window)} threads"] = {
            key: statistics.median(b[key] for b in bare) for key in ("per_second", "p50_us")
        }
    return table


def summary(mine: list[dict[str, float]], echo: list[dict[str, float]], rival: list[dict[str, float]],
            bare: list[dict[str, float]]) -> dict[str, Any]:  # fmt: skip
    """Medians, and medians of the ratios of each round."""

    def ratio(key: str, other: list[dict[str, float]]) -> float:
        return statistics.median(a[key] / b[key] for a, b in zip(mine, other, strict=True))

    out = {key: statistics.median(f[key] for f in mine) for key in
           ("per_second", "p50_us", "p99_us", "own_cpu_us", "workers_cpu_us", "broker_cpu_us")}  # fmt: skip
    out["runs"] = [round(f["per_second"]) for f in mine]
    out["rate_to_echo"], out["rate_to_rival"] = ratio("per_second", echo), ratio("per_second", rival)
    out["p50_to_rival"] = ratio("p50_us", rival)
    if bare:
        out["rate_to_bare"] = ratio("per_second", bare)
        out["p50_to_bare_plus_echo"] = statistics.median(
            m["p50_us"] / (b["p50_us"] + e["p50_us"]) for m, b, e in zip(mine, bare, echo, strict=True)
        )
    return out


COLUMNS = (
    "contender",
    "req/s (runs)",
    "p50 / p99 µs",
    "CPU µs a request: own, workers, broker",
    "rate to echo, rival, bare",
    "p50 to rival, bare + echo",
)


def show(work: Workload, table: dict[str, Any]) -> None:
    """One Markdown table."""
    print(f"\n### {work.name}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, f in table.items():
        cells = [name, f"{f['per_second']:,.0f}", f"{f['p50_us']:,.0f}", "", "", ""]
        if "runs" in f:
            cells[1] += f" ({', '.join(f'{r:,}' for r in f['runs'])})"
            cells[2] += f" / {f['p99_us']:,.0f}"
            cells[3] = ", ".join(f"{f[key]:.0f}" for key in ("own_cpu_us", "workers_cpu_us", "broker_cpu_us"))
            cells[4] = _ratios(f, "rate_to_echo", "rate_to_rival", "rate_to_bare")
            cells[5] = _ratios(f, "p50_to_rival", "p50_to_bare_plus_echo")
        print(f"| {' | '.join(cells)} |")


def _ratios(figures: dict[str, Any], *keys: str) -> str:
    return ", ".join(f"{figures[key]:.2f}" for key in keys if key in figures)


def main() -> None:
    """Run all workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    scale, rounds = (0.1, 1) if arguments.quick else (1.0, arguments.rounds)
    with tempfile.TemporaryDirectory() as name, Fleet(Path(name)) as fleet:
        bench, small, large = Bench(Path(name)), lenet(), squeezenet(Path(name))
        headers = {model.name: bench.bodies(model) for model in (small, large)}
        fleet.start_broker()
        fleet.start_registry()
        pids = start_agents(fleet, [small, large])
        workloads = [
            Workload(small, qos, window, int(count * scale))
            for qos in (0, 1)
            for window, count in ((1, 4000), (32, 40000), (64, 40000))
        ]
        workloads += [Workload(large, 0, 1, int(200 * scale)), Workload(large, 0, 8, int(500 * scale))]
        print(f"{time.strftime('%Y-%m-%d')}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
              f"Python {platform.python_version()}, ONNX Runtime {ort.__version__}, {rounds} rounds")  # fmt: skip
        results = {}
        for work in workloads:
            if arguments.only in work.name:
                results[work.name] = measure(bench, fleet, work, pids, rounds=rounds, header=headers[work.model.name])
                show(work, results[work.name])
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
