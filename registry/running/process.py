"""One model that runs on this machine, in a process of its own: a vendor's crash or hang does not take ours with it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import struct
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from registry.contracts.texts import without_call_stack
from registry.errors import RegistryError

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
        try:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._words, env=_environment(), start_new_session=True
            )
        except OSError as error:
            self._words.close()
            raise CannotRunError(f"{order.interpreter} cannot be started: {error.strerror}") from None
        try:
            said: dict[str, str] = json.loads(self._ask(json.dumps(self._document()).encode(), load_timeout_s))
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
        """Ends the process and waits for it; again is allowed."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not sent is of no use any more
                    stream.close()
        self._process.wait()
        self._words.close()

    def _document(self) -> dict[str, Any]:
        order = self._order
        return {
            "runtime": order.runtime,
            "file": str(order.file.resolve()) if order.file else "",
            "device": order.device,
            "inputs": order.inputs,
            "outputs": order.outputs,
        }

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
                self._process.kill()
                raise ModelRunError("it did not answer in time")
            part = os.read(handle, min(count, 1 << 20))
            if not part:
                raise ModelRunError(self._why())
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _why(self) -> str:
        """How the process ended."""
        try:
            status = self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            return "its process hung up"
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - LAST_WORDS))
        words = " ".join(self._words.read().decode("utf-8", "replace").split())
        return f"its process ended with status {status}: {words}" if words else f"its process ended with {status}"
