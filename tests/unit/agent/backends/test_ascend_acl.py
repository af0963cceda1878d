"""The ACL backend against a SIMULATED pyACL that checks the documented contract. Nothing here ran on an Ascend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from agent.backends import ascend_acl
from agent.backends.ascend_acl import AclSession, AscendAcl, target_of
from agent.backends.base import BackendError, LoadOptions, TensorInfo
from tests.fakes.simulated_acl.in_process import simulated_acl
from tests.fakes.simulated_acl.om import SIMULATED_SOC, simulated_om
from tests.support.models import onnx_models

Load = Callable[..., AclSession]
ON_310 = LoadOptions(target="ascend310", independent=True)


@pytest.fixture
def acl() -> Iterator[Any]:
    with simulated_acl() as module:
        yield module


@pytest.fixture
def load(acl: Any, tmp_path: Path) -> Iterator[Load]:
    """Loads an OM's bytes; all sessions are closed before ACL is finalized."""
    sessions: list[AclSession] = []

    def _load(content: bytes, options: LoadOptions = ON_310) -> AclSession:
        (tmp_path / "model.om").write_bytes(content)
        sessions.append(AscendAcl().load(str(tmp_path), "model.om", options))
        return sessions[-1]

    yield _load
    acl.MACHINE.faults.clear()
    for session in sessions:
        session.close()


def ones(batch: int) -> dict[str, Any]:
    return {"x": np.ones((batch, 3), np.float32)}


def test_a_simulated_probe_names_the_soc_and_its_target_and_gives_the_device_back(acl: Any) -> None:
    probe = AscendAcl().probe()
    assert (probe.usable, probe.reason) == (True, "")
    assert (probe.targets, probe.providers, probe.version) == (("ascend310",), (SIMULATED_SOC,), "pyACL 0.0.0")
    assert acl.MACHINE.alive() == {}
    assert AscendAcl().probe() == probe
    assert acl.MACHINE.calls.count("init") == 1


@pytest.mark.parametrize(
    ("soc", "target"),
    [
        *[(name, "ascend310") for name in ("Ascend310", "Ascend310P3", "Ascend310B4")],
        *[(name, "ascend910") for name in ("Ascend910A", "Ascend910B4-1", "Ascend910_9391")],
        *[(name, None) for name in ("Ascend950PR", "Ascend3100", "Tesla", "")],
    ],
)
def test_the_target_follows_the_socs_name(soc: str, target: str | None) -> None:
    assert target_of(soc) == target


def test_without_cann_the_probe_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acl", None)
    probe = AscendAcl().probe()
    assert not probe.usable
    assert "pyACL cannot be imported" in probe.reason
    assert "set_env.sh" in probe.reason


def test_another_module_named_acl_is_not_taken_for_pyacl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acl", ModuleType("acl"))
    probe = AscendAcl().probe()
    assert not probe.usable
    assert "is not CANN's pyACL" in probe.reason


@pytest.mark.parametrize("call", ["init", "rt.get_device_count", "rt.set_device", "get_version"])
def test_a_simulated_device_that_fails_the_probe_is_unusable_with_the_vendors_number(acl: Any, call: str) -> None:
    acl.MACHINE.faults[call] = 507899
    probe = AscendAcl().probe()
    assert not probe.usable
    assert f"device_unhealthy: acl.{call} failed with 507899 (an internal error of the driver" in probe.reason


def test_a_simulated_host_without_devices_is_unusable(acl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acl.rt, "get_device_count", lambda: (0, 0))
    assert "no Ascend device" in AscendAcl().probe().reason
    monkeypatch.undo()
    monkeypatch.setattr(acl, "get_soc_name", lambda: None)
    assert "does not know the SoC's name" in AscendAcl().probe().reason
    monkeypatch.setattr(acl, "get_soc_name", lambda: "Ascend950PR")
    assert "neither an Ascend 310 nor a 910" in AscendAcl().probe().reason


def test_the_version_is_canns_where_its_file_says_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / f"{ascend_acl.platform.machine()}-linux"
    folder.mkdir()
    (folder / "ascend_nnrt_install.info").write_text("package_name=Ascend-cann-nnrt\nversion=8.0.RC1\narch=x\n")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(tmp_path))
    assert ascend_acl._cann_version() == "8.0.RC1"


def test_a_static_simulated_model_computes(load: Load) -> None:
    session = load(simulated_om(onnx_models.linear(2)))
    assert session.inputs == (TensorInfo("x", "FP32", (2, 3)),)
    assert session.outputs == (TensorInfo("y", "FP32", (2, 2)),)
    assert (session.provider, session.concurrent) == (SIMULATED_SOC, False)
    (result,) = session.run({"x": np.array([[1, 0, 0], [1, 1, 1]], np.float32)}, ["y"])
    assert result.tolist() == [[1, 10], [6, 60]]


def test_a_simulated_dynamic_batch_runs_on_its_gears_and_pads_between_them(acl: Any, load: Load) -> None:
    session = load(simulated_om(onnx_models.linear(), gears=(1, 4, 8)))
    assert session.inputs == (TensorInfo("x", "FP32", (-1, 3)),)
    assert session.outputs == (TensorInfo("y", "FP32", (-1, 2)),)
    for batch in (8, 1, 3, 4, 5):
        given = np.arange(batch * 3, dtype=np.float32).reshape(batch, 3)
        (result,) = session.run({"x": given}, ["y"])
        assert result.tolist() == (given @ np.array([[1, 10], [2, 20], [3, 30]])).tolist()
    assert acl.MACHINE.calls.count("mdl.set_dynamic_batch_size") == 3 + 5


def test_nothing_is_padded_on_the_simulated_device_unless_items_are_independent(acl: Any, load: Load) -> None:
    session = load(simulated_om(onnx_models.linear(), gears=(1, 4)), LoadOptions(target="ascend310"))
    for batch in (1, 4):
        assert session.run(ones(batch), ["y"])[0].tolist() == [[6, 60]] * batch
    with pytest.raises(BackendError, match="only where items are declared independent") as caught:
        session.run(ones(3), ["y"])
    assert caught.value.code == "wrong_shape"


def test_padding_on_the_simulated_device_is_zeros_not_what_an_earlier_request_left(load: Load) -> None:
    session = load(simulated_om(onnx_models.sum_over_items(), gears=(2, 4)))
    session.run({"x": np.full((4, 1), 1000, np.float32)}, ["y"])
    assert session.run({"x": np.full((3, 1), 4, np.float32)}, ["y"])[0].tolist() == [[1], [1], [1]]


@pytest.mark.parametrize("batch", [0, 9])
def test_a_batch_that_no_simulated_gear_holds_is_refused(load: Load, batch: int) -> None:
    session = load(simulated_om(onnx_models.linear(), gears=(4, 8)))
    with pytest.raises(BackendError, match="converted for 4, 8") as caught:
        session.run(ones(batch), ["y"])
    assert caught.value.code == "wrong_shape"
    assert session.run(ones(2), ["y"])[0].tolist() == [[6, 60], [6, 60]]


@pytest.mark.parametrize(
    ("feeds", "code"),
    [
        ({}, "missing_input"),
        ({"x": np.ones((2, 3), np.float64)}, "wrong_datatype"),
        ({"x": np.ones((2, 4), np.float32)}, "wrong_shape"),
        ({"x": np.ones((3, 3), np.float32)}, "wrong_shape"),
        ({"x": np.ones(6, np.float32)}, "wrong_shape"),
    ],
)
def test_nothing_of_the_wrong_size_reaches_the_simulated_device(
    acl: Any, load: Load, feeds: dict[str, Any], code: str
) -> None:
    session = load(simulated_om(onnx_models.linear(2)))
    with pytest.raises(BackendError) as caught:
        session.run(feeds, ["y"])
    assert caught.value.code == code
    assert "rt.memcpy" not in acl.MACHINE.calls


def test_an_output_that_is_no_batch_is_never_padded_simulated(load: Load) -> None:
    session = load(simulated_om(onnx_models.one_op("ReduceSum", ["N", 3], out_shape=[1, 1]), gears=(2, 4)))
    assert session.outputs == (TensorInfo("y", "FP32", (1, 1)),)
    assert session.run(ones(4), ["y"])[0].tolist() == [[12]]
    with pytest.raises(BackendError, match="a batch of 3 does not fit"):
        session.run(ones(3), ["y"])


def test_a_process_on_the_simulated_devices_own_cpu_copies_within_the_device(acl: Any, load: Load) -> None:
    acl.MACHINE.on_device = True
    assert load(simulated_om(onnx_models.linear(1))).run(ones(1), ["y"])[0].tolist() == [[6, 60]]


def test_threads_take_turns_and_each_binds_the_simulated_context(acl: Any, load: Load) -> None:
    session = load(simulated_om(onnx_models.linear(1)))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda value: session.run({"x": np.full((1, 3), value, np.float32)}, ["y"]), range(50)))
    assert [result.tolist() for (result,) in results] == [[[6 * value, 60 * value]] for value in range(50)]
    assert acl.MACHINE.calls.count("mdl.execute") == 50
    with ThreadPoolExecutor(1) as pool:
        pool.submit(session.close).result()


def test_the_simulated_device_executes_only_under_the_sessions_lock(
    acl: Any, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, execute, locked = load(simulated_om(onnx_models.linear(1))), acl.mdl.execute, []

    def watch(*arguments: int) -> Any:
        locked.append(session._lock.locked())
        return execute(*arguments)

    monkeypatch.setattr(acl.mdl, "execute", watch)
    session.run(ones(1), ["y"])
    assert locked == [True]


def test_inputs_that_are_not_contiguous_arrive_in_order_simulated(load: Load) -> None:
    session = load(simulated_om(onnx_models.linear(2)))
    given = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))[::2]
    assert session.run({"x": given}, ["y"])[0].tolist() == [[8, 80], [44, 440]]


def test_two_simulated_models_share_the_device_and_the_last_one_resets_it(acl: Any, load: Load) -> None:
    one, other = load(simulated_om(onnx_models.linear(1))), load(simulated_om(onnx_models.linear(2)))
    one.close()
    assert acl.MACHINE.alive()["device"] == 1
    assert other.run(ones(2), ["y"])[0].shape == (2, 2)
    other.close()
    other.close()
    assert acl.MACHINE.alive() == {}
    assert "finalize" not in acl.MACHINE.calls
    with pytest.raises(BackendError, match="closed"):
        one.run(ones(1), ["y"])
