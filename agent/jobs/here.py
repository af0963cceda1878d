"""`python -m agent.jobs.here`: one conversion on this machine, without an agent; `registry convert` runs it.

One JSON object on standard input, one on standard output:

    {"source": Variant, "to": format, "options": {}, "folder": path, "golden": path or null, "timeout_s": seconds,
     "device": null or {"name", "soc", "cann", "compute_capability"}, "dry_run": bool, "parent": process id}

With `folder` null nothing is run. `device`: plan for that host instead of this one; only the plan. `dry_run`: plan also
with a program that is `missing` here. `parent`: who waits for the answer. When that process is gone, killed for
instance, the conversion ends and the folder goes with it.

    {"plan": {"tool", "command", "name", "missing": bool}}       {"variant": Variant}       {"error": {code, message}}

The files of the source lie in `folder/source`; what was made is in `folder/out`. Exit status 0, or 1 for an error.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.adapters.facts.accelerators import probe_cann, probe_nvidia
from agent.conversion.base import ConversionRequest, Tools
from agent.conversion.convert import convert, plan_for
from agent.conversion.quantize import CALIBRATION
from agent.errors import AgentError
from agent.jobs.convert import write_calibration
from registry.contracts.catalogue.manifest import Format, Variant
from registry.contracts.tensor_file import TensorFileError

MAX_ORDER_BYTES = 4 << 20
PARENT_EVERY_S = 0.2
MINDSPORE_VARIABLE = "MODELFLEET_MINDSPORE_PYTHON"


def main() -> int:
    """Reads the order, does it, answers."""
    cancel = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: cancel.set())
    order = json.loads(sys.stdin.buffer.read(MAX_ORDER_BYTES))
    threading.Thread(target=_watch, args=(order["parent"], cancel), name="parent", daemon=True).start()
    try:
        answer = _done(order, cancel)
    except AgentError as error:
        answer = {"error": {"code": error.code, "message": error.message}}
    except OSError as error:
        answer = {"error": {"code": "disk_error", "message": f"{order['folder']}: {error}: free some space there"}}
    except TensorFileError as error:
        answer = {"error": {"code": "bad_answer", "message": f"the golden vectors: {error}"}}
    if os.getppid() != order["parent"]:
        if order["folder"] is not None:
            shutil.rmtree(order["folder"], ignore_errors=True)
        return 1
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    return 1 if "error" in answer else 0


def _watch(parent: int, cancel: threading.Event) -> None:
    while os.getppid() == parent:
        if cancel.wait(PARENT_EVERY_S):
            return
    cancel.set()


def _done(order: dict[str, Any], cancel: threading.Event) -> dict[str, Any]:
    request = ConversionRequest(
        source=Variant.model_validate(order["source"]),
        to=Format(order["to"]),
        tools=_tools_of(order["device"]) if order["device"] else tools_here(Format(order["to"])),
        options=order["options"],
        calibration=order["golden"] is not None,
    )
    if order["folder"] is None:
        return {"plan": _planned(request, shown=order["dry_run"])}
    folder = Path(order["folder"])
    if order["golden"] not in (None, ""):
        write_calibration(Path(order["golden"]), folder / CALIBRATION)
    made = convert(request, folder, timeout_s=order["timeout_s"], cancel=cancel)
    return {"variant": made.variant.to_json()}


def _planned(request: ConversionRequest, *, shown: bool) -> dict[str, Any]:
    """The plan; `shown`: with the plain names of programs that are not here."""
    here = request.tools
    if shown:
        named = {"atc": here.atc or "atc", "trtexec": here.trtexec or "trtexec"}
        request = replace(request, tools=replace(here, mindspore=here.mindspore or "python", **named))
    plan = plan_for(request)
    missing = plan.command[0] not in (here.python, here.mindspore, here.atc, here.trtexec)
    return {"tool": plan.tool, "command": plan.command, "name": plan.name, "missing": missing}


def tools_here(to: Format) -> Tools:
    """What this machine converts with; only what `to` needs is looked for."""
    cann = probe_cann(os.environ, platform.machine())[0] if to is Format.OM else None
    cuda = probe_nvidia(os.environ)[0] if to is Format.TENSORRT_PLAN else None
    here = importlib.util.find_spec("mindspore") is not None
    return Tools(
        python=sys.executable,
        mindspore=os.environ.get(MINDSPORE_VARIABLE) or (sys.executable if here else None),
        atc=shutil.which("atc"),
        trtexec=shutil.which("trtexec"),
        cann=cann.version if cann else "",
        compute_capability=cuda.compute_capability if cuda else "",
    )


def _tools_of(device: dict[str, str]) -> Tools:
    """A device's, for showing: where its programs are, only it knows."""
    return Tools(
        python="python",
        mindspore="python",
        atc="atc",
        trtexec="trtexec",
        soc=device["soc"],
        cann=device["cann"],
        compute_capability=device["compute_capability"],
        device=device["name"],
    )


if __name__ == "__main__":
    sys.exit(main())
