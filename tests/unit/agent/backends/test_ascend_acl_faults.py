"""What goes wrong on a SIMULATED Ascend: each failure has a code, the vendor's number, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.backends.ascend_acl import AscendAcl
from agent.backends.ascend_acl_calls import AclError
from agent.backends.base import BackendError, LoadOptions
from tests.fakes.simulated_acl.in_process import simulated_acl
from tests.fakes.simulated_acl.om import simulated_om
from tests.support.models import onnx_models

ON_310 = LoadOptions(target="ascend310")
GOOD = simulated_om(onnx_models.linear(), gears=(1, 4))
LOAD_CALLS = (
    *("rt.set_device", "rt.create_context", "mdl.load_from_file", "mdl.get_desc", "rt.get_run_mode"),
    *("mdl.get_dynamic_batch", "rt.malloc", "mdl.add_dataset_buffer", "mdl.get_input_dims"),
    *("mdl.set_dynamic_batch_size", "mdl.get_cur_output_dims", "rt.malloc_host"),
)


@pytest.fixture
def acl() -> Iterator[Any]:
    with simulated_acl() as module:
        yield module


def load(directory: Path, content: bytes, target: str = "ascend310") -> Any:
    (directory / "model.om").write_bytes(content)
    return AscendAcl().load(str(directory), "model.om", LoadOptions(target=target))


@pytest.mark.parametrize(
    ("number", "family"),
    [
        *[(number, "retry") for number in (200000, 207001, 245002)],
        *[(number, "device_unhealthy") for number in (207004, 507010, 507014, 507015, 507899)],
        *[(number, "artifact_fault") for number in (100003, 100012, 145002, 145013, 145021, 545001, 545005, 507008)],
        *[(number, "call_failed") for number in (100000, 107002, 200001, 207000, 507011, 999999, -1)],
    ],
)
def test_error_numbers_fall_into_families(number: int, family: str) -> None:
    assert AclError.family_of(number) == family


@pytest.mark.parametrize("call", LOAD_CALLS)
def test_a_simulated_load_that_fails_anywhere_gives_everything_back(acl: Any, tmp_path: Path, call: str) -> None:
    acl.MACHINE.faults[call] = 207001
    with pytest.raises(BackendError, match=rf"retry: acl\.{call} failed with 207001 \(no device memory; ") as caught:
        load(tmp_path, GOOD)
    assert caught.value.code == "backend_unavailable"
    assert acl.MACHINE.alive() == {}
    acl.MACHINE.faults.clear()
    load(tmp_path, GOOD).close()


@pytest.mark.parametrize("call", ["create_desc", "create_dataset"])
def test_a_simulated_handle_that_is_not_given_fails_the_load(
    acl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(acl.mdl, call, lambda: 0)
    with pytest.raises(AclError, match=rf"retry: acl\.mdl\.{call} failed with 200000 \(no memory\)"):
        load(tmp_path, GOOD)
    assert acl.MACHINE.alive() == {}


def test_an_output_whose_shape_follows_the_simulated_batch_oddly_is_refused(
    acl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = iter([[8, 2], [1, 2]])
    monkeypatch.setattr(acl.mdl, "get_cur_output_dims", lambda *_: ({"dims": next(shapes)}, 0))
    with pytest.raises(BackendError, match="follows the batch in another way"):
        load(tmp_path, GOOD)
    assert acl.MACHINE.alive() == {}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (145002, "load_failed"),
        (507011, "load_failed"),
        (507010, "backend_unavailable"),
        (245002, "backend_unavailable"),
    ],
)
def test_a_simulated_load_says_whether_artifact_or_device_is_at_fault(
    acl: Any, tmp_path: Path, number: int, code: str
) -> None:
    acl.MACHINE.faults["mdl.load_from_file"] = number
    with pytest.raises(AclError, match=str(number)) as caught:
        load(tmp_path, GOOD)
    assert (caught.value.code, caught.value.number) == (code, number)


@pytest.mark.parametrize("call", ["rt.set_context", "rt.memcpy", "mdl.set_dynamic_batch_size", "mdl.execute"])
@pytest.mark.parametrize(
    ("number", "code"),
    [(207001, "overloaded"), (507015, "model_not_ready"), (507011, "run_failed"), (145013, "run_failed")],
)
def test_a_simulated_run_that_fails_raises_and_the_session_goes_on(
    acl: Any, tmp_path: Path, call: str, number: int, code: str
) -> None:
    session = load(tmp_path, GOOD)
    acl.MACHINE.faults[call] = number
    with pytest.raises(
        BackendError, match=rf"{AclError.family_of(number)}: acl\.{call} failed with {number} \(.*simulated message"
    ) as caught:
        session.run({"x": np.ones((1, 3), np.float32)}, ["y"])
    assert caught.value.code == code
    acl.MACHINE.faults.clear()
    assert session.run({"x": np.ones((1, 3), np.float32)}, ["y"])[0].tolist() == [[6, 60]]
    session.close()


@pytest.mark.parametrize("call", ["mdl.destroy_desc", "destroy_data_buffer", "rt.free", "rt.reset_device"])
def test_a_simulated_teardown_that_fails_is_told_and_the_rest_still_given_back(
    acl: Any, tmp_path: Path, call: str
) -> None:
    session = load(tmp_path, GOOD)
    released: list[str] = []
    acl.MACHINE.calls = released
    acl.MACHINE.faults[call] = 507899
    with pytest.raises(AclError, match=call):
        session.close()
    assert {"mdl.unload", "mdl.destroy_desc", "rt.free", "rt.free_host", "mdl.destroy_dataset"} <= set(released)
    assert released[-2:] == ["rt.destroy_context", "rt.reset_device"]
    # What the fault kept back is what this test is about: taken off the simulated host, so that it may end.
    acl.MACHINE.forget()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "does not begin as an OM"),
        (b"garbage" * 100, "does not begin as an OM"),
        (onnx_models.linear(), "does not begin as an OM"),
        (GOOD[:200], "truncated"),
        (GOOD[:300], "100012"),
        (GOOD[:-40], "545002"),
        (simulated_om(onnx_models.linear(1), soc="Ascend310B4"), "converted for this SoC"),
        (simulated_om(onnx_models.linear()), "shape ranges are not supported"),
        (simulated_om(onnx_models.linear(1), extra_input="ascend_dynamic_aipp_data"), "dynamic AIPP"),
        (simulated_om(onnx_models.linear(1), extra_input="ascend_mbatch_shape_data"), "0 sets of dynamic dims"),
        (simulated_om(onnx_models.linear(1), pad_inputs=4), "AIPP"),
        (simulated_om(onnx_models.one_op("Identity", [2], "BYTES")), "datatype 13|no fixed size"),
    ],
)
def test_an_artifact_that_cannot_run_simulated_is_refused_with_words(
    acl: Any, tmp_path: Path, content: bytes, why: str
) -> None:
    with pytest.raises(BackendError, match=why) as caught:
        load(tmp_path, content)
    assert caught.value.code == "load_failed"
    assert acl.MACHINE.alive() == {}


def test_a_missing_file_and_another_target_are_refused_simulated(acl: Any, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cannot be read"):
        AscendAcl().load(str(tmp_path), "model.om", ON_310)
    for target in ("ascend910", "cpu"):
        with pytest.raises(BackendError, match=f"not '{target}'") as caught:
            load(tmp_path, GOOD, target)
        assert caught.value.code == "backend_unavailable"
    assert acl.MACHINE.alive() == {}


def test_the_simulated_acl_is_strict(acl: Any) -> None:
    violation = acl.SimulatedContractViolation
    with pytest.raises(violation, match=r"before acl\.init"):
        acl.rt.set_device(0)
    assert acl.init() == 0
    assert acl.init() == 100002
    assert acl.rt.malloc(4, 0) == (0, 107002)
    acl.rt.set_device(0)
    pointer, _ = acl.rt.malloc(4, 0)
    for wrong in (lambda: acl.rt.free_host(pointer), lambda: acl.util.ptr_to_bytes(pointer, 4)):
        with pytest.raises(violation):
            wrong()
    data = bytes(range(8))
    with pytest.raises(violation, match="not live device memory"):
        acl.rt.memcpy(pointer, 8, acl.util.bytes_to_ptr(data), 8, 1)
    assert acl.rt.memcpy(pointer, 4, acl.util.bytes_to_ptr(data), 8, 1) == 100000
    with pytest.raises(violation, match=r"gone|not live"):
        acl.rt.memcpy(pointer, 4, acl.util.bytes_to_ptr(bytes(bytearray(4))), 4, 1)
    with pytest.raises(violation, match="still"):
        acl.finalize()
    acl.rt.free(pointer)
    with pytest.raises(violation, match="freed before"):
        acl.rt.free(pointer)
    acl.rt.reset_device(0)
    with pytest.raises(violation, match="without its"):
        acl.rt.reset_device(0)
    assert acl.finalize() == 0
    assert acl.finalize() == 100037


def test_the_simulated_acl_watches_contexts_batches_and_buffers(acl: Any, tmp_path: Path) -> None:
    session = load(tmp_path, GOOD)
    parts = (session._model, session._given, session._taken)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(acl.mdl.execute, *parts).result() == 107002
    empty = acl.mdl.create_dataset()
    with pytest.raises(acl.SimulatedContractViolation, match="0 buffers where the model has 2"):
        acl.mdl.execute(session._model, empty, session._taken)
    acl.mdl.destroy_dataset(empty)
    assert acl.mdl.set_dynamic_batch_size(session._model, session._given, session._gear_index, 3) == 145013
    other, _ = acl.rt.create_context(0)
    with pytest.raises(acl.SimulatedContractViolation, match="another context"):
        acl.mdl.execute(*parts)
    acl.rt.destroy_context(other)
    with acl.MACHINE.get("model", session._model).executing:
        with pytest.raises(acl.SimulatedContractViolation, match="twice at once"):
            session.run({"x": np.ones((1, 3), np.float32)}, ["y"])
    session.close()
    acl.rt.set_device(0)
    with pytest.raises(acl.SimulatedContractViolation, match="no live model"):
        acl.mdl.unload(session._model)
    acl.rt.reset_device(0)
