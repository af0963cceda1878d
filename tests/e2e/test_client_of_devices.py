"""The client of devices against a fleet of real processes: the manual's examples, every datatype, pools, a kill."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from registry.client.devices import BadRequestError, Client, DeviceOfflineError, TypedTensor
from tests.support.paths import LENET_FOLDER, ROOT
from tests.support.programs.fleet import Fleet

DEVICE = "edge-1"
DIGITS = sorted((LENET_FOLDER / "digits").glob("*.png"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        pools = '{"cameras": ["lenet"]}'
        running.start_agent(DEVICE, running.add_device(DEVICE), MODELFLEET_AGENT_MQTT__POOLS=pools)
        running.registry("publish", str(LENET_FOLDER / "lenet.toml"))
        running.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")
        yield running


@pytest.fixture(params=["5", "3.1.1"])
def client(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Client]:
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}", protocol=request.param) as connected:
        yield connected


def test_the_examples_of_the_manual_run(fleet: Fleet, tmp_path: Path) -> None:
    shutil.copy(next(each for each in DIGITS if "digit-7" in each.name), tmp_path / "7.png")
    page = (ROOT / "docs" / "client-devices.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    code = code.replace("modelfleet_client", "registry.client.devices")
    code = code.replace("mqtt://localhost", f"mqtt://127.0.0.1:{fleet.broker_port}")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "7", done.stderr
    assert lines[1].startswith("(2, 10) 1.0.0 onnx-cpu edge-1 0."), done.stdout
    assert lines[-1] == "no_such_device edge-9", done.stdout + done.stderr
    assert len(lines) == 27


def test_pictures_have_their_labels_by_device_and_by_pool(client: Client) -> None:
    pictures = client.infer_many(DIGITS, device=DEVICE, model="lenet")
    assert [answer.label for answer in pictures] == [each.stem.split("-")[1] for each in DIGITS]  # type: ignore[union-attr]
    answer = client.infer(pool="cameras", model="lenet", picture=DIGITS[0].read_bytes())
    assert (answer.label, answer.device) == (DIGITS[0].stem.split("-")[1], DEVICE)
    assert 0 < answer.score <= 1
    assert [found.device for found in client.who_serves("lenet", pool="cameras")] == [DEVICE]
    assert client.who_serves("lenet", pool="others", wait=0.8) == []
    with pytest.raises(BadRequestError) as refused:
        client.infer(DEVICE, "lenet", picture=b"\x89PNG\r\n\x1a\n" + b"garbage" * 100)
    assert refused.value.code == "bad_image"


KINDS = {
    "BOOL": (TensorProto.BOOL, np.array([True, False])),
    "UINT8": (TensorProto.UINT8, np.array([0, 255], "u1")),
    "UINT16": (TensorProto.UINT16, np.array([0, 65535], "u2")),
    "UINT32": (TensorProto.UINT32, np.array([0, (1 << 32) - 1], "u4")),
    "UINT64": (TensorProto.UINT64, np.array([0, (1 << 64) - 1], "u8")),
    "INT8": (TensorProto.INT8, np.array([-128, 127], "i1")),
    "INT16": (TensorProto.INT16, np.array([-32768, 32767], "i2")),
    "INT32": (TensorProto.INT32, np.array([-(1 << 31), (1 << 31) - 1], "i4")),
    "INT64": (TensorProto.INT64, np.array([-(1 << 63), (1 << 63) - 1], "i8")),
    "FP16": (TensorProto.FLOAT16, np.array([-1.5, 65504], "f2")),
    "FP32": (TensorProto.FLOAT, np.array([np.pi, 1e-45], "f4")),
    "FP64": (TensorProto.DOUBLE, np.array([np.pi, 5e-324], "f8")),
    "BF16": (TensorProto.BFLOAT16, np.array([1.5, -3e38], ml_dtypes.bfloat16)),
    "FP8E4M3FN": (TensorProto.FLOAT8E4M3FN, np.array([1.5, -448], ml_dtypes.float8_e4m3fn)),
    "FP8E5M2": (TensorProto.FLOAT8E5M2, np.array([1.5, -57344], ml_dtypes.float8_e5m2)),
    "BYTES": (TensorProto.STRING, np.array(["ü\0", ""], dtype=object)),
}


@pytest.fixture(scope="module")
def _mirror(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model that answers every input as it is, one of each datatype."""

    def tensors(prefix: str) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(prefix + kind, code, [2]) for kind, (code, _) in KINDS.items()]

    nodes = [helper.make_node("Identity", ["in_" + kind], ["out_" + kind]) for kind in KINDS]
    graph = helper.make_graph(nodes, "mirror", tensors("in_"), tensors("out_"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    file = tmp_path_factory.mktemp("mirror") / "mirror.onnx"
    onnx.save(model, file)
    fleet.registry("publish", "mirror", str(file), "--version", "1.0.0", "--target", "cpu")
    fleet.registry("deploy", "mirror@1.0.0", "--device", DEVICE, "--wait")


@pytest.mark.usefixtures("_mirror")
@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_goes_to_a_device_and_comes_back(client: Client, binary: bool) -> None:
    answer = client.infer(DEVICE, "mirror", {"in_" + kind: array for kind, (_, array) in KINDS.items()}, binary=binary)
    for kind, (_, array) in KINDS.items():
        found = answer["out_" + kind]
        if kind == "BYTES":
            assert found.tolist() == [text.encode() for text in array]
            assert answer.strings("out_BYTES").tolist() == array.tolist()
        else:
            np.testing.assert_array_equal(found, array.astype(found.dtype), kind)
        assert answer.datatypes["out_" + kind] == kind


@pytest.mark.usefixtures("_mirror")
def test_lists_become_the_datatypes_that_the_model_has(client: Client) -> None:
    inputs = {"in_" + kind: array.tolist() for kind, (_, array) in KINDS.items()}
    inputs["in_BF16"] = TypedTensor([1.5, -2], "BF16")
    answer = client.infer(DEVICE, "mirror", inputs)
    assert answer["out_UINT64"].tolist() == [0, (1 << 64) - 1]
    assert answer["out_FP8E5M2"].tolist() == [1.5, -57344]
    assert answer["out_BF16"].tolist() == [1.5, -2]


def test_an_agent_that_is_killed_is_offline_at_once_and_answers_again_after_its_start(fleet: Fleet) -> None:
    x = {"x": np.zeros((1, 1, 28, 28), np.float32)}
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        client.infer(DEVICE, "lenet", x)
        agent = fleet.processes[DEVICE]
        agent.kill()
        with pytest.raises(DeviceOfflineError):
            client.infer(DEVICE, "lenet", x, timeout=60)
        with Client(f"mqtt://127.0.0.1:{fleet.broker_port}", when_offline="wait") as patient:
            future = patient.submit(DEVICE, "lenet", x, timeout=60)
            agent.start(lambda: True)
            assert future.result(60)["y"].shape == (1, 10)
