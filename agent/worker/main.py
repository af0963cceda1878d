"""The worker process: owns one loaded model, runs what the doorbells name, ends when the agent does.

Started by file path (`python -I main.py`, spawn.py does it) under an interpreter that may be a vendor's: standard
library, NumPy and the vendor's package only, Python 3.9 syntax. Standard input is the control socket (AF_UNIX,
SOCK_SEQPACKET): one JSON object per packet, {"protocol": PROTOCOL, what: content}. Both sides refuse another number: a
package that was upgraded under a running agent starts workers of the new one.

    agent -> {"probe": {"backend"}}                                  -> {"probed": BackendProbe}
    agent -> {"load": {"backend", ...}} + file of samples, if any     -> {"loaded": {...}} or {"error": {code, message}}
    agent -> {"serve": {"layout", "max_batch", ...}} + memory, lanes -> {"ready": {...}}
    agent -> {"alone": {}}: from now on one request at a time        -> {"ready": {...}}

Then each lane (a stream socket) carries u32 little-endian slot ids: "take this", and back "this is done". When the
agent hangs up or dies, what runs is finished and the session closed, CLOSE_S at most: a vendor's device must be given
back, or the next process may not get it. What is left then, the kernel ends.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import stat
import sys
import threading
import types
from time import perf_counter
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # Only these packages become importable, not what lies beside them: that is another interpreter's.
    for name in ("agent", "registry"):
        package = types.ModuleType(name)
        package.__path__ = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", name)]
        sys.modules[name] = package

from agent.backends.base import BackendError, LoadOptions, VerifiedEntryPoint, is_memory_fault, optional_inputs
from agent.worker.channel import MAX_NAME, MAX_TENSORS, layout_from_json
from registry import sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.backends.base import BackendSession
    from agent.worker.runner import Runner

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROTOCOL = 5
"""Raised with every change of what is said here, of the memory's layout and of arenas (channel.py)."""
TRIAL_TIMEOUT = "trial_timeout"
"""The code of an error that only the agent's side of this protocol sees: the model is then served untried."""
MAX_PACKET = 128 << 10
"""Of one packet: a socket takes 200 KiB. A longer message comes in several, each but the last with PART before it."""
MAX_CONVERSATION = 4 << 20
"""Of one message: MAX_TENSORS inputs and outputs with their places take 400 KiB."""
PART = b"+"
MAX_LANES = 64
MAX_FILES = 256
"""Files and folders of an artifact."""
CLOSE_S = 5.0
"""For the last runs, closing the session and what the vendor does at the end of a process."""
_MAX_MESSAGE = 1000
_RELOAD_BELOW_S = 0.1
"""Measuring leaves the buffers of its largest batches behind, 10 to 20 MB: a model that loads fast is loaded again."""


def main() -> None:
    """Serves one control socket until it closes."""
    status = [1]
    # Registered first, so it is called last, after what vendors registered: destructors of their libraries may crash.
    atexit.register(lambda: os._exit(status[0]))
    sandbox.die_with_parent(True)
    _converse(socket.socket(fileno=0))
    status[0] = 0


def _converse(control: socket.socket) -> None:
    session: BackendSession | None = None
    try:
        (name, request), descriptors = _receive(control)
        if name == "probe":
            _send(control, "probed", _probe(request))
            return
        session, facts = _load(control, request, descriptors)
        _send(control, "loaded", facts)
        (name, request), descriptors = _receive(control)
    except (EOFError, ConnectionError):  # the agent is gone, or does not want this model any more
        if session is not None:
            _end(session, [])
    except BackendError as error:
        _send(control, "error", {"code": error.code, "message": error.message[:_MAX_MESSAGE]})
    except Exception as error:
        if not is_memory_fault(error):
            raise
        _send(
            control,
            "error",
            {
                "code": "out_of_memory",
                "message": "the model needs more memory than the worker may have: see worker.memory_bytes",
            },
        )
    else:
        _serve(control, session, request, descriptors)


def _receive(control: socket.socket) -> tuple[tuple[str, dict[str, Any]], list[int]]:
    data, part = b"", True
    descriptors: list[int] = []
    while part:
        packet, new, _, _ = socket.recv_fds(control, MAX_PACKET, MAX_LANES + 1)
        if not packet:
            raise EOFError
        part = packet.startswith(PART)
        data, descriptors = data + packet[part:], descriptors + new
    said = json.loads(data)
    protocol = said.pop("protocol", None)
    if protocol != PROTOCOL:
        reason = f"this worker speaks protocol {PROTOCOL}, its agent {protocol}"
        raise BackendError("backend_unavailable", f"{reason}: the package was changed; restart the agent")
    ((name, request),) = said.items()
    return (name, request), descriptors


def _send(control: socket.socket, name: str, answer: dict[str, Any]) -> None:
    for packet in packets(json.dumps({"protocol": PROTOCOL, name: answer}, ensure_ascii=False).encode()):
        control.sendall(packet)


def packets(message: bytes) -> list[bytes]:
    """A message as its packets, the last without PART before it."""
    size = MAX_PACKET - 1
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return [PART + piece for piece in pieces[:-1]] + pieces[-1:]


def _probe(request: dict[str, Any]) -> dict[str, Any]:
    from agent.backends.catalog import open_backend  # noqa: PLC0415 - as in _load

    return open_backend(request["backend"]).probe()._asdict()


def _load(
    control: socket.socket, request: dict[str, Any], descriptors: list[int]
) -> tuple[BackendSession, dict[str, Any]]:
    """Limits first, then the vendor's code, then the model's bytes."""
    options = _options(request["options"])
    on_host = options.target == "cpu"
    sandbox.limit(request["memory_bytes"] if on_host else None, writes=bool(options.engines) and not on_host)
    confined = (
        sandbox.confine([request["directory"], _PACKAGE])
        if on_host
        else f"no Landlock: the accelerator's driver needs its devices, {sandbox.give_up_calls(children=True)}"
    )
    check_artifact(request["directory"])
    # Only now: Landlock holds for the threads that start after it, and NumPy starts some.
    from agent.backends.catalog import open_backend  # noqa: PLC0415

    backend = open_backend(request["backend"])
    from agent.worker.measure import (  # noqa: PLC0415
        Measurement,
        measure,
        read_samples,
        unmeasured,
        warm_again,
        warm_up,
    )

    begin = perf_counter()
    session = backend.load(request["directory"], request["entry"], options)
    load_s = perf_counter() - begin
    _check_signature(session)
    given = read_samples(descriptors[0], request["samples"]) if descriptors else []
    how: dict[str, Any] = {"cores": options.cores, "cap": request["max_batch"], "profile": options.profile}
    if request["untried"]:
        measured = unmeasured(session, **how, why=request["untried"])
    else:
        with _time_limit(control, request["trial_s"]):
            if request["known"] is not None:
                measured = Measurement(*request["known"])
                warm_again(session, given, measured)
            else:
                measured = measure(session, **how, given=given)
                if load_s < _RELOAD_BELOW_S and not session.batch_sizes:
                    session.close()
                    session = backend.load(request["directory"], request["entry"], options)
                    warm_up(session, given)
    trim_memory()
    return session, {
        "inputs": session.inputs,
        # Those that the manifest has, too: a file may list all of its weights as inputs with a default.
        "optional_inputs": [each for each in optional_inputs(session) if each.name in request["optional_names"]],
        "outputs": session.outputs,
        "provider": session.provider,
        "confined": confined,
        "measured": measured,
    }


def _options(said: dict[str, Any]) -> LoadOptions:
    """As the agent has them: JSON knows lists only."""
    options = LoadOptions(**{name: _tuples(value) for name, value in said.items()})
    return (
        options
        if options.entry_point is None
        else options._replace(entry_point=VerifiedEntryPoint(*options.entry_point))
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def check_artifact(directory: str) -> None:
    """Refuses a directory that reaches outside itself: only folders and plain files with a single name.

    A hard link is how a hostile artifact would read a secret through "external data" (a symbolic link is refused by
    ONNX Runtime itself, and here). Raises BackendError(load_failed).
    """
    count = 0
    for folder, folders, files in os.walk(directory, onerror=_unreadable):
        for name in (*folders, *files):
            count += 1
            path = os.path.join(folder, name)
            status = os.lstat(path)
            shown = os.path.relpath(path, directory)
            if count > MAX_FILES:
                raise BackendError("load_failed", f"the artifact has more than {MAX_FILES} files")
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode):
                raise BackendError("load_failed", f"{shown} is not a plain file: an artifact holds nothing else")
            if status.st_nlink != 1:
                raise BackendError("load_failed", f"{shown} is a hard link: it may be a file outside the artifact")


def _unreadable(error: OSError) -> None:
    raise BackendError("load_failed", f"the artifact cannot be read: {error.strerror}") from None


def trim_memory() -> None:
    """Gives back what loading and measuring needed for a while. glibc only; elsewhere there is nothing to call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def _time_limit(control: socket.socket, seconds: float) -> Iterator[None]:
    """A trial run that does not end ends the process: nothing else stops a vendor's call."""

    def over() -> None:
        _send(control, "error", {"code": TRIAL_TIMEOUT, "message": f"a trial run took over {seconds:g} s"})
        os._exit(0)

    timer = threading.Timer(seconds, over)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_signature(session: BackendSession) -> None:
    tensors = (*session.inputs, *session.outputs)
    if max(len(session.inputs), len(session.outputs)) > MAX_TENSORS:
        raise BackendError("load_failed", f"the model has more than {MAX_TENSORS} inputs or outputs")
    for tensor in tensors:
        if not 0 < len(tensor.name) <= MAX_NAME:
            raise BackendError("load_failed", f"a tensor's name is empty or longer than {MAX_NAME} characters")


def _serve(control: socket.socket, session: BackendSession, request: dict[str, Any], descriptors: list[int]) -> None:
    from agent.worker.runner import Runner  # noqa: PLC0415 - as in _load

    layout = layout_from_json(request["layout"])
    memory = memoryview(mmap.mmap(descriptors[0], layout.total))
    os.close(descriptors[0])
    runner = Runner(session, layout, memory, request["max_batch"], request["any_rank"])
    lanes = [
        threading.Thread(target=_run_lane, args=(socket.socket(fileno=descriptor), runner, control), daemon=True)
        for descriptor in descriptors[1:]
    ]
    for lane in lanes:
        lane.start()
    sandbox.die_with_parent(False)
    _send(control, "ready", {})
    with contextlib.suppress(EOFError, ConnectionError, BackendError):  # until the agent closes its end, or dies
        while _receive(control)[0][0] == "alone":
            runner.run_alone()
            _send(control, "ready", {})
    _end(session, lanes)


def _end(session: BackendSession, lanes: list[threading.Thread]) -> None:
    """Gives the model back once nothing runs. Returning from main calls what vendors registered for the end."""
    # SIGALRM's default action ends the process wherever it hangs, in a vendor's call as well.
    signal.setitimer(signal.ITIMER_REAL, CLOSE_S)
    for lane in lanes:
        lane.join()
    session.close()


def _run_lane(lane: socket.socket, runner: Runner, control: socket.socket) -> None:
    """Runs whatever has queued by now, never waits for more. Ends the process when the agent hangs up."""
    try:
        pending: list[int] = []
        while True:
            pending += _queued(lane, wait=not pending)
            count = runner.take(pending)
            group = pending[:count]
            del pending[:count]
            runner.run(group)
            lane.sendall(b"".join(slot.to_bytes(4, "little") for slot in group))
    except (EOFError, ConnectionError):
        with contextlib.suppress(OSError):  # the agent may have closed its end already
            control.shutdown(socket.SHUT_RDWR)
    except BaseException:  # noqa: BLE001 - a lane that cannot go on must not leave a worker that looks alive
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def _queued(lane: socket.socket, *, wait: bool) -> memoryview:
    """The slot ids that wait in the socket, as u32."""
    try:
        data = lane.recv(1 << 16, 0 if wait else socket.MSG_DONTWAIT)
    except BlockingIOError:
        return memoryview(b"")
    if not data:
        raise EOFError
    if len(data) % 4:
        data += lane.recv(4 - len(data) % 4, socket.MSG_WAITALL)
    return memoryview(data).cast("I")


if __name__ == "__main__":
    main()
