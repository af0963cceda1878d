"""Real worker processes: load, run, split batches, die, go."""

from __future__ import annotations

import ast
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import agent
from agent.backends.base import NUMPY_DTYPES
from agent.backends.catalog import CATALOG
from agent.errors import AgentError
from agent.worker.channel import OTHER_FORM, ArenaTensor, join_bytes, split_bytes
from agent.worker.handle import probe_backend, start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import Worker, WorkerSpec
from registry import sandbox
from registry.contracts.catalogue.manifest import TensorSpec
from tests.support.clients import worker_client
from tests.support.models import onnx_models

Start = Callable[..., Worker]
MEASURED = Measurement(run_us=10.0, max_batch=4, lanes=1, fixed=True)
FOREVER = struct.pack("<q", 2**63 - 1)
AGENT = """
import sys
from agent.worker.handle import start_worker
from agent.worker.spec import WorkerSpec
worker = start_worker(WorkerSpec("m", "onnxruntime", sys.argv[1], "model.onnx"))
if sys.argv[2] == "busy":
    worker.layout.slot_view(worker.memory, worker.layout.inputs[0], 0)[:] = bytes.fromhex("ffffffffffffff7f")
    worker.lanes[0].send(bytes(4))
print(worker.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers on a model's bytes; closes them all."""
    workers: list[Worker] = []

    def _start(content: bytes, **options: object) -> Worker:
        directory = onnx_models.write(tmp_path / f"artifact{len(workers)}", content)
        spec = replace(
            WorkerSpec("test", "onnxruntime", directory, "model.onnx", slots=16, known=MEASURED),
            **options,  # type: ignore[arg-type]
        )
        workers.append(start_worker(spec))
        return workers[-1]

    yield _start
    for worker in workers:
        worker.close(5.0)


@pytest.mark.parametrize("execution", ["process", "inline"])
def test_fixed_slots_and_arenas_run(start: Start, execution: str) -> None:
    worker = start(onnx_models.linear(), execution=execution)
    assert (worker.execution, len(worker.lanes)) == (execution, 1 if execution == "process" else 0)
    assert worker.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),)
    assert worker.provider == "CPUExecutionProvider"
    for slot in range(16):
        worker_client.put(worker, slot, np.array([slot, 0, 1], np.float32))
    assert worker_client.ring(worker, range(16)) == list(range(16))
    assert [worker_client.get(worker, slot) for slot in range(16)] == [[s + 3, 10 * s + 30] for s in range(16)]
    answer = worker_client.arena(worker, ArenaTensor("x", "FP32", (2, 3), np.ones(6, "<f4").tobytes()))
    assert answer["y"].shape == (2, 2)
    assert np.frombuffer(answer["y"].data, "<f4").tolist() == [6, 60, 6, 60]


def test_one_bad_item_of_a_batch_fails_alone(start: Start) -> None:
    worker = start(onnx_models.gather_rows())
    for slot, row in enumerate((0, 77, 3)):
        worker_client.put(worker, slot, np.array(row, np.int64))
    assert worker_client.ring(worker, [0, 1, 2]) == [0, 1, 2]
    assert worker_client.get(worker, 0) == [0, 1]
    assert worker_client.get(worker, 1)[0] == "run_failed"
    assert worker_client.get(worker, 2) == [6, 7]


@pytest.mark.parametrize("datatype", [kind for kind in NUMPY_DTYPES if kind not in ("BYTES", "FP8E8M0")])
def test_every_datatype_passes_the_shared_memory_bit_for_bit(start: Start, datatype: str) -> None:
    worker = start(onnx_models.one_op("Identity", ["N", 4], datatype))
    raw = bytes([1, 0, 1, 1]) if datatype == "BOOL" else bytes(range(worker.layout.inputs[0].item_bytes))
    for slot in (0, 1):
        worker.layout.slot_view(worker.memory, worker.layout.inputs[0], slot)[:] = raw
    worker_client.ring(worker, [0, 1])
    assert bytes(worker.layout.slot_view(worker.memory, worker.layout.outputs[0], 1)) == raw
    answer = worker_client.arena(worker, ArenaTensor("x", datatype, (1, 4), raw))
    assert answer["y"] == ArenaTensor("y", datatype, (1, 4), raw)


def test_strings_and_several_tensors_pass_the_arena(start: Start) -> None:
    worker = start(onnx_models.two_by_two())
    assert worker.layout.slots == 0
    ones = np.ones(6, "<f4").tobytes()
    tensors = [ArenaTensor(name, "FP32", (2, 3), ones) for name in ("a", "b")]
    tensors.append(ArenaTensor("text", "BYTES", (2,), join_bytes([b"", "é".encode()])))
    answer = worker_client.arena(worker, *tensors)
    assert split_bytes(answer["copy"].data, 2) == [b"", "é".encode()]
    assert np.frombuffer(answer["sum"].data, "<f4").tolist() == [2] * 6
    assert list(worker_client.arena(worker, *tensors, outputs=["copy"])) == ["copy"]
    assert worker_client.arena(worker, *tensors[:2])[0] == "missing_input"


def test_lanes_run_at_the_same_time_on_one_model(start: Start) -> None:
    worker = start(onnx_models.linear(), cores=2, known=MEASURED._replace(lanes=2))
    assert len(worker.lanes) == 2
    for slot in (0, 1):
        worker_client.put(worker, slot, np.full(3, slot + 1, np.float32))
        assert worker_client.ring(worker, [slot], lane=slot) == [slot]
    assert [worker_client.get(worker, slot) for slot in (0, 1)] == [[6, 60], [12, 120]]


def test_ids_that_come_in_pieces_are_put_together(start: Start) -> None:
    worker = start(onnx_models.linear())
    (lane,) = worker.lanes
    message = struct.pack("<2I", 0, 1)
    lane.send(message[:5])
    lane.send(message[5:6])
    lane.send(message[6:4])
    lane.send(message[6:])
    lane.setblocking(True)
    lane.settimeout(20)
    data = b""
    while len(data) < 8:
        data += lane.recv(8)
    assert sorted(struct.unpack("<2I", data)) == [0, 1]


def test_measuring_finds_bounds_within_the_cap(start: Start) -> None:
    worker = start(onnx_models.linear(), known=None, max_batch=8, cores=2)
    assert 1 <= worker.max_batch <= 8
    assert worker.measured.run_us > 0
    assert worker.measured.fixed


def test_items_that_influence_each_other_are_never_batched(start: Start) -> None:
    worker = start(onnx_models.sum_over_items(), known=None)
    assert worker.max_batch == 1
    for slot, value in enumerate((1.0, 5.0)):
        worker_client.put(worker, slot, np.float32(value))
    worker_client.ring(worker, [0, 1])
    assert [worker_client.get(worker, slot) for slot in (0, 1)] == [[0.0], [0.0]]


def test_outputs_in_another_shape_than_declared_go_through_arenas(start: Start) -> None:
    worker = start(onnx_models.one_op("Flatten", [2, 3, 4], out_shape=[2, 3, 4]), known=None)
    worker_client.put(worker, 0, np.zeros((2, 3, 4), np.float32))
    worker_client.ring(worker, [0])
    assert worker.layout.statuses(worker.memory)[0] == OTHER_FORM
    answer = worker_client.arena(worker, ArenaTensor("x", "FP32", (2, 3, 4), bytes(96)))
    assert answer["y"].shape == (2, 12)


def test_a_worker_killed_in_the_middle_is_an_end_of_file_and_a_reason(start: Start) -> None:
    worker = start(onnx_models.linear())
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises((EOFError, BrokenPipeError, ConnectionResetError)):
        worker_client.ring(worker, [0])
    assert worker.exit_reason() == "killed by SIGKILL"


def test_a_run_without_end_is_killed_by_the_agent(start: Start) -> None:
    worker = start(onnx_models.loop_on_demand())
    worker.layout.slot_view(worker.memory, worker.layout.inputs[0], 0)[:] = FOREVER
    worker.lanes[0].send(struct.pack("<I", 0))
    worker.kill()
    worker.kill()
    assert worker.exit_reason() == "killed by SIGKILL"


@pytest.mark.parametrize("killed", [False, True])
def test_a_closed_worker_leaves_no_process_and_no_descriptor(start: Start, killed: bool) -> None:
    start(onnx_models.linear()).close(5.0)
    before = worker_client.open_files()
    worker = start(onnx_models.linear())
    if killed:
        worker.kill()
    worker.close(5.0)
    worker.close(5.0)
    assert worker_client.is_gone(worker.pid)
    assert worker_client.open_files() == before
    assert worker.exit_reason() == ("killed by SIGKILL" if killed else "exit status 0")


def test_a_worker_that_hangs_is_killed_when_it_is_closed(start: Start) -> None:
    worker = start(onnx_models.linear())
    os.kill(worker.pid, signal.SIGSTOP)
    worker.close(0.1)
    assert worker_client.is_gone(worker.pid)


def test_a_view_that_somebody_holds_outlives_the_worker(start: Start) -> None:
    worker = start(onnx_models.linear())
    view = worker.layout.slot_view(worker.memory, worker.layout.outputs[0], 0)
    worker.close(5.0)
    assert len(bytes(view)) == 8


def test_a_worker_has_only_what_it_needs(start: Start) -> None:
    worker = start(onnx_models.linear(), memory_bytes=2 << 30)
    proc = Path(f"/proc/{worker.pid}")
    environment = dict(entry.split("=", 1) for entry in (proc / "environ").read_text().strip("\0").split("\0"))
    assert set(environment) <= {
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX", "PATH", "LANG", "HOME"),
        *CATALOG["onnxruntime"].environment,
        *CATALOG["onnxruntime"].settings,
    }
    assert os.readlink(proc / "cwd").endswith("(deleted)")
    assert os.getsid(worker.pid) == worker.pid
    kinds = sorted(os.readlink(entry).split(":")[0] for entry in (proc / "fd").iterdir())
    assert kinds == ["/memfd", "pipe", "pipe", "socket", "socket"]
    limits = (proc / "limits").read_text()
    assert f"Max address space         {2 << 30}" in limits
    assert "Max core file size        0 " in limits
    assert "Max file size             0 " in limits
    assert "NoNewPrivs:\t1" in (proc / "status").read_text()


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_worker_goes_when_its_agent_is_killed(tmp_path: Path, state: str) -> None:
    directory = onnx_models.write(tmp_path / "artifact", onnx_models.loop_on_demand())
    command = [sys.executable, "-c", AGENT, directory, state]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    with parent.stdout, parent.stdin:
        pid = int(parent.stdout.readline())
        ended = os.pidfd_open(pid)
        parent.kill()
        parent.wait(10)
        assert select.select([ended], [], [], 10)[0], "the worker outlives its agent"
        os.close(ended)


def test_a_manifest_that_says_something_else_is_found(start: Start) -> None:
    good = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
    assert start(onnx_models.linear(), inputs=(good,)).inputs == (good,)
    for wrong in (
        TensorSpec(name="z", datatype="FP32", shape=(-1, 3)),
        TensorSpec(name="x", datatype="FP64", shape=(-1, 3)),
        TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),
        TensorSpec(name="x", datatype="FP32", shape=(3,)),
    ):
        with pytest.raises(AgentError) as caught:
            start(onnx_models.linear(), inputs=(wrong,))
        assert caught.value.code == "signature_mismatch"


@pytest.mark.parametrize("interpreter", ["/nonexistent/python", "/bin/false", "/etc/hostname"])
def test_an_interpreter_that_is_none_is_named(start: Start, interpreter: str) -> None:
    with pytest.raises(AgentError) as caught:
        start(onnx_models.linear(), interpreter=interpreter)
    assert caught.value.code in {"backend_unavailable", "worker_crashed"}
    assert not probe_backend("onnxruntime", interpreter).usable


def test_a_probe_in_a_process_finds_the_facts() -> None:
    facts = probe_backend("onnxruntime")
    assert facts.usable
    assert [str(target) for target in facts.targets][:1] == ["cpu"]
    assert facts.max_onnx_ir is not None
    assert facts.max_onnx_ir >= 8
    assert facts.max_onnx_opset is not None
    assert facts.max_onnx_opset >= 17


def test_a_missing_vendor_package_says_what_to_install(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    facts = probe_backend("onnxruntime", str(bare))
    assert not facts.usable
    assert "install the package onnxruntime" in facts.reason


ALLOWED = "('registry.sandbox', 'registry.mindspore_networks', 'registry.plan_file')"
BANNED = "('registry', 'pydantic', 'paho', 'httpx', 'apscheduler', 'msgspec', 'typer', 'PIL', 'rich', 'sqlalchemy')"


def test_a_worker_imports_only_the_standard_library_numpy_and_the_vendor(start: Start, tmp_path: Path) -> None:
    """Under an interpreter where everything else of this project fails to import."""
    ban = (
        "import sys\nclass Ban:\n  def find_spec(self, name, path=None, target=None):\n"
        f"    if name.split('.')[0] in {BANNED} and not name.startswith({ALLOWED}):\n"
        "      raise ImportError('banned: ' + name)\n"
        "sys.meta_path.insert(0, Ban())\nimport runpy\nsys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    (tmp_path / "ban.py").write_text(ban)
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nfor script; do :; done\nexec {sys.executable} -I {tmp_path}/ban.py "$script"\n')
    wrapper.chmod(0o755)
    worker = start(onnx_models.linear(), interpreter=str(wrapper), known=None)
    worker_client.put(worker, 0, np.ones(3, np.float32))
    worker_client.ring(worker, [0])
    assert worker_client.get(worker, 0) == [6, 60]


def test_what_a_worker_runs_is_python_3_9() -> None:
    root = Path(agent.__file__).parent
    shared = ["channel", "main", "measure", "runner"]
    for path in [
        *(root / "backends").glob("*.py"),
        *(root / "worker" / f"{name}.py" for name in shared),
        Path(sandbox.__file__),
    ]:
        ast.parse(path.read_text(), str(path), feature_version=(3, 9))
