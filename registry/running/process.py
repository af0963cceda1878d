"""Models that run on this machine, each in a process of its own: a vendor's crash or hang does not take ours with it.

ONNX runs with ONNX Runtime, MindIR and checkpoints of the catalogue's networks with MindSpore's own Python; the rest is
for a device. A device's agent runs far more, confined and for long; this is only for measuring at publishing, and for
evaluating without a device.
"""

from __future__ import annotations

import io
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from registry.contracts.catalogue.manifest import Format, Network, Target, TensorSpec, Variant
from registry.contracts.tensors import RAW, Datatype
from registry.contracts.texts import without_call_stack
from registry.errors import RegistryError
from registry.installation import install_command
from registry.sandbox.ends import end_group, has_ended, kill_group

Array = NDArray[np.generic]
CHILD = Path(__file__).with_name("child.py")
MAX_FRAME_BYTES = (1 << 32) - 1
LAST_WORDS = 500
LOAD_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 120.0


class CannotRunError(RegistryError):
    """The model cannot be run on this machine at all; the message says why."""

    code = "cannot_run"


class ModelRunError(RegistryError):
    """The model runs here, but not on this request."""

    code = "run_failed"


class ClosedError(ModelRunError):
    """It was closed before; nothing runs any more."""

    code = "closed"


@dataclass(frozen=True)
class Order:
    """What to run, on what."""

    runtime: str
    """`onnxruntime` or `mindspore`."""
    interpreter: str
    """The Python that has the runtime."""
    device: str
    """In the runtime's words: `CPUExecutionProvider`, `CPU`."""
    file: Path | None
    """None: only runtime and device are tried."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    network: Network | None = None
    """What a checkpoint is filled into, of the catalogue."""


def require_device(order: Order) -> None:
    """Its runtime and its device are here; the file may be elsewhere still. Raises CannotRunError."""
    ModelProcess(replace(order, file=None)).close()


def _environment() -> dict[str, str]:
    """Ours without our own settings: a vendor's code needs no token."""
    return {key: value for key, value in os.environ.items() if not key.startswith("MODELFLEET_")}


class ModelProcess:
    """Started by construction, ended by `with`. One request at a time; every wait has a deadline."""

    def __init__(self, order: Order, load_timeout_s: float = LOAD_TIMEOUT_S, run_timeout_s: float = RUN_TIMEOUT_S):
        """Loads the model.

        Raises:
            CannotRunError: the runtime is not there, or cannot load it; nothing is left behind.
        """
        self._order = order
        self._run_timeout_s = run_timeout_s
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        command = [order.interpreter, "-I", str(CHILD)]
        document = {
            "runtime": order.runtime,
            "file": str(order.file.resolve()) if order.file else "",
            "device": order.device,
            "inputs": order.inputs,
            "outputs": order.outputs,
            "network": order.network.model_dump(mode="json") if order.network else None,
        }
        try:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._words, env=_environment(), start_new_session=True
            )
        except OSError as error:
            self._words.close()
            raise CannotRunError(f"{order.interpreter} cannot be started: {error.strerror}") from None
        try:
            said: dict[str, str] = json.loads(self._ask(json.dumps(document).encode(), load_timeout_s))
        except ModelRunError as error:
            self.close()
            raise CannotRunError(error.message) from None
        except BaseException:
            self.close()
            raise
        if "error" in said:
            self.close()
            raise CannotRunError(without_call_stack(said["error"]))
        self.backend = f"{order.runtime}/{said['provider']}"

    def __enter__(self) -> ModelProcess:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ended."""
        self.close()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; an input that has a default may be missing.

        Raises:
            ClosedError: after `close`.
            RunFailedError: it fails; after a timeout or a crash every further call does too.
        """
        if self._words.closed:
            raise ClosedError("the model is closed; load it again")
        request = io.BytesIO()
        given = {f"arr_{place}": feeds[name] for place, name in enumerate(self._order.inputs) if name in feeds}
        np.savez(request, **given)  # type: ignore[arg-type]
        reply = self._ask(request.getvalue(), self._run_timeout_s)
        if reply[:1] != b"\0":
            raise ModelRunError(without_call_stack(reply[1:].decode("utf-8", "replace")))
        try:
            with np.load(io.BytesIO(reply[1:]), allow_pickle=False) as archive:
                return {name: archive[f"arr_{index}"] for index, name in enumerate(self._order.outputs)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ModelRunError(f"the answer cannot be read: {error}") from None

    def close(self) -> None:
        """Ends the process and what it started, and waits for it; again is allowed."""
        kill_group(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was not sent is of no use any more
                    stream.close()
        self._process.wait()
        self._words.close()

    def _ask(self, payload: bytes, timeout_s: float) -> bytes:
        if len(payload) > MAX_FRAME_BYTES:
            raise ModelRunError(f"a request of {len(payload)} bytes is too large")
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it was opened as a pipe
        deadline = time.monotonic() + timeout_s
        try:
            stdin.write(struct.pack("<I", len(payload)) + payload)
            stdin.flush()
        except OSError:
            raise ModelRunError(self._why()) from None
        (length,) = struct.unpack("<I", self._read(4, deadline))
        return self._read(length, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - it was opened as a pipe
        handle = stdout.fileno()
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        parts: list[bytes] = []
        while count:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                kill_group(self._process)
                raise ModelRunError("it did not answer in time")
            part = os.read(handle, min(count, 1 << 20))
            if not part:
                raise ModelRunError(self._why())
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _why(self) -> str:
        """How the process ended."""
        if not has_ended(self._process, 2.0):
            return "its process hung up"
        status = end_group(self._process, 2.0)
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - LAST_WORDS))
        words = " ".join(self._words.read().decode("utf-8", "replace").split())
        return f"its process ended with status {status}: {words}" if words else f"its process ended with {status}"


MINDSPORE_VARIABLE = "MODELFLEET_MINDSPORE_PYTHON"
"""Names the Python in whose environment MindSpore is, where this one's has none: it wants an older NumPy than we do."""
PROVIDERS = {Target.CPU: "CPUExecutionProvider", Target.GPU: "CUDAExecutionProvider"}
DEVICES = {Target.CPU: "CPU", Target.GPU: "GPU", Target.ASCEND910: "Ascend"}
_UNRUNNABLE = RAW | {Datatype.BYTES}
_ELSEWHERE = {
    Format.MINDSPORE_CKPT: "the code that builds its network runs only on devices that trust its signer",
    Format.AIR: "AIR runs nowhere; it is there to be converted",
    Format.OM: "an OM runs on its Ascend chip only",
    Format.TENSORRT_PLAN: "a plan runs on its GPU only",
}


def order_for(
    file: Path,
    model_format: Format,
    target: Target,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    network: Network | None = None,
) -> Order | str:
    """How to run that file here; or why not, in words that can follow `not measured here: `."""
    if any(spec.datatype in _UNRUNNABLE for spec in (*inputs, *outputs)):
        return "tensors of BYTES, BF16 or 8-bit floats are run by devices only"
    names = tuple(spec.name for spec in inputs), tuple(spec.name for spec in outputs)
    if model_format is Format.ONNX:
        if find_spec("onnxruntime") is None:
            return f"ONNX Runtime is not installed here: {install_command('onnxruntime')}"
        if target not in PROVIDERS:
            return f"ONNX for {target} runs on such a device only"
        return Order("onnxruntime", sys.executable, PROVIDERS[target], file, *names)
    if model_format is Format.MINDIR or network is not None:
        interpreter = os.environ.get(MINDSPORE_VARIABLE) or (sys.executable if find_spec("mindspore") else "")
        if not interpreter:
            return f"{MINDSPORE_VARIABLE} names no Python that has MindSpore"
        if target not in DEVICES:
            return f"a {model_format} for {target} runs on such a device only"
        return Order("mindspore", interpreter, DEVICES[target], file, *names, network)
    return _ELSEWHERE[model_format]


class LocalVariants:
    """Starts a variant when it is asked for, at most once; what was started ends with the stack.

    Args:
        variants: In the order in which one that runs is looked for.
        locate: The model file of a variant; it may be fetched then. Asked only for what may run here.
        stack: Ends the processes.
        limits: Deadlines, as `ModelProcess` takes them.
    """

    def __init__(
        self, variants: Sequence[Variant], locate: Callable[[Variant], Path], stack: ExitStack, **limits: float
    ) -> None:
        self._variants = {variant.name: variant for variant in variants}
        self._locate, self._stack, self._limits = locate, stack, limits
        self._started: dict[str, ModelProcess | str] = {}

    def process(self, name: str) -> ModelProcess | str:
        """The running variant; or why it does not run here, in words that can follow `not measured here: `."""
        if name not in self._started:
            self._started[name] = self._start(self._variants[name])
        return self._started[name]

    def first(self) -> tuple[str, ModelProcess] | None:
        """The first that runs here; None: `reasons` has why none does."""
        for name in self._variants:
            process = self.process(name)
            if not isinstance(process, str):
                return name, process
        return None

    def reasons(self) -> tuple[str, ...]:
        """Of those that were asked for: `name: why it does not run here`."""
        return tuple(f"{name}: {why}" for name, why in self._started.items() if isinstance(why, str))

    def _start(self, variant: Variant) -> ModelProcess | str:
        sides = variant.inputs, variant.outputs
        order = order_for(Path(variant.entry), variant.format, variant.target, *sides, network=variant.network)
        if isinstance(order, str):
            return order
        try:
            return self._stack.enter_context(ModelProcess(replace(order, file=self._locate(variant)), **self._limits))
        except CannotRunError as error:
            return error.message
