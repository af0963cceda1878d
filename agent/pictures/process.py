"""Decodes pictures in child processes: one that crashes, hangs or eats memory is refused, and the next one works."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time

from agent.errors import TransientError
from agent.pictures.child import ANSWER, OK, REQUEST
from registry.contracts.codes import InferenceCode
from registry.pictures.bare import PictureError
from registry.pictures.steps import PictureSteps

TIMEOUT_S = 10.0
"""For one picture; a picture that needs longer is refused."""
MEMORY_BYTES = 1 << 30
"""Address space of a child. The libraries take about 300 MiB of it, the largest picture that is taken 500."""
MAX_TENSOR_BYTES = 256 << 20
"""An answer longer than that is no answer."""
_EXIT_WAIT_S = 2.0

_log = logging.getLogger(__name__)


class DecoderProcesses:
    """As many children as threads decode at the same time, each started at its first picture. Thread-safe."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self._closed = False

    def decode(self, steps: PictureSteps, picture: bytes) -> bytes:
        """The bytes of the tensor.

        Raises:
            PictureError: the picture is damaged, takes too long or too much memory, or ended two processes.
            TransientError: overloaded, no process can be started now.
        """
        try:
            return self._decode(self._take(), steps, picture)
        except OSError as error:  # somebody else may have ended it, as the system does where memory is short
            _log.warning(
                "a decoder of pictures ended (%s); its picture of %d bytes goes to a new one", error, len(picture)
            )
        try:
            return self._decode(self._new(), steps, picture)
        except OSError as error:
            _log.warning("refused a picture of %d bytes: it ended its decoder (%s)", len(picture), error)
            raise PictureError(f"the picture ended the process that decoded it ({error})") from None

    def _decode(self, child: _Child, steps: PictureSteps, picture: bytes) -> bytes:
        """As `decode`; raises OSError when the child ended."""
        try:
            status, answer = child.ask(steps, picture, time.monotonic() + self._timeout_s)
        except TimeoutError:
            child.kill()
            _log.warning(
                "a picture of %d bytes took longer than %g s to decode: refused", len(picture), self._timeout_s
            )
            raise PictureError(f"the picture takes longer than {self._timeout_s:g} s to decode") from None
        except OSError:
            raise OSError(child.kill()) from None
        except BaseException:
            child.kill()
            raise
        self._give_back(child)
        if status != OK:
            raise PictureError(answer.decode("utf-8", "replace"))
        return answer

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
                InferenceCode.OVERLOADED, f"no process can be started to decode pictures: {error.strerror}"
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

    def ask(self, steps: PictureSteps, picture: bytes, deadline: float) -> tuple[int, bytes]:
        """Raises TimeoutError, and OSError when the child is gone."""
        header = json.dumps(steps).encode()
        for part in (REQUEST.pack(len(header), len(picture)) + header, picture):
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            self._socket.sendall(part)
        status, size = ANSWER.unpack(self._receive(ANSWER.size, deadline))
        if size > MAX_TENSOR_BYTES:
            raise OSError("the answer is too long")
        return status, self._receive(size, deadline)

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
        """Ends it, with whatever it holds; how it had ended."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.05)
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_WAIT_S)
        code = self._process.returncode
        return "still running" if code is None else signal.Signals(-code).name if code < 0 else f"status {code}"
