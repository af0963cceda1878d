"""Models as exporters write them, from `registry publish` to an answer over MQTT, with real processes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from registry.client.devices import Client
from scripts.demo.processes import wait_until
from tests.support.models import onnx_models
from tests.support.programs.fleet import Fleet

DEVICE = "edge-1"
ENOUGH = 30
"""Requests after which a probation says something about shares."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        running.start_agent(DEVICE, running.add_device(DEVICE))
        yield running


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as connected:
        yield connected


def masked() -> bytes:
    """y = x + [0, -inf, 0]: minus infinity is part of the right answer."""
    mask = numpy_helper.from_array(np.array([0, -np.inf, 0], np.float32), "mask")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "mask"], ["y"])], "g", infos[:1], infos[1:], [mask])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def deployment(fleet: Fleet, model: str) -> Any:
    return fleet.registry("devices", "show", DEVICE)["reported"]["models"][model]["deployment"]


def test_scores_that_are_pooled_and_not_flattened_are_classified(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    model = onnx_models.one_op("GlobalAveragePool", ["N", 3, 8, 8], out_shape=["N", 3, 1, 1])
    (tmp_path / "pooled.onnx").write_bytes(model)
    (tmp_path / "labels.txt").write_text("red\n\nblue\n")
    (tmp_path / "pooled.toml").write_text(
        'model = "pooled"\nversion = "1"\n[[variant]]\nfile = "pooled.onnx"\ntarget = "cpu"\n'
        '[image]\ninput = "x"\nheight = 8\nwidth = 8\n'
        '[classification]\noutput = "y"\nlabels_file = "labels.txt"\ntop_k = 3\n'
    )
    fleet.registry("publish", str(tmp_path / "pooled.toml"))
    fleet.registry("deploy", "pooled@1", "--device", DEVICE, "--wait")
    picture = io.BytesIO()
    Image.new("RGB", (20, 20), (0, 255, 51)).save(picture, "PNG")
    answer = client.infer(DEVICE, "pooled", picture=picture.getvalue())
    assert answer.labels == [["", "blue", "red"]], "class 1 is the blank line"
    powers = np.exp([1.0, 0.2, 0.0])
    np.testing.assert_allclose(answer.scores[0], powers / powers.sum(), rtol=1e-5)


def test_minus_infinity_in_right_answers_is_no_fault_of_a_version(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    (tmp_path / "masked.onnx").write_bytes(masked())
    for version, golden in (("1", ()), ("2", ("--golden-random", "2"))):
        words = ("--version", version, "--target", "cpu", "--label", f"v={version}", *golden)
        fleet.registry("publish", "masked", str(tmp_path / "masked.onnx"), *words)
        fleet.registry("deploy", f"masked@{version}", "--device", DEVICE, "--wait", "--probation", "2s")
        for _ in range(ENOUGH):
            answer = client.infer(DEVICE, "masked", {"x": np.ones((1, 3), np.float32)})
            assert answer["y"].tolist() == [[1.0, -np.inf, 1.0]]
        wait_until(
            lambda: deployment(fleet, "masked")["phase"] not in ("probation", "switching"), "the probation's end"
        )
        assert deployment(fleet, "masked")["phase"] == "committed", version


def test_weights_keep_the_name_that_stands_in_the_model(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "mes modèles #1"
    folder.mkdir()
    (folder / "best model.onnx").write_bytes(onnx_models.external("./best model.onnx.data"))
    (folder / "best model.onnx.data").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    fleet.registry("publish", "best", str(folder / "best model.onnx"), "--version", "1", "--target", "cpu")
    files = [file["path"] for file in fleet.registry("show", "best@1")["manifest"]["variants"][0]["files"]]
    assert files == ["best-model.onnx", "best model.onnx.data"]
    fleet.registry("deploy", "best@1", "--device", DEVICE, "--wait")
    assert client.infer(DEVICE, "best", {"x": np.ones(3, np.float32)})["y"].tolist() == [2, 3, 4]
    fleet.registry("pull", "best@1", "--output", str(tmp_path / "pulled"))
    assert list((tmp_path / "pulled").rglob("best model.onnx.data"))
