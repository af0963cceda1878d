"""The program that holds one model while the publisher's machine runs it: a process of its own, ended with its parent.

Run as `PYTHON -I child.py`, by the interpreter that has the runtime. Standard library, NumPy and the vendor's package
only, Python 3.9 syntax. Messages both ways are frames: u32 little-endian length, payload. First comes the order, JSON:

    {"runtime": "onnxruntime" | "mindspore", "file": path, "device": name, "inputs": [names], "outputs": [names],
     "network": {"name", "arguments"} of a checkpoint, else null}

and goes {"provider": name} or {"code": code, "error": text}; an empty path tries runtime and device only. Then each
request is an .npz of the inputs, `arr_<place>` each, less those that are left to their default; each answer is a byte 0
and an .npz of the outputs in that order, or a byte 1 and a text. It trusts its parent only.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

if __name__ == "__main__":
    # Only this one package becomes importable, not what lies beside it: that is another interpreter's.
    package = types.ModuleType("registry")
    package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    sys.modules["registry"] = package

from registry import sandbox

Run = Callable[[Mapping[int, Any]], Sequence[Any]]
"""From the inputs, by their place in the order, to all outputs."""


class Refusal(Exception):  # noqa: N818 - it is an answer
    """The model cannot be run here. `code` is a DeploymentCode."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def open_onnxruntime(order: dict[str, Any]) -> tuple[str, Run]:
    """The provider, and a function that runs. No silent fallback to another provider."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some builds carry an uploader of usage data
    try:
        import onnxruntime  # noqa: PLC0415 - by the interpreter that has it
    except ImportError as error:
        raise Refusal("backend_unavailable", f"onnxruntime cannot be imported: {error}") from None
    provider = order["device"]
    if provider not in onnxruntime.get_available_providers():
        raise Refusal("backend_unavailable", f"this onnxruntime has no {provider}")
    onnxruntime.set_default_logger_severity(4)
    if not order["file"]:
        return provider, list
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(order["file"], options, providers=[provider], enable_fallback=0)
    except Exception as error:  # noqa: BLE001 - the vendor's exceptions derive from Exception only
        raise Refusal("load_failed", str(error)) from None
    if provider not in session.get_providers():
        raise Refusal("backend_unavailable", f"onnxruntime fell back to {', '.join(session.get_providers())}")
    names, outputs = order["inputs"], order["outputs"]
    return provider, lambda arrays: session.run(outputs, {names[place]: array for place, array in arrays.items()})


def open_mindspore(order: dict[str, Any]) -> tuple[str, Run]:
    """The device, and a function that runs a MindIR or a checkpoint: tensors go by position."""
    tempfile.tempdir = tempfile.tempdir or "/nonexistent"  # MindSpore looks for one at import and uses none
    try:
        import mindspore  # noqa: PLC0415 - by the interpreter that has it
    except Exception as error:  # noqa: BLE001 - a broken installation raises more than ImportError
        raise Refusal("backend_unavailable", f"mindspore cannot be imported: {error}") from None
    try:
        mindspore.set_device(order["device"])
    except Exception as error:  # noqa: BLE001 - MindSpore raises whatever its C++ threw
        raise Refusal("backend_unavailable", f"MindSpore cannot use {order['device']}: {error}") from None
    if not order["file"]:
        return order["device"], list
    try:
        cell = _filled(mindspore, order) if order["network"] else mindspore.nn.GraphCell(mindspore.load(order["file"]))
        cell.set_train(False)
    except Refusal:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise Refusal("load_failed", str(error)) from None

    import numpy as np  # noqa: PLC0415 - as in `answer`

    def run(arrays: Mapping[int, Any]) -> Sequence[Any]:
        answer = cell(*(mindspore.Tensor(np.ascontiguousarray(arrays[place])) for place in sorted(arrays)))
        results = answer if isinstance(answer, (tuple, list)) else [answer]
        if len(results) != len(order["outputs"]):
            raise ValueError(f"the model gave {len(results)} outputs, {len(order['outputs'])} are declared")
        return [result.asnumpy() for result in results]

    return order["device"], run


def _filled(mindspore: Any, order: dict[str, Any]) -> Any:
    """The network of the catalogue with the checkpoint's weights."""
    from registry.mindspore_networks import table  # noqa: PLC0415 - of a checkpoint only

    said = order["network"]
    network = table.build(said["name"], said["arguments"])
    if wrong := table.fill(mindspore, network, order["file"]):
        raise Refusal("checkpoint_mismatch", f"not a checkpoint of {said['name']}: {'; '.join(wrong)}")
    return network


RUNTIMES = {"onnxruntime": open_onnxruntime, "mindspore": open_mindspore}


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next message; None when the parent hung up."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack("<I", head)
    payload = stream.read(length)
    return payload if len(payload) == length else None


def write_frame(stream: BinaryIO, payload: bytes) -> None:
    """One message, at once."""
    stream.write(struct.pack("<I", len(payload)) + payload)
    stream.flush()


def answer(run: Run, payload: bytes) -> bytes:
    """What goes back for one request."""
    import numpy as np  # noqa: PLC0415 - starts threads, which Landlock holds only when they start after it

    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            arrays = {int(name[len("arr_") :]): archive[name] for name in archive.files}
        results = io.BytesIO()
        np.savez(results, *(np.asarray(result) for result in run(arrays)))
        return b"\0" + results.getvalue()
    except Exception as error:  # noqa: BLE001 - a run that fails is an answer
        return b"\1" + " ".join(str(error).split())[:1000].encode("utf-8", "replace")


def _confine(order: dict[str, Any]) -> None:
    """Limits first, then the vendor's code, then the model's bytes. An accelerator's driver needs its devices."""
    sandbox.die_with_parent(True)  # while it loads; later the closed standard input tells
    on_host = order["device"] in ("CPUExecutionProvider", "CPU")
    # Its last words go to a file that the parent opened.
    sandbox.limit(sandbox.memory_of_host() if on_host else None, writes=True)
    if on_host:
        sandbox.confine([os.path.dirname(order["file"])] if order["file"] else [])
    else:
        sandbox.give_up_calls(children=True)


def main() -> None:
    """Serves one parent until it hangs up. What vendors print goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    order = json.loads(read_frame(requests) or b"{}")
    _confine(order)
    try:
        provider, run = RUNTIMES[order["runtime"]](order)
    except Refusal as refusal:
        said = {"code": refusal.code, "error": " ".join(str(refusal).split())[:1000]}
        write_frame(replies, json.dumps(said).encode())
        return
    sandbox.die_with_parent(False)
    write_frame(replies, json.dumps({"provider": provider}).encode())
    while (payload := read_frame(requests)) is not None:
        write_frame(replies, answer(run, payload))


if __name__ == "__main__":
    main()
