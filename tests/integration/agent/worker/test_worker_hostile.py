"""Hostile artifacts and lying workers: each ends in a clear code, the agent goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import agent
from agent.errors import AgentError
from agent.worker import main as worker_main
from agent.worker.channel import ArenaTensor
from agent.worker.handle import probe_backend, start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import WorkerSpec
from tests.support.clients import worker_client
from tests.support.models import onnx_models

SECRET = np.array([7, 8, 9], np.float32).tobytes()


@pytest.fixture
def spec(tmp_path: Path) -> WorkerSpec:
    """Of an artifact folder beside a secret."""
    (tmp_path / "secret.bin").write_bytes(SECRET)
    return WorkerSpec("hostile", "onnxruntime", onnx_models.write(tmp_path / "artifact", b""), "model.onnx", slots=4)


def refused(spec: WorkerSpec, content: bytes | None = None, **options: object) -> AgentError:
    """Why the artifact was not loaded. Also: nothing is left of the try."""
    if content is not None:
        (Path(spec.directory) / "model.onnx").write_bytes(content)
    before = worker_client.open_files()
    with pytest.raises(AgentError) as caught:
        start_worker(replace(spec, **options))  # type: ignore[arg-type]
    assert worker_client.open_files() == before
    assert caught.value.message.isprintable()
    return caught.value


def test_external_data_of_the_artifact_itself_is_read(spec: WorkerSpec) -> None:
    (Path(spec.directory) / "model.onnx").write_bytes(onnx_models.external("weights.bin"))
    (Path(spec.directory) / "weights.bin").write_bytes(SECRET)
    worker = start_worker(spec)
    worker_client.put(worker, 0, np.zeros(3, np.float32))
    worker_client.ring(worker, [0])
    assert worker_client.get(worker, 0) == [7, 8, 9]
    worker.close(5.0)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "/proc/self/environ"])
def test_external_data_from_elsewhere_is_refused(spec: WorkerSpec, location: str) -> None:
    assert refused(spec, onnx_models.external(location)).code == "load_failed"


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_external_data_through_a_link_is_refused(spec: WorkerSpec, link: object) -> None:
    link(Path(spec.directory).parent / "secret.bin", Path(spec.directory) / "weights.bin")  # type: ignore[operator]
    error = refused(spec, onnx_models.external("weights.bin"))
    assert error.code == "load_failed"
    assert "weights.bin" in error.message


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 4096, onnx_models.linear()[:50], onnx_models.overflowing_dimensions()],
    ids=["empty", "garbage", "truncated", "overflow"],
)
def test_a_broken_model_fails_to_load(spec: WorkerSpec, content: bytes) -> None:
    assert refused(spec, content).code == "load_failed"


def test_a_model_that_eats_all_memory_the_worker_may_have_fails_to_load(spec: WorkerSpec) -> None:
    assert refused(spec, onnx_models.memory_bomb()).code == "out_of_memory"
    assert refused(spec, onnx_models.memory_bomb(1 << 30), memory_bytes=1 << 30).code == "out_of_memory"


def test_a_limit_that_not_even_the_runtime_fits_in_is_an_answer_too(spec: WorkerSpec) -> None:
    assert refused(spec, onnx_models.linear(), memory_bytes=64 << 20).code in {
        "load_failed",
        "backend_unavailable",
        "worker_crashed",
    }


def test_a_model_whose_trial_runs_have_no_end_is_served_untried(spec: WorkerSpec) -> None:
    (Path(spec.directory) / "model.onnx").write_bytes(onnx_models.endless_loop())
    worker = start_worker(replace(spec, load_timeout_s=16.0))
    assert worker.measured[:2] == (0.0, 1)
    assert "served unmeasured: a trial run took over 4 s" in worker.batching
    worker.kill()
    worker.close(5.0)


def test_a_request_that_asks_for_all_memory_fails_alone(spec: WorkerSpec) -> None:
    (Path(spec.directory) / "model.onnx").write_bytes(onnx_models.bomb_on_demand())
    worker = start_worker(replace(spec, memory_bytes=2 << 30))
    for size, code in ((1 << 40, "out_of_memory"), (1 << 24, "result_too_large")):
        assert worker_client.arena(worker, ArenaTensor("x", "INT64", (1,), size.to_bytes(8, "little")))[0] == code
    answer = worker_client.arena(worker, ArenaTensor("x", "INT64", (1,), (3).to_bytes(8, "little")))
    assert answer["y"].shape == (3,)
    worker.close(5.0)


def test_a_device_file_and_a_missing_artifact_are_refused(spec: WorkerSpec, tmp_path: Path) -> None:
    os.mkfifo(Path(spec.directory) / "fifo")
    assert "not a plain file" in refused(spec, onnx_models.linear()).message
    assert refused(replace(spec, directory=str(tmp_path / "nowhere"))).code == "load_failed"


LIES = {
    "nothing": "",
    "noise": "control.send(b'\\xff\\xfe')",
    "array": "control.send(b'[1]')",
    "deep": "control.send(b'[' * 100000)",
    "no_facts": "facts()",
    "measure": """facts(inputs=[X], outputs=[X], measured=[float("nan"), 1, 1, True])""",
    "types": """facts(inputs=[X], outputs=[X], measured=[1, "64", 1, True])""",
    "shape": """facts(inputs=[["x", "FP32", [1] * 99]], outputs=[], measured=[1, 1, 1, True])""",
    "twice": """facts(inputs=[X] * 2, outputs=[], measured=[1, 1, 1, True])""",
    "many": """facts(inputs=[X] * 65, outputs=[], measured=[1, 1, 1, True])""",
}


LIAR = f"""import json, socket, sys
control = socket.socket(fileno=0)
X = ["x", "FP32", [1]]
def facts(**said):
    whole = {{"optional_inputs": [], **said}}
    control.send(json.dumps({{"protocol": {worker_main.PROTOCOL}, "loaded": whole}}).encode())
control.recv(1 << 18)
"""


def lying(folder: Path, script: str) -> str:
    """An interpreter that runs `script` instead of a worker, once it was asked for something."""
    file, wrapper = folder / "liar.py", folder / "python"
    file.write_text(f"{LIAR}{script}\n")
    wrapper.write_text(f"#!/bin/sh\nexec {sys.executable} -I {file}\n")
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_lies_is_not_believed(spec: WorkerSpec, tmp_path: Path, lie: str) -> None:
    words = f"sys.stderr.write('\\x1b[31mlast\\0 words\\n' * 100000 if {lie == 'nothing'} else '')"
    interpreter = lying(tmp_path, f"{words}\n{LIES[lie]}")
    error = refused(spec, interpreter=interpreter, load_timeout_s=10.0)
    assert error.code == "worker_crashed"
    assert len(error.message) < 5000


@pytest.mark.parametrize("said", ['"protocol": 0, ', ""], ids=["older", "before there was a number"])
def test_a_worker_of_another_protocol_is_refused_before_it_is_understood(
    spec: WorkerSpec, tmp_path: Path, said: str
) -> None:
    script = f"""control.send(b'{{{said}"loaded": {{"outputs": "in another form"}}}}')"""
    error = refused(spec, interpreter=lying(tmp_path, script))
    assert error.code == "backend_unavailable"
    assert "restart the agent" in error.message


def test_a_package_that_was_changed_under_a_running_agent_starts_no_worker_for_it(
    spec: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = worker_main.PROTOCOL
    monkeypatch.setattr(worker_main, "PROTOCOL", ours + 1)  # the agent's; the worker reads its own from the disk
    error = refused(spec, onnx_models.linear())
    assert error.code == "backend_unavailable"
    assert f"the worker speaks protocol {ours}, this agent {ours + 1}" in error.message
    probed = probe_backend("onnxruntime")
    assert not probed.usable
    assert "restart the agent" in probed.reason


def test_a_worker_cannot_shrink_the_memory_it_shares(spec: WorkerSpec) -> None:
    (Path(spec.directory) / "model.onnx").write_bytes(onnx_models.linear())
    worker = start_worker(replace(spec, known=Measurement(1.0, 1, 1, fixed=True)))
    (mapped,) = [
        entry for entry in Path(f"/proc/{worker.pid}/map_files").iterdir() if "modelfleet-worker" in os.readlink(entry)
    ]
    try:
        descriptor = os.open(mapped, os.O_RDWR)
    except PermissionError:
        worker.close(5.0)
        pytest.skip("only root may open what another process has mapped")
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)
    worker.close(5.0)


def test_a_confined_process_reads_its_artifact_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "weights").write_bytes(b"w")
    (tmp_path / "secret").write_bytes(b"s")
    script = f"""
import os, socket, subprocess, sys
sys.path.insert(0, {str(Path(agent.__file__).parent.parent)!r})
from registry.sandbox import confine
confined = confine([{str(tmp_path / "artifact")!r}])
print(confined)
open({str(tmp_path / "artifact" / "weights")!r}).read()
for action in (
    lambda: open({str(tmp_path / "secret")!r}),
    lambda: open({str(tmp_path / "artifact" / "new")!r}, "w"),
    lambda: subprocess.run(["/bin/true"]),
    lambda: socket.create_connection(("127.0.0.1", 9), 1),
    lambda: os.kill(os.getppid(), 0) or print("sent"),
):
    try:
        action()
    except PermissionError:
        print("refused")
    except OSError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    confined, *outcomes = done.stdout.splitlines()
    if not confined.startswith("landlock"):
        pytest.skip(confined)
    assert outcomes[:3] == ["refused"] * 3
    abi = int(confined.split()[1].rstrip(","))
    assert outcomes[3] == "refused" or abi < 4
    assert outcomes[4] == "refused" or abi < 6
