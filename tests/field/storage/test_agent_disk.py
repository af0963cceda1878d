"""An agent whose disk is read-only, full or rotten: it starts, answers from what it has, says what it cannot do, and
takes up everything once the disk takes writes again. Real processes, a broker, a file system of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from registry.contracts.api.devices import DeviceReports
from registry.contracts.device.messages import Desired, DesiredModel
from tests.fakes.registry_simulator import RegistrySimulator, one_file_manifest
from tests.integration.agent.test_agent_process import DEVICE, NOW, AgentProcess, children, wait_until
from tests.support.clients.asking import Asker, binary_request
from tests.support.models import onnx_models
from tests.support.network.broker import Mosquitto, free_port

MODEL = onnx_models.linear()
X = np.array([1, 2, 3], np.float32)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not mounted(folder, "size=24m"):
        pytest.skip("mounting a file system needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def mounted(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True, capture_output=True)


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    simulator = RegistrySimulator().start()
    yield simulator
    simulator.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    process = Mosquitto(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def asker(broker: Mosquitto) -> Iterator[Asker]:
    client = Asker(broker.port, f"modelfleet/v1/devices/{DEVICE}/infer/lenet")
    yield client
    client.close()


def wish(registry: RegistrySimulator, version: str, generation: int, data: bytes = MODEL) -> None:
    manifest = one_file_manifest(data, version=version)
    digest = registry.publish(manifest, data)
    models = {"lenet": DesiredModel(version=version, manifest=digest)}
    registry.desired = Desired(device=DEVICE, generation=generation, issued_at=NOW, models=models)


def settled(folder: Path, registry: RegistrySimulator, broker: Mosquitto) -> AgentProcess:
    """An agent that has served a version and was stopped in order."""
    wish(registry, "1.0.0", 1)
    process = AgentProcess(folder, registry.url, broker.port).start()
    wait_until(process.serves)
    process.end(signal.SIGTERM)
    return process


def answers(asker: Asker) -> bool:
    """The right answer, at last: until the agent is there it has none, or says that it is not ready."""
    payload, head = binary_request(X)
    count = len(asker.answers)
    asker.ask(payload, header_length=head, qos=0)
    try:
        asker.wait(count + 1, 2.0)
    except TimeoutError:
        return False
    answer = asker.answers[-1]
    if "error" in answer.head:
        return False
    assert np.array_equal(answer.tensor(), X @ np.array([[1, 10], [2, 20], [3, 30]], np.float32))
    return True


def fill(file: Path) -> None:
    """Until nothing more goes onto the disk."""
    try:
        with file.open("wb", buffering=0) as stream:
            while stream.write(b"x" * 4096):
                pass
    except OSError:
        return


def faults(registry: RegistrySimulator) -> set[str]:
    told = [DeviceReports.model_validate_json(seen.body).reported for seen in registry.requests("reports")]
    return {report.fault.code for report in told if report is not None and report.fault is not None}


def test_on_a_read_only_disk_it_answers_says_so_and_goes_on_once_the_disk_takes_writes(
    disk: Path, registry: RegistrySimulator, broker: Mosquitto, asker: Asker
) -> None:
    agent = settled(disk / "data", registry, broker)
    remount(disk, "ro")
    agent.settings["MODELFLEET_AGENT_MQTT__PORT"] = str(broker.port)
    agent.start()
    try:
        wait_until(lambda: answers(asker))
        assert agent.command("run").returncode != 0, "one agent a data folder, also here"
        wish(registry, "2.0.0", 2)
        remount(disk, "rw")
        wait_until(lambda: agent.model().get("version") == "2.0.0")
        assert answers(asker)
        assert agent.end(signal.SIGTERM) == 0
    finally:
        agent.stop()
    assert agent.start() is agent
    try:
        wait_until(lambda: agent.model().get("version") == "2.0.0" and answers(asker))
    finally:
        agent.stop()


def test_after_a_kill_a_read_only_disk_gives_what_was_written_last(
    disk: Path, registry: RegistrySimulator, broker: Mosquitto, asker: Asker
) -> None:
    wish(registry, "1.0.0", 1)
    agent = AgentProcess(disk / "data", registry.url, broker.port).start()
    wait_until(agent.serves)
    agent.end(signal.SIGKILL)
    remount(disk, "ro")
    agent.start()
    try:
        wait_until(lambda: answers(asker))
    finally:
        agent.stop()
        remount(disk, "rw")


def test_on_a_full_disk_it_answers_says_so_and_installs_once_there_is_room(
    disk: Path, registry: RegistrySimulator, broker: Mosquitto, asker: Asker
) -> None:
    agent = settled(disk / "data", registry, broker)
    fill(disk / "filler")
    agent.settings["MODELFLEET_AGENT_MQTT__PORT"] = str(free_port())  # reports come over HTTP then
    agent.start()
    try:
        wish(registry, "2.0.0", 2)
        wait_until(lambda: faults(registry) & {"insufficient_disk", "disk_error"})
    finally:
        agent.stop()
    agent.settings["MODELFLEET_AGENT_MQTT__PORT"] = str(broker.port)
    agent.start()
    try:
        wait_until(lambda: answers(asker))
        (disk / "filler").unlink()
        wait_until(lambda: agent.model().get("version") == "2.0.0")
        assert answers(asker)
    finally:
        agent.stop()


def test_a_model_file_that_rots_is_not_served_by_the_next_worker_and_comes_again(
    tmp_path: Path, registry: RegistrySimulator, broker: Mosquitto, asker: Asker
) -> None:
    wish(registry, "1.0.0", 1)
    agent = AgentProcess(tmp_path / "data", registry.url, broker.port).start()
    try:
        wait_until(lambda: agent.serves() and answers(asker))
        (file,) = (tmp_path / "data" / "cache" / "artifacts").rglob("*.onnx")
        at = MODEL.index(np.array([1, 10], "<f4").tobytes())
        for number in range(3):
            file.chmod(0o600)
            with file.open("r+b") as stream:
                stream.seek(at + 2 + 4 * number)
                stream.write(b"\x11")
            (worker,) = children(agent.pid)
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda gone=worker: gone not in children(agent.pid))  # type: ignore[misc]
            wait_until(lambda: answers(asker))  # and never wrongly: `answers` looks at the values
            assert file.read_bytes() == MODEL
        assert len(list((tmp_path / "data" / "cache" / "damaged").iterdir())) == 1
    finally:
        agent.stop()


def test_damaged_databases_end_no_agent_and_take_nothing_from_what_serves(
    tmp_path: Path, registry: RegistrySimulator, broker: Mosquitto, asker: Asker
) -> None:
    agent = settled(tmp_path / "data", registry, broker)
    files = [tmp_path / "data" / name for name in ("journal.db", "outbox.db")]
    whole = {file: file.read_bytes() for file in files}
    registry.stop()  # nobody helps
    for at in (18, 100, 4099):  # the header, the schema, a page of rows: tests of journal and outbox go further
        for file, data in whole.items():
            file.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        agent.start()
        try:
            wait_until(lambda: answers(asker))
        finally:
            assert agent.end(signal.SIGTERM) == 0
