"""Gears, pictures, weights beside an OM and several devices, on a SIMULATED pyACL. Nothing here ran on an Ascend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.backends.ascend_acl import AclSession, AscendAcl
from agent.backends.base import BackendError, LoadOptions, TensorInfo
from tests.fakes.simulated_acl.in_process import simulated_acl
from tests.fakes.simulated_acl.om import simulated_om
from tests.support.models import onnx_models

Load = Callable[..., AclSession]
IMAGE = onnx_models.one_op("Relu", [1, 2, "H", "W"])
PAIR = onnx_models.one_op("Relu", ["N", "T", 2])


@pytest.fixture
def acl() -> Iterator[Any]:
    with simulated_acl() as module:
        yield module


@pytest.fixture
def load(acl: Any, tmp_path: Path) -> Iterator[Load]:
    sessions: list[AclSession] = []

    def _load(content: bytes, **settings: object) -> AclSession:
        (tmp_path / "model.om").write_bytes(content)
        options = LoadOptions(target="ascend310", settings=settings)
        sessions.append(AscendAcl().load(str(tmp_path), "model.om", options))
        return sessions[-1]

    yield _load
    acl.MACHINE.faults.clear()
    for session in sessions:
        session.close()


def ramp(*shape: int) -> dict[str, Any]:
    return {"x": np.arange(np.prod(shape), dtype=np.float32).reshape(shape) - 3}


def test_a_simulated_image_size_runs_on_its_gears_only(acl: Any, load: Load) -> None:
    session = load(simulated_om(IMAGE, [[2, 3], [4, 4], [3, 2]], kind="image"))
    assert session.inputs == (TensorInfo("x", "FP32", (1, 2, -1, -1)),)
    assert session.outputs == (TensorInfo("y", "FP32", (1, 2, -1, -1)),)
    for size in ((4, 4), (3, 2), (2, 3), (4, 4)):
        feeds = ramp(1, 2, *size)
        (result,) = session.run(feeds, ["y"])
        assert result.tolist() == np.maximum(feeds["x"], 0).tolist()
    assert acl.MACHINE.calls.count("mdl.set_dynamic_hw_size") == 3 + 4
    with pytest.raises(BackendError, match=r"x \[1, 2, 3, 3\] does not fit: .* x \[1, 2, 2, 3\]; x") as caught:
        session.run(ramp(1, 2, 3, 3), ["y"])
    assert caught.value.code == "wrong_shape"


def test_simulated_dynamic_dims_run_on_their_gears_only(acl: Any, load: Load) -> None:
    session = load(simulated_om(PAIR, [[1, 4, 2], [2, 1, 2]], kind="dims"))
    assert session.inputs == (TensorInfo("x", "FP32", (-1, -1, 2)),)
    for shape in ((1, 4, 2), (2, 1, 2)):
        feeds = ramp(*shape)
        assert session.run(feeds, ["y"])[0].tolist() == np.maximum(feeds["x"], 0).tolist()
    with pytest.raises(BackendError, match="does not fit"):
        session.run(ramp(1, 1, 2), ["y"])


@pytest.mark.parametrize("gears", [[[1, 4]], [[1, 4, 3]], [[0, 4, 2]]], ids=["few", "other", "empty"])
def test_simulated_dims_that_are_not_those_of_the_inputs_are_refused(acl: Any, load: Load, gears: Any) -> None:
    with pytest.raises(BackendError) as caught:
        load(simulated_om(onnx_models.linear(1), gears, kind="dims"))
    assert caught.value.code == "load_failed"
    assert acl.MACHINE.alive() == {}


def test_a_picture_that_is_no_plain_tensor_is_its_bytes_simulated(load: Load) -> None:
    yuv = onnx_models.one_op("Identity", [1, 24], "UINT8")
    session = load(simulated_om(yuv, aipp_dims=[1, 3, 4, 4]))
    assert session.inputs == (TensorInfo("x", "UINT8", (1, 24)),)
    picture = np.arange(24, dtype=np.uint8).reshape(1, 24)
    assert session.run({"x": picture}, ["y"])[0].tolist() == picture.tolist()


def test_an_aipp_input_takes_the_type_and_shape_of_the_om_simulated(load: Load) -> None:
    session = load(simulated_om(onnx_models.one_op("Identity", [1, 4, 4, 3], "UINT8")))
    assert session.inputs == (TensorInfo("x", "UINT8", (1, 4, 4, 3)),)


def test_weights_beside_the_om_are_found_simulated(load: Load, tmp_path: Path) -> None:
    content = simulated_om(onnx_models.linear(1), external_weights=["w.bin"])
    with pytest.raises(BackendError, match=r"artifact_fault: acl\.mdl\.load_from_file failed with 545001"):
        load(content)
    (tmp_path / "weight").mkdir()
    (tmp_path / "weight" / "w.bin").write_bytes(b"w")
    assert load(content).run({"x": np.ones((1, 3), np.float32)}, ["y"])[0].tolist() == [[6, 60]]


def test_of_several_simulated_devices_the_one_with_the_most_memory_is_taken(acl: Any, load: Load) -> None:
    acl.MACHINE.free_memory = [1 << 30, 3 << 30, 2 << 30]
    first = load(simulated_om(onnx_models.linear(1)))
    assert acl.MACHINE.device == 1
    acl.MACHINE.free_memory = [9 << 30, 0, 0]
    load(simulated_om(onnx_models.linear(1)))
    assert (acl.MACHINE.device, acl.MACHINE.device_users) == (1, 1)
    assert first.run({"x": np.ones((1, 3), np.float32)}, ["y"])[0].tolist() == [[6, 60]]


def test_the_simulated_device_that_the_operator_names_is_taken(acl: Any, load: Load) -> None:
    acl.MACHINE.free_memory = [1 << 30, 3 << 30, 2 << 30]
    load(simulated_om(onnx_models.linear(1)), device=2)
    assert acl.MACHINE.device == 2
    with pytest.raises(BackendError, match="holds the Ascend device 2 already, and 0 is asked for"):
        load(simulated_om(onnx_models.linear(1)), device=0)


@pytest.mark.parametrize(("device", "words"), [(7, "107001"), (-1, "not a device's number"), ("0", "not a device's")])
def test_a_simulated_device_that_is_none_is_named(load: Load, device: object, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        load(simulated_om(onnx_models.linear(1)), device=device)


def test_a_simulated_device_that_cannot_be_taken_is_passed_over(
    acl: Any, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    acl.MACHINE.free_memory = [3 << 30, 1 << 30]
    take = acl.rt.set_device
    monkeypatch.setattr(acl.rt, "set_device", lambda device: 507899 if device == 0 else take(device))
    load(simulated_om(onnx_models.linear(1)))
    assert acl.MACHINE.device == 1


def test_the_simulated_acl_watches_gears(acl: Any, load: Load) -> None:
    session = load(simulated_om(IMAGE, [[2, 3]], kind="image"))
    acl.rt.set_context(session._context)
    with pytest.raises(acl.SimulatedContractViolation, match="gears of kind image is set a gear of kind batch"):
        acl.mdl.set_dynamic_batch_size(session._model, session._given, session._gear_index, 1)
    assert acl.mdl.set_dynamic_hw_size(session._model, session._given, session._gear_index, 9, 9) == 145013
    acl.MACHINE.get("dataset", session._given)["shapes"] = None
    with pytest.raises(acl.SimulatedContractViolation, match="before this dataset was set a gear"):
        acl.mdl.execute(session._model, session._given, session._taken)
