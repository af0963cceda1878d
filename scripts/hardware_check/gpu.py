"""scripts/gpu-check: what this product does on a host with an NVIDIA card, in one report.

    scripts/gpu-check                      # on the host; the report is gpu-check.md and gpu-check.json
    scripts/gpu-check --rehearse           # anywhere: the same steps on the CPU provider, and the report says so
    scripts/gpu-check --only speed,memory  # some of the steps

It takes less than eight minutes and changes nothing outside the report's folder and a temporary one. Exit code 1 when a
step failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, load, save

from agent.errors import AgentError
from agent.worker.handle import start_worker
from agent.worker.spec import WorkerSpec
from scripts.demo.processes import BIN, Fleet
from scripts.hardware_check import speed
from scripts.hardware_check.command import run_check
from scripts.hardware_check.models import CheckModel, check_models
from scripts.hardware_check.report import CheckError, SkipError, Step, output_of
from scripts.hardware_check.serving import (
    DEVICE,
    deploy,
    difference,
    publish_and_deploy,
    reference,
    running_fleet,
    serve,
)

ROOT = Path(__file__).resolve().parents[2]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
SMI = ("name", "driver_version", "compute_cap", "memory.total", "memory.used", "clocks.max.sm", "power.limit")
SWAPS = 10


class GpuCheck:
    """The steps, in order; `rehearse` runs them on the CPU provider."""

    def __init__(self, folder: Path, *, rehearse: bool, quick: bool) -> None:
        self.folder = folder
        self.rehearse = rehearse
        self.scale = 0.1 if quick else 1.0
        self.target, self.provider = ("cpu", CPU) if rehearse else ("gpu", CUDA)
        self.options = {} if rehearse else {"use_tf32": "0"}  # as the agent runs it
        self.models = check_models(folder)
        self._stack = ExitStack()
        self._fleet: Fleet | None = None

    def close(self) -> None:
        """Stops the fleet."""
        self._stack.close()

    @property
    def fleet(self) -> Fleet:
        """The fleet that `serve` started."""
        if self._fleet is None:
            raise SkipError("the step 'serve' did not get so far")
        return self._fleet

    def facts(self, step: Step) -> None:
        """The card, the driver, ONNX Runtime, and what the agent makes of them."""
        listed = ", ".join(ort.get_available_providers())
        step.say(f"ONNX Runtime {ort.__version__}, NumPy {np.__version__}; it lists {listed}.")
        with contextlib.suppress(SkipError):
            text = output_of("nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader")
            step.data["nvidia_smi"] = dict(zip(SMI, (f.strip() for f in text.splitlines()[0].split(",")), strict=False))
            step.table(("", ""), list(step.data["nvidia_smi"].items()))
        env = {**os.environ, "MODELFLEET_AGENT_DATA_DIR": str(self.folder / "facts")}
        (self.folder / "facts").mkdir(exist_ok=True)
        step.block(output_of(str(BIN / "agent"), "platform", env=env, limit_s=90))
        facts = json.loads(output_of(str(BIN / "agent"), "platform", "--json", env=env, limit_s=90))
        step.data["platform"] = facts
        step.block(output_of(str(BIN / "agent"), "doctor", env=env, limit_s=90))
        if not self.rehearse and self.provider not in json.dumps(facts):
            raise CheckError(f"the agent's probe does not find {self.provider}: see its reason above")

    def tests(self, step: Step) -> None:
        """The tests that need a GPU."""
        argv = (
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "tests/integration/agent/backends/test_gpu.py",
        )
        text = output_of(*argv, limit_s=110)
        step.block(text[-4000:])
        last = text.strip().splitlines()[-1] if text.strip() else "nothing was printed"
        step.data["summary"] = last
        if "No module named pytest" in text:
            raise SkipError("pytest is not installed")
        if "failed" in last or "error" in last or ("passed" not in last and not self.rehearse):
            raise CheckError(last)

    def precision(self, step: Step) -> None:
        """The card's values against the CPU's in bare ONNX Runtime, with and without TF32."""
        rows = []
        for model in self.models:
            items = model.items(32)
            want = reference(model, items)
            row: list[object] = [model.name]
            for tf32 in ("0", "1"):
                options = {} if self.rehearse else {"use_tf32": tf32}
                session = speed.session_on(self.provider, model.path, **options)
                alone = np.concatenate([session.run(None, {model.input: items[i : i + 1]})[0] for i in range(32)])
                together = session.run(None, {model.input: items})[0]
                figures = {"alone": difference(alone, want), "together": difference(together, want),
                           "alone_to_together": difference(together, alone)}  # fmt: skip
                step.data.setdefault(model.name, {})[f"tf32={tf32}"] = figures
                row += [f"{figures['alone']:.2g}", f"{figures['together']:.2g}", f"{figures['alone_to_together']:.2g}"]
            rows.append(row)
        head = [
            f"{what}, TF32 {on}"
            for on in ("off", "on")
            for what in ("alone to CPU", "batch of 32 to CPU", "batch to alone")
        ]
        step.table(("model", *head), rows)

    def serve(self, step: Step) -> None:
        """Publish, deploy and ask over MQTT."""
        self._fleet = self._stack.enter_context(running_fleet(self.folder / "fleet"))
        try:
            serve(step, self._fleet, self.models, self.provider, partial(publish_and_deploy, self._fleet, self.target))
        except Exception:
            step.block(self._fleet.processes[DEVICE].tail(40))
            raise

    def fallback(self, step: Step) -> None:
        """A session that would run on the CPU in silence is refused."""
        rows = []
        model = self.models[0]
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        try:
            rows.append(("no card is visible", self._refused(model.path)))
            script = (
                "import sys, onnxruntime as ort; ort.set_default_logger_severity(4); "
                "session = ort.InferenceSession(sys.argv[1], providers=sys.argv[2].split(',')); "
                "print(','.join(session.get_providers()))"
            )
            control = output_of(sys.executable, "-c", script, str(model.path), f"{CUDA},{CPU}", limit_s=60)
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before
        step.say(
            f"Control: plain ONNX Runtime, asked for CUDA without a visible card, runs on: {control.strip()[-300:]}"
        )
        rows.append(("a node that the card cannot take", self._refused(_cpu_only(self.folder / "cpu-only.onnx"))))
        step.table(("what", "the agent's worker says"), rows)
        step.data["refusals"] = dict(rows)

    def _refused(self, path: Path) -> str:
        folder = self.folder / f"refused-{path.stem}"
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(path.read_bytes())
        try:
            worker = start_worker(WorkerSpec("check", "onnxruntime", str(folder), "model.onnx", target="gpu"))
        except AgentError as error:
            return f"{error.code}: {error.message}"[:400]
        provider = worker.provider
        worker.close(5.0)
        raise CheckError(f"{path.name} for a GPU was accepted and runs on {provider}")

    def speed(self, step: Step) -> None:
        """Through broker and agent, beside bare ONNX Runtime on the same provider."""
        port = self.fleet.broker_port
        generator = speed.LoadGenerator(self.folder)
        rows = []
        for model, count in zip(self.models[:2], (12_000, 4_000), strict=True):
            header = generator.bodies(model)
            session = speed.session_on(self.provider, model.path, **self.options)
            for window in speed.WINDOWS:
                requests = max(200, int(count * self.scale * (0.25 if window == 1 else 1)))
                load = speed.Load(model, header, window, requests)
                mine, echo = generator.agent(port, load), generator.echo(port, load)
                other = speed.bare(session, model, window, max(0.5, 2 * self.scale))
                step.data[f"{model.name}, {window}"] = {"agent": mine, "bare": other, "echo": echo}
                rows.append(
                    (
                        model.name,
                        window,
                        f"{mine['per_second']:,.0f}",
                        f"{mine['p50_us']:,.0f} / {mine['p99_us']:,.0f}",
                        f"{other['per_second']:,.0f}",
                        f"{other['p50_us']:,.0f}",
                        f"{mine['per_second'] / other['per_second']:.2f}",
                        f"{echo['per_second']:,.0f}",
                        f"{echo['p50_us']:,.0f}",
                    )
                )
        bare = ("bare: runs/s from as many threads", "p50 µs", "agent to bare")
        step.table(("model", "in flight", "agent: req/s", "p50 / p99 µs", *bare, "C echo: req/s", "p50 µs"), rows)
        time.sleep(3)  # one health report more
        models = self.fleet.registry("health", DEVICE, "--limit", "3")[0]["models"]
        step.data["health"] = models
        step.table(
            ("model", "batch size: how many batches"),
            [(name, json.dumps(health.get("batch_sizes", {}))) for name, health in models.items()],
        )

    def binding(self, step: Step) -> None:
        """What I/O binding and pinned memory change for one run."""
        rows: list[list[object]] = []
        head: list[str] = []
        for model in self.models[:2]:
            session = speed.session_on(self.provider, model.path, **self.options)
            for batch in (1, 8, 32):
                times = speed.binding_times(session, model, batch, "cpu" if self.rehearse else "cuda")
                step.data[f"{model.name}, {batch}"] = times
                head = list(times) if len(times) > len(head) else head
                rows.append([model.name, batch, *(f"{value:,.0f}" for value in times.values())])
        step.table(("model", "batch", *(f"{name}, µs" for name in head)), rows)

    def memory(self, step: Step) -> None:
        """The card's memory before and after ten swaps between two versions."""
        model = self.models[1]
        self.fleet.registry(
            "publish", model.name, str(_changed(model, self.folder)), "--version", "1.0.1", "--target", self.target
        )
        used = [_card_memory()]
        seconds = []
        for i in range(SWAPS):
            seconds.append(deploy(self.fleet, model.name, "1.0.1" if i % 2 == 0 else "1.0.0"))
            used.append(_card_memory())
        step.data["used_mib"], step.data["swap_s"] = used, seconds
        step.say(f"{SWAPS} swaps of {model.name}, {min(seconds):.1f} to {max(seconds):.1f} s each.")
        if used[0] is None:
            step.say("nvidia-smi is not here: the memory was not read.")
            return
        step.say(f"Card memory in use, MiB: {', '.join(str(value) for value in used)}.")
        if used[-1] is not None and used[-1] > used[2 if len(used) > 2 else 0] + 200:
            raise CheckError(f"the card's memory grew from {used[0]} to {used[-1]} MiB over {SWAPS} swaps")


def _card_memory() -> int | None:
    try:
        return int(output_of("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits").splitlines()[0])
    except (SkipError, ValueError, IndexError):
        return None


def _cpu_only(path: Path) -> Path:
    """A float model with a node that has no CUDA kernel: Det (ONNX Runtime, docs/OperatorKernels.md)."""
    node = helper.make_node("Det", ["x"], ["y"])
    graph = helper.make_graph(
        [node], "det",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _changed(model: CheckModel, folder: Path) -> Path:
    """The same network as another file, so that it is another version."""
    path = folder / f"{model.name}-changed.onnx"
    loaded = load(str(model.path))
    loaded.producer_version = "changed"
    save(loaded, str(path))
    return path


STEPS: dict[str, float] = {
    "facts": 100,
    "tests": 120,
    "precision": 60,
    "serve": 120,
    "fallback": 60,
    "speed": 120,
    "binding": 45,
    "memory": 120,
}
"""Steps in order, with what each may take at most, seconds."""


def main() -> int:
    """Runs the steps that were asked for."""
    return run_check("gpu-check", "Modelfleet on an NVIDIA card", __doc__ or "", STEPS, GpuCheck)


if __name__ == "__main__":
    sys.exit(main())
