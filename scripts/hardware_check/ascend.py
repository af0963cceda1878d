"""scripts/ascend-check: what this product does on a host with an Ascend chip and CANN, in one report.

    . /usr/local/Ascend/ascend-toolkit/set_env.sh
    scripts/ascend-check                   # on the host; the report is ascend-check.md and ascend-check.json
    scripts/ascend-check --rehearse        # anywhere: on the simulated ATC and ACL, and the report says so

ATC makes OMs on this host, ACL runs them, and every value is compared with ONNX Runtime's CPU. Where MindSpore sees a
chip of the 910 family, its tests run, too. It changes nothing outside the report's folder and a temporary one. Exit
code 1 when a step failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.demo.processes import BIN, Fleet
from scripts.hardware_check import speed
from scripts.hardware_check.command import run_check
from scripts.hardware_check.models import CheckModel, check_models, checkpoint
from scripts.hardware_check.report import CheckError, SkipError, Step, output_of
from scripts.hardware_check.serving import DEVICE, deploy, running_fleet, serve

GEARS = "1,2,4,8"
SIMULATED_CANN_VERSION = "8.0.RC1"
SWAPS = 10


class AscendCheck:
    """The steps, in order; `rehearse` puts the simulated ATC and ACL in the place of CANN's."""

    def __init__(self, folder: Path, *, rehearse: bool, quick: bool) -> None:
        self.folder = folder
        self.rehearse = rehearse
        self.scale = 0.1 if quick else 1.0
        self.models = check_models(folder)
        self._stack = ExitStack()
        self._fleet: Fleet | None = None
        if rehearse:
            self._simulate()

    def _simulate(self) -> None:
        from tests.fakes.simulated_acl.om import SIMULATED_CANN  # noqa: PLC0415 - only a rehearsal needs the tests
        from tests.fakes.simulated_atc import simulated_atc  # noqa: PLC0415

        cann = self.folder / "cann"
        facts = cann / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
        facts.parent.mkdir(parents=True)
        facts.write_text(f"version={SIMULATED_CANN_VERSION}\n")
        (cann / "python").symlink_to(SIMULATED_CANN / "python")
        os.environ["ASCEND_TOOLKIT_HOME"] = str(cann)
        os.environ["PATH"] = f"{simulated_atc(self.folder / 'atc').parent}:{os.environ['PATH']}"

    def close(self) -> None:
        """Stops the fleet."""
        self._stack.close()

    @property
    def fleet(self) -> Fleet:
        """The fleet that `convert` started."""
        if self._fleet is None:
            raise SkipError("the step 'convert' did not get so far")
        return self._fleet

    def facts(self, step: Step) -> None:
        """The chips, CANN, and what the agent makes of them."""
        with contextlib.suppress(SkipError):
            step.block(output_of("npu-smi", "info"))
        with contextlib.suppress(SkipError):
            step.block("\n".join(output_of("atc", "--help").splitlines()[:5]))
        data = self.folder / "facts"
        data.mkdir(exist_ok=True)
        env = {**os.environ, "MODELFLEET_AGENT_DATA_DIR": str(data)}
        step.block(output_of(str(BIN / "agent"), "platform", env=env, limit_s=120))
        step.data["platform"] = json.loads(output_of(str(BIN / "agent"), "platform", "--json", env=env, limit_s=120))
        step.block(output_of(str(BIN / "agent"), "doctor", env=env, limit_s=120))
        if self._backend("ascend_acl") is None:
            raise CheckError("the agent's probe of ascend_acl says that it is not usable: see its reason above")

    def _backend(self, name: str) -> dict[str, Any] | None:
        """What the agent found of a backend, where it is usable."""
        data = self.folder / "facts"
        env = {**os.environ, "MODELFLEET_AGENT_DATA_DIR": str(data)}
        facts = json.loads(output_of(str(BIN / "agent"), "platform", "--json", env=env, limit_s=120))
        found = [b for b in facts.get("platform", facts)["backends"] if b["name"] == name and b["usable"]]
        return found[0] if found else None

    def convert(self, step: Step) -> None:
        """Each model published as ONNX and made into an OM by ATC on this host."""
        self._fleet = self._stack.enter_context(running_fleet(self.folder / "fleet"))
        rows = []
        for model in self.models:
            self._fleet.registry("publish", model.name, str(model.path), "--version", "1.0.0", "--target", "cpu")
            began = time.monotonic()
            options = ("--on", DEVICE, "--wait", "-O", f"dynamic_batch_size={GEARS}")
            made = self._fleet.registry("convert", f"{model.name}@1.0.0", "--to", "om", *options)
            step.data[model.name] = made
            rows.append((model.name, f"{time.monotonic() - began:.1f} s"))
        step.table(("model", "ATC took"), rows)

    def serve(self, step: Step) -> None:
        """Deploy the OM and ask over MQTT."""
        try:
            serve(step, self.fleet, self.models, "ascend_acl", self._deploy)
        except Exception:
            step.block(self.fleet.processes[DEVICE].tail(40))
            raise

    def _deploy(self, model: CheckModel) -> float:
        return deploy(self.fleet, model.name, "1.0.0", "--variant", self._om_of(model))

    def _om_of(self, model: CheckModel) -> str:
        manifest = self.fleet.registry("show", f"{model.name}@1.0.0")["manifest"]
        return str(next(v["name"] for v in manifest["variants"] if v["format"] == "om"))

    def speed(self, step: Step) -> None:
        """Through broker and agent, beside the C echo on the same broker."""
        generator = speed.LoadGenerator(self.folder)
        rows = []
        for model, count in zip(self.models[:2], (6_000, 1_000), strict=True):
            header = generator.bodies(model)
            for window in speed.WINDOWS:
                requests = max(100, int(count * self.scale * (0.25 if window == 1 else 1)))
                load = speed.Load(model, header, window, requests)
                port = self.fleet.broker_port
                mine, echo = generator.agent(port, load), generator.echo(port, load)
                step.data[f"{model.name}, {window}"] = {"agent": mine, "echo": echo}
                latency = f"{mine['p50_us']:,.0f} / {mine['p99_us']:,.0f}"
                rows.append((model.name, window, f"{mine['per_second']:,.0f}", latency, f"{echo['per_second']:,.0f}"))
        step.table(("model", "in flight", "agent: req/s", "p50 / p99 µs", "C echo: req/s"), rows)

    def memory(self, step: Step) -> None:
        """The chip's memory over ten swaps between the OM and the ONNX file of one version."""
        model = self.models[1]
        seconds, said = [], [_npu_memory()]
        for i in range(SWAPS):
            variant = self._om_of(model) if i % 2 else "onnx-cpu"
            seconds.append(deploy(self.fleet, model.name, "1.0.0", "--variant", variant))
            said.append(_npu_memory())
        step.data["npu_smi"], step.data["swap_s"] = said, seconds
        step.say(f"{SWAPS} swaps of {model.name}, {min(seconds):.1f} to {max(seconds):.1f} s each.")
        for text in (said[0], said[-1]):
            step.block(text or "npu-smi is not here: the memory was not read")

    def mindspore(self, step: Step) -> None:
        """A checkpoint of the catalogue's LeNet through MindSpore, on a 910; a rehearsal takes MindSpore's CPU."""
        target = "cpu" if self.rehearse else "ascend910"
        found = self._backend("mindspore")
        if found is None or target not in found["targets"]:
            raise SkipError(f"no MindSpore here computes on {target}: see the facts")
        model, path = checkpoint(self.folder)

        def bring(model: CheckModel) -> float:
            network = ("--network", "lenet5", "--input", "x:FP32:-1,1,32,32", "--output", "y:FP32:-1,10")
            options = ("--version", "1.0.0", "--target", target, *network)
            self.fleet.registry("publish", model.name, str(path), *options)
            return deploy(self.fleet, model.name, "1.0.0")

        serve(step, self.fleet, [model], "mindspore", bring)


def _npu_memory() -> str:
    try:
        return output_of("npu-smi", "info")
    except SkipError:
        return ""


STEPS: dict[str, float] = {"facts": 200, "convert": 1200, "serve": 300, "speed": 180, "memory": 300, "mindspore": 240}
"""Steps in order, with what each may take at most, seconds."""


def main() -> int:
    """Runs the steps that were asked for."""
    return run_check("ascend-check", "Modelfleet on an Ascend chip", __doc__ or "", STEPS, AscendCheck)


if __name__ == "__main__":
    sys.exit(main())
