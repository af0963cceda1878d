"""Decodes pictures, and finds boxes in what a detector gave, in child processes.

What makes one crash, hang or eat memory is refused, and the next job works.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from agent.errors import TransientError
from agent.pictures.child import ANSWER, OK, REQUEST
from registry.contracts.codes import InferenceCode
from registry.inference.packets import Buffer
from registry.pictures.bare import PictureError
from registry.pictures.detections import DetectionError, DetectionLimits, RawOutput, Reading
from registry.pictures.placement import Placement
from registry.pictures.steps import DecodedPicture, PictureSteps
from registry.sandbox import ends

TIMEOUT_S = 10.0
"""For one job; what needs longer is refused."""
MEMORY_BYTES = 1 << 30
"""Address space of a child. The libraries take about 300 MiB of it, the largest picture that is taken 500."""
MAX_TENSOR_BYTES = 256 << 20
"""An answer longer than that is no answer."""
_EXIT_WAIT_S = 2.0
_DETECTION_BYTES = 16 + 4 + 8

_log = logging.getLogger(__name__)


class PictureJob(NamedTuple):
    """What one process does."""

    what: str
    """`a picture of 7 bytes`, for messages."""
    refused: type[PictureError] | type[DetectionError]
    """What is raised when it cannot be done."""
    header: tuple[object, ...]
    """As JSON carries it: `agent.pictures.child`."""
    body: tuple[Buffer, ...]


class PictureProcesses:
    """As many children as threads ask at the same time, each started at its first job. Thread-safe."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self._closed = False

    def decode(self, steps: PictureSteps, picture: bytes) -> DecodedPicture:
        """The tensor, and the picture's size.

        Raises:
            PictureError: the picture is damaged, takes too long or too much memory, or ended two processes.
            TransientError: overloaded, no process can be started now.
        """
        what = f"a picture of {len(picture)} bytes"
        answer, size = self._do(PictureJob(what, PictureError, (steps,), (picture,)))
        return DecodedPicture(answer, size)

    def detect(
        self, reading: Reading, placement: Placement, limits: DetectionLimits, outputs: Mapping[str, RawOutput]
    ) -> tuple[Buffer, Buffer, Buffer]:
        """Boxes FP32 [n, 4], scores FP32 [n] and classes INT64 [n], as bytes.

        Raises:
            DetectionError: the outputs hold no detections, take too long or too much memory, or ended two processes.
            TransientError: as `decode`.
        """
        said = [(name, str(each.datatype), each.shape, len(each.data)) for name, each in outputs.items()]
        body = tuple(each.data for each in outputs.values())
        what = f"outputs of {sum(map(len, body))} bytes"
        answer, _ = self._do(PictureJob(what, DetectionError, (reading, placement, limits, said), body))
        count, rest = divmod(len(answer), _DETECTION_BYTES)
        if rest or count > limits.max_detections:
            raise DetectionError(f"{len(answer)} bytes are no detections")
        view = memoryview(answer)
        return view[: 16 * count], view[16 * count : 20 * count], view[20 * count :]

    def _do(self, job: PictureJob) -> tuple[bytes, tuple[int, int]]:
        """Raises what `job` is refused with, and TransientError."""
        try:
            return self._ask(self._take(), job)
        except OSError as error:  # somebody else may have ended it, as the system does where memory is short
            _log.warning("a process for pictures ended (%s); %s: once more in a new one", error, job.what)
        try:
            return self._ask(self._new(), job)
        except OSError as error:
            _log.warning("refused %s: it ended its process (%s)", job.what, error)
            raise job.refused(f"{job.what} ended the process that worked on it ({error})") from None

    def _ask(self, child: _Child, job: PictureJob) -> tuple[bytes, tuple[int, int]]:
        """As `_do`; raises OSError when the child ended."""
        try:
            status, answer, size = child.ask(job, time.monotonic() + self._timeout_s)
        except TimeoutError:
            child.kill()
            _log.warning("%s took longer than %g s: refused", job.what, self._timeout_s)
            raise job.refused(f"{job.what} takes longer than {self._timeout_s:g} s") from None
        except OSError:
            raise OSError(child.kill()) from None
        except BaseException:
            child.kill()
            raise
        self._give_back(child)
        if status != OK:
            raise job.refused(answer.decode("utf-8", "replace"))
        return answer, size

    def close(self) -> None:
        """Ends the children that are idle; the others end with their picture."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.kill()

    def _take(self) -> _Child:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._new()

    def _new(self) -> _Child:
        try:
            return _Child(self._memory_bytes)
        except OSError as error:
            raise TransientError(
                InferenceCode.OVERLOADED, f"no process can be started for pictures: {error.strerror}"
            ) from None

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(child)
                return
        child.kill()


class _Child:
    def __init__(self, memory_bytes: int) -> None:
        """Raises OSError."""
        self._socket, theirs = socket.socketpair()
        lean = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-m", "agent.pictures.child", str(memory_bytes)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**lean, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"},
                start_new_session=True,
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def ask(self, job: PictureJob, deadline: float) -> tuple[int, bytes, tuple[int, int]]:
        """Raises TimeoutError, and OSError when the child is gone."""
        header = json.dumps(job.header).encode()
        for part in (REQUEST.pack(len(header), sum(map(len, job.body))) + header, *job.body):
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            self._socket.sendall(part)
        status, size, width, height = ANSWER.unpack(self._receive(ANSWER.size, deadline))
        if size > MAX_TENSOR_BYTES:
            raise OSError("the answer is too long")
        return status, self._receive(size, deadline), (width, height)

    def _receive(self, size: int, deadline: float) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            count = self._socket.recv_into(view)
            if not count:
                raise OSError("it hung up")
            view = view[count:]
        return bytes(data)

    def kill(self) -> str:
        """Ends it, with whatever it holds and started; how it had ended."""
        self._socket.close()
        ends.has_ended(self._process, 0.05)
        code = ends.end_group(self._process, _EXIT_WAIT_S)
        return "still running" if code is None else signal.Signals(-code).name if code < 0 else f"status {code}"
