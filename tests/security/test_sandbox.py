"""A model that has taken over its process: it reaches no network, no other process, and nothing of it lives on."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agent.conversion import tool
from agent.conversion.children import guard
from agent.errors import AgentError
from agent.worker.handle import start_worker
from agent.worker.spec import WorkerSpec
from registry.running.process import CannotRunError, ModelProcess, Order
from registry.sandbox import ends
from tests.support.models import onnx_models

ATTACK = """
import os, resource, socket, sys, time

PARENT, PORT, MARK = {parent}, {port}, "{mark}"

def prlimit():
    resource.prlimit(PARENT, resource.RLIMIT_NOFILE, (8, 8))

def kill():
    os.kill(PARENT, 0)

def affinity():
    os.sched_setaffinity(PARENT, {{0}})

def udp():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"out", ("127.0.0.1", PORT))

def raw():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)

def leave():
    if os.fork() == 0:
        try:
            os.setsid()
        except OSError:
            os.write(2, b"setsid was refused")
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", MARK])
        os._exit(0)

def attack(acts):
    done = []
    for act in acts:
        try:
            act()
            done.append(act.__name__)
        except OSError:
            pass
    return " ".join(["did:", *done, "."])
"""
ALONE = "(prlimit, kill, affinity, udp, raw, leave)"
ACTS = "(prlimit, udp, raw)"
HOSTILE_RUNTIME = """
__version__ = "1.99.0"
def get_available_providers(): return ["CPUExecutionProvider"]
def set_default_logger_severity(level): pass
class SessionOptions:
    def __setattr__(self, name, value): pass
    def __getattr__(self, name): return lambda *args: None
def InferenceSession(*args, **kwargs): raise RuntimeError(attack({acts}))
"""


class Listener:
    """Counts what comes over UDP."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def heard(self) -> int:
        """So many datagrams."""
        count = 0
        try:
            while self._socket.recv(100):
                count += 1
        except BlockingIOError:
            return count
        return count

    def close(self) -> None:
        """No more."""
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _the_parent_keeps_its_limits() -> Iterator[None]:
    before = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)}
    yield
    assert {kind: resource.getrlimit(kind) for kind in before} == before


def require_seccomp() -> None:
    """Skips where this kernel refuses it."""
    ask = "from registry import sandbox; sandbox.limit(None); print(sandbox.give_up_calls(children=False))"
    said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    if said != "seccomp":
        pytest.skip(said)


def marked(mark: str) -> list[int]:
    """Processes whose command line has the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def hostile_interpreter(folder: Path, listener: Listener, mark: str) -> str:
    """A Python whose ONNX Runtime does what a model does that has taken it over."""
    attack = ATTACK.format(parent=os.getpid(), port=listener.port, mark=mark)
    (folder / "onnxruntime.py").write_text(attack + HOSTILE_RUNTIME.replace("{acts}", ALONE))
    start = f"import sys, runpy; sys.path.insert(0, {str(folder)!r}); sys.argv = sys.argv[1:]; "
    (folder / "start.py").write_text(start + "runpy.run_path(sys.argv[0], run_name='__main__')")
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nfor script; do :; done\nexec {sys.executable} -I {folder}/start.py "$script"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def test_a_worker_that_a_model_took_over_reaches_nothing(tmp_path: Path, listener: Listener) -> None:
    require_seccomp()
    mark = "left-by-worker"
    artifact = onnx_models.write(tmp_path / "artifact", onnx_models.linear())
    spec = WorkerSpec("hostile", "onnxruntime", artifact, "model.onnx", slots=4)
    with pytest.raises(AgentError) as caught:
        start_worker(replace(spec, interpreter=hostile_interpreter(tmp_path, listener, mark)))
    assert "did: ." in caught.value.message
    assert listener.heard() == 0
    assert marked(mark) == []


def test_a_model_that_a_publisher_tries_reaches_nothing(tmp_path: Path, listener: Listener) -> None:
    require_seccomp()
    mark = "left-by-golden-run"
    (tmp_path / "model.onnx").write_bytes(onnx_models.linear())
    interpreter = hostile_interpreter(tmp_path, listener, mark)
    order = Order("onnxruntime", interpreter, "CPUExecutionProvider", tmp_path / "model.onnx", ("x",), ("y",))
    with pytest.raises(CannotRunError) as caught, ModelProcess(order):
        pass
    assert "did: ." in caught.value.message
    assert listener.heard() == 0
    assert marked(mark) == []


def converted(folder: Path, script: str, timeout_s: float = 60.0) -> str:
    """What a hostile toolchain printed."""
    (folder / "work").mkdir()
    command = [sys.executable, "-c", script]
    return tool.run(command, folder=folder / "work", timeout_s=timeout_s, cancel=threading.Event()).output


def test_a_toolchain_that_a_model_took_over_reaches_no_network_and_no_limits(
    tmp_path: Path, listener: Listener
) -> None:
    require_seccomp()
    attack = ATTACK.format(parent=os.getpid(), port=listener.port, mark="none")
    assert "did: ." in converted(tmp_path, f"{attack}\nprint(attack({ACTS}))")
    assert listener.heard() == 0


def test_without_a_sandbox_the_same_attack_gets_out(tmp_path: Path, listener: Listener) -> None:
    """So that the tests above can fail."""
    attack = ATTACK.format(parent=os.getpid(), port=listener.port, mark="none")
    command = [sys.executable, "-c", f"{attack}\nprint(attack((kill, udp, raw)))"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "did: kill udp raw .\n"
    assert listener.heard() == 1


def test_what_a_toolchain_leaves_behind_ends_with_it(tmp_path: Path, listener: Listener) -> None:
    mark = "left-by-toolchain"
    attack = ATTACK.format(parent=os.getpid(), port=listener.port, mark=mark)
    converted(tmp_path, f"{attack}\nleave(); time.sleep(0.5)")
    until(lambda: not marked(mark))


UNCONFINED = """
import os, runpy, sys, types
sys.path.insert(0, {root!r})
from registry import sandbox
sandbox.confine = lambda *args, **options: "no Landlock, no seccomp"
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("how", ["ends", "is given up"])
def test_without_a_filter_the_guard_finds_who_left_its_group(tmp_path: Path, listener: Listener, how: str) -> None:
    """As on a kernel that has neither Landlock nor seccomp."""
    mark = f"left-by-guard-{how.split(maxsplit=1)[0]}"
    (tmp_path / "start.py").write_text(UNCONFINED.format(root=str(Path(guard.__file__).parents[3])))
    attack = ATTACK.format(parent=os.getpid(), port=listener.port, mark=mark)
    lasts = 0.5 if how == "ends" else 600
    script = f"{attack}\nleave(); print('ready', flush=True); time.sleep({lasts})"
    command = [sys.executable, str(tmp_path / "start.py"), str(guard.__file__), sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path, start_new_session=True) as process:
        assert process.stdin is not None
        until(lambda: marked(mark) or process.poll() is not None)
        if how != "ends":
            process.stdin.close()
        assert ends.has_ended(process, 60)
        ends.end_group(process, 5)
    assert marked(mark) == []


def test_who_has_ended_is_followed_by_what_it_started() -> None:
    """Its number names its group as long as it is not reaped, and nothing afterwards."""
    script = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', 'orphan'])"
    )
    with ExitStack() as stack:
        process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
        stack.callback(process.wait)
        assert ends.has_ended(process, 60)
        until(lambda: marked("orphan"))
        assert ends.end_group(process, 5) == 0
        until(lambda: not marked("orphan"))
        ends.kill_group(process)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, whom the kernel holds to the limit")
def test_a_process_starts_a_bounded_number_of_threads() -> None:
    script = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from registry import sandbox
sandbox.MAX_TASKS = 20
os.setgroups([]); os.setgid(54321); os.setuid(54321)
sandbox.limit(None)
stop, count = threading.Event(), 0
try:
    for count in range(100):
        threading.Thread(target=stop.wait, daemon=True).start()
except RuntimeError:
    print(count, flush=True)
stop.set()
"""
    root = str(Path(guard.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", script, root], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    assert 10 <= int(done.stdout) <= 20
