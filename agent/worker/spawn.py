"""Starts a worker process and speaks with it over its control socket. Agent side.

The child gets no environment of the agent's but what its vendor needs, no descriptor but the control socket and a pipe
for its last words, a session of its own, and a working directory that is already deleted: empty, and nothing can be
made in it. Whatever it says is bounded and checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.backends.catalog import CATALOG
from agent.errors import PermanentError, TransientError
from agent.worker import main as worker_main
from registry.contracts.codes import DeploymentCode
from registry.sandbox import ends

LAST_WORDS = 4096
"""Bytes of stderr that an exit reason is made from."""
_EXIT_WAIT_S = 2.0
"""A killed process is gone by then, unless the kernel itself hangs."""


class TrialTimeoutError(Exception):
    """A trial run of the loaded model did not end; so did its process. The message says how long it took."""


class WorkerProcess:
    """One child process. `kill` may be called from any thread; the rest from one at a time.

    Its stderr goes to a pipe of 64 KiB that is read when it ends: what a talkative child says beyond that is lost.
    """

    def __init__(self, interpreter: str, backend: str) -> None:
        """Raises PermanentError(backend_unavailable) or TransientError(worker_crashed)."""
        self.control, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stderr, stderr = os.pipe()
        os.set_blocking(stderr, False)  # a worker that nobody listens to must not stop on its own chatter
        os.set_blocking(self._stderr, False)
        self._words = b""
        self._lock = threading.Lock()
        try:
            self._popen = _start(interpreter, backend, child, stderr)
        except BaseException:
            self.control.close()
            os.close(self._stderr)
            raise
        finally:
            child.close()
            os.close(stderr)

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._popen.pid

    def ask(
        self, name: str, request: dict[str, Any], answer: str, *, deadline: float, descriptors: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Sends one request and waits for its answer until `deadline` (time.monotonic).

        Raises PermanentError or TransientError with the code that the worker says, load_timeout or worker_crashed.
        """
        said = json.dumps({"protocol": worker_main.PROTOCOL, name: request}, ensure_ascii=False).encode()
        try:
            *parts, last = worker_main.packets(said)
            for part in parts:
                self._limit(deadline)
                self.control.sendall(part)
            self._limit(deadline)
            socket.send_fds(self.control, [last], list(descriptors))
            answered = self._receive(deadline)
        except TimeoutError:
            raise TransientError(
                DeploymentCode.LOAD_TIMEOUT,
                "the model was not loaded and warmed up in time: it loops, or the host is too slow for load_timeout",
            ) from None
        except OSError as error:
            raise self._crash(str(error)) from None
        if answered is None:
            raise self._crash("it closed its control socket")
        return self._checked(answered, answer)

    def _limit(self, deadline: float) -> None:
        self.control.settimeout(max(deadline - time.monotonic(), 0.001))

    def _receive(self, deadline: float) -> bytes | None:
        """The worker's next message; None: it hung up, or sent more than a message may have. Raises OSError."""
        message = b""
        while len(message) <= worker_main.MAX_CONVERSATION:
            self._limit(deadline)
            packet, _, flags, _ = self.control.recvmsg(worker_main.MAX_PACKET)
            if not packet or flags & socket.MSG_TRUNC:
                return None
            if not packet.startswith(worker_main.PART):
                return message + packet
            message += packet[1:]
        return None

    def _checked(self, packet: bytes, answer: str) -> dict[str, Any]:
        try:
            document = json.loads(packet)
            protocol, content = document.get("protocol"), document.get(answer)
            error = document.get("error")
        except (ValueError, AttributeError, RecursionError):
            raise self._crash("it did not answer in the worker's protocol") from None
        if protocol != worker_main.PROTOCOL:
            reason = f"the worker speaks protocol {printable(str(protocol), 20)}, this agent {worker_main.PROTOCOL}"
            raise PermanentError(
                DeploymentCode.BACKEND_UNAVAILABLE,
                f"{reason}: the package was changed while the agent ran; restart the agent",
            )
        if isinstance(content, dict):
            return content
        if not isinstance(error, dict):
            raise self._crash("it did not answer in the worker's protocol")
        if error.get("code") == worker_main.TRIAL_TIMEOUT:
            raise TrialTimeoutError(printable(str(error.get("message", "")), 200))
        known = (
            *(DeploymentCode.CHECKPOINT_MISMATCH, DeploymentCode.BACKEND_UNAVAILABLE),
            *(DeploymentCode.ENTRY_POINT_SIGNATURE, DeploymentCode.OUT_OF_MEMORY),
        )
        code = next((code for code in known if code == error.get("code")), DeploymentCode.LOAD_FAILED)
        raise PermanentError(code, printable(str(error.get("message", "")), 1000))

    def _crash(self, seen: str) -> TransientError:
        self.end(_EXIT_WAIT_S)
        return TransientError(
            DeploymentCode.WORKER_CRASHED, f"the worker ended while loading ({seen}): {self.reason()}"
        )

    def kill(self) -> None:
        """SIGKILL to the child and whatever it started; does not wait."""
        with self._lock:
            ends.kill_group(self._popen)

    def end(self, timeout_s: float) -> None:
        """Hangs up, gives the child `timeout_s` to go by itself, then kills it and what it started. May come twice."""
        self.control.close()
        ends.has_ended(self._popen, timeout_s)
        self.kill()
        self._reap(_EXIT_WAIT_S)
        self.listen()
        with self._lock:
            if self._stderr >= 0:
                os.close(self._stderr)
                self._stderr = -1

    def _reap(self, within_s: float) -> None:
        """With the lock, so that nobody kills by its number what has that number next."""
        if ends.has_ended(self._popen, within_s):
            with self._lock:
                ends.end_group(self._popen, _EXIT_WAIT_S)

    def listen(self) -> None:
        """Takes what the child wrote to stderr since the last time and keeps the end of it."""
        with self._lock, contextlib.suppress(BlockingIOError):
            while self._stderr >= 0 and (data := os.read(self._stderr, 65536)):
                self._words = (self._words + data)[-LAST_WORDS:]

    def reason(self) -> str:
        """How the child ended, with its last words. Printable, at most LAST_WORDS characters and a line."""
        self._reap(0.5)
        self.listen()
        words = printable(self._words.decode("utf-8", "replace"), LAST_WORDS)
        status = self._popen.returncode
        if status is None:
            ended = "still running"
        elif status < 0:
            ended = f"killed by {_signal_name(-status)}"
        else:
            ended = f"exit status {status}"
        return f"{ended}: {words}" if words else ended


def printable(text: str, limit: int) -> str:
    """Text from a process that is not trusted, fit for a log line and a report: its end, in one line."""
    return " ".join("".join(char if char.isprintable() else " " for char in text[-limit:]).split())


def _start(interpreter: str, backend: str, child: socket.socket, stderr: int) -> subprocess.Popen[bytes]:
    script = str(Path(worker_main.__file__).resolve())
    try:
        directory = tempfile.mkdtemp(prefix="modelfleet-worker-")
    except OSError as error:
        raise TransientError(DeploymentCode.DISK_ERROR, f"no working directory for a worker: {error}") from None
    try:
        return subprocess.Popen(
            [interpreter, "-I", "-B", "-X", "faulthandler", script],
            stdin=child.fileno(),
            stdout=stderr,
            stderr=stderr,
            cwd=directory,
            env=_environment(backend),
            start_new_session=True,
        )
    except OSError as error:
        raise PermanentError(
            DeploymentCode.BACKEND_UNAVAILABLE,
            f"the interpreter {interpreter} of backend {backend} does not start: {error.strerror}; check its path",
        ) from None
    finally:
        os.rmdir(directory)


def _environment(backend: str) -> dict[str, str]:
    entry = CATALOG.get(backend)
    given = {name: os.environ[name] for name in (entry.environment if entry else ()) if name in os.environ}
    # One thread per library and few heaps: sessions bring the threads they need, the rest only costs memory.
    lean = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    fixed = {**(entry.settings if entry else {}), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    return {**given, **lean, **fixed}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
