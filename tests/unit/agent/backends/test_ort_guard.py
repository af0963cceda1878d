"""ONNX Runtime falls back to the CPU silently; the backend does not let it. The vendor module is a simulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.backends import ort_providers
from agent.backends.base import BackendError, LoadOptions, TensorInfo
from agent.backends.ort import MAX_COPIED_BYTES, OnnxRuntime
from agent.backends.ort_providers import kept_engines
from agent.worker.measure import measure


class Settings:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.devices: list[Any] = []

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        assert devices
        assert options == {}
        self.devices = devices

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class SimulatedVendor(ModuleType):
    """Lists providers; its sessions really have `working` ones, and give `nodes` of the graph to some."""

    __version__ = "0.0"

    def __init__(
        self,
        working: list[str],
        *,
        also_listed: tuple[str, ...] = (),
        broken: tuple[str, ...] = (),
        nodes: dict[str, int] | None = None,
    ) -> None:
        super().__init__("onnxruntime")
        self.SessionOptions = Settings
        self.settings: list[Settings] = []
        self.fallback: list[int] = []
        self.asked: list[list[tuple[str, dict[str, str]]]] = []
        self.ran: list[int] = []
        """How many items each run had."""
        self._working, self._listed, self._broken, self._nodes = working, also_listed, broken, nodes

    def _run(self, x: Any) -> list[Any]:
        self.ran.append(len(x))
        return [np.negative(x)]

    def get_available_providers(self) -> list[str]:
        return [*self._listed, "CUDAExecutionProvider", "CPUExecutionProvider"]

    def set_default_logger_severity(self, severity: int) -> None:
        assert severity in range(5)

    def InferenceSession(
        self,
        model: Any,
        settings: Settings,
        *,
        enable_fallback: int,
        providers: list[tuple[str, dict[str, str]]] | None = None,
    ) -> SimpleNamespace:
        providers = providers or [(device.ep_name, {}) for device in settings.devices]
        self.settings.append(settings)
        self.fallback.append(enable_fallback)
        self.asked.append(providers)
        if providers[0][0] in self._broken:
            raise RuntimeError(f"simulated: create {providers[0][0]} fail")
        parts = [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count)
            for name, count in (self._nodes or {}).items()
        ]
        float_node = SimpleNamespace(name="x", type="tensor(float)", shape=[1])
        session = SimpleNamespace(
            get_providers=lambda: self._working,
            disable_fallback=lambda: None,
            get_inputs=lambda: [float_node],
            get_outputs=lambda: [SimpleNamespace(name="y", type="tensor(float)", shape=[1])],
            get_overridable_initializers=list,
            run=lambda names, feeds: self._run(feeds["x"]),
        )
        if self._nodes is not None:
            session.get_provider_graph_assignment_info = lambda: parts
        return session


CUDA, TENSORRT, CANN = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CANNExecutionProvider"
ON_GPU = LoadOptions(target="gpu")


def test_a_session_that_came_up_on_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedVendor(["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    with pytest.raises(BackendError, match="fell back to CPUExecutionProvider") as caught:
        OnnxRuntime().load("/nowhere", "model.onnx", LoadOptions(target="gpu"))
    assert caught.value.code == "backend_unavailable"
    assert vendor.fallback == [0]
    assert vendor.settings[0].entries["session.disable_cpu_ep_fallback"] == "1"
    probe = OnnxRuntime().probe()
    assert (probe.targets, probe.providers) == (("cpu",), ("CPUExecutionProvider",))
    assert "CUDAExecutionProvider is listed and does not work: onnxruntime fell back" in probe.reason


def test_a_provider_that_computes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedVendor(["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    assert OnnxRuntime().load("/nowhere", "m", LoadOptions(target="gpu")).provider == "CUDAExecutionProvider"
    probe = OnnxRuntime().probe()
    assert (probe.targets, probe.reason) == (("cpu", "gpu"), "")


@pytest.mark.parametrize("target", ["ascend310", "abacus"])
def test_a_target_without_a_provider_is_refused(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimulatedVendor([]))
    with pytest.raises(BackendError, match=f"no provider for {target}"):
        OnnxRuntime().load("/nowhere", "m", LoadOptions(target=target))


def test_without_the_package_the_probe_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    probe = OnnxRuntime().probe()
    assert not probe.usable
    assert "install the package onnxruntime" in probe.reason


def test_sessions_share_a_small_host(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedVendor(["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    OnnxRuntime().load("/nowhere", "m", LoadOptions(cores=2))
    OnnxRuntime().load("/nowhere", "m", LoadOptions(cores=2, profile="latency"))
    throughput, latency = vendor.settings
    assert (throughput.intra_op_num_threads, latency.intra_op_num_threads) == (1, 2)  # type: ignore[attr-defined]
    for settings in vendor.settings:
        assert settings.entries["session.intra_op.allow_spinning"] == "0"
        assert "session.disable_cpu_ep_fallback" not in settings.entries


def test_tensorrt_is_tried_before_cuda_when_latency_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vendor = SimulatedVendor([TENSORRT, CUDA], also_listed=(TENSORRT,))
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    engines = str(tmp_path / "engines")
    assert OnnxRuntime().load("/nowhere", "m", ON_GPU).provider == CUDA
    session = OnnxRuntime().load("/nowhere", "m", ON_GPU._replace(profile="latency", engines=engines))
    assert (session.provider, session.concurrent) == (TENSORRT, False)
    (tensorrt, options), (cuda, _) = vendor.asked[-1]
    assert (tensorrt, cuda) == (TENSORRT, CUDA)
    assert (options["trt_engine_cache_enable"], options["trt_engine_cache_path"]) == ("1", engines)
    asked = OnnxRuntime().load("/nowhere", "m", ON_GPU._replace(settings={"provider": TENSORRT}))
    assert asked.provider == TENSORRT
    assert "trt_engine_cache_path" not in vendor.asked[-1][0][1]


def test_a_provider_that_does_not_come_up_leaves_its_place_to_the_next_of_the_same_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vendor = SimulatedVendor([CUDA], also_listed=(TENSORRT,), broken=(TENSORRT,))
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    assert OnnxRuntime().load("/nowhere", "m", ON_GPU._replace(profile="latency")).provider == CUDA
    with pytest.raises(BackendError, match="TensorrtExecutionProvider does not come up") as caught:
        OnnxRuntime().load("/nowhere", "m", ON_GPU._replace(settings={"provider": TENSORRT}))
    assert caught.value.code == "backend_unavailable"
    assert "TensorrtExecutionProvider is listed and does not work" in OnnxRuntime().probe().reason


def test_who_really_got_the_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {CUDA: 3, TENSORRT: 40}
    vendor = SimulatedVendor([TENSORRT, CUDA], also_listed=(TENSORRT,), nodes=nodes)
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    options = ON_GPU._replace(settings={"provider": TENSORRT})
    assert OnnxRuntime().load("/nowhere", "m", options).provider == f"{TENSORRT} + {CUDA}"
    nodes.clear()
    nodes["CPUExecutionProvider"] = 43
    with pytest.raises(BackendError, match="was given no node: CPUExecutionProvider has them all"):
        OnnxRuntime().load("/nowhere", "m", options)


def test_an_ascend_runs_onnx_through_cann_on_the_target_of_its_chip_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedVendor([CANN], also_listed=(CANN,))
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    monkeypatch.setattr(ort_providers, "_soc_name", lambda: "Ascend310P3")
    session = OnnxRuntime().load("/nowhere", "m", LoadOptions(target="ascend310"))
    assert session.provider == CANN
    assert vendor.asked[-1] == [(CANN, {"device_id": "0", "precision_mode": "allow_fp32_to_fp16"})]
    with pytest.raises(BackendError, match="not on ascend910"):
        OnnxRuntime().load("/nowhere", "m", LoadOptions(target="ascend910"))
    assert OnnxRuntime().probe().targets == ("ascend310",)


def test_cuda_computes_fp32_in_fp32_unless_the_operator_allows_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedVendor([CUDA])
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    OnnxRuntime().load("/nowhere", "m", ON_GPU)
    assert vendor.asked[-1] == [(CUDA, {"device_id": "0", "use_tf32": "0"})]
    OnnxRuntime().load("/nowhere", "m", ON_GPU._replace(settings={"tf32": True}))
    assert vendor.asked[-1] == [(CUDA, {"device_id": "0", "use_tf32": "1"})]


def batch(*rows: float) -> dict[str, Any]:
    return {"x": np.array(rows, np.float32).reshape(-1, 1)}


def test_on_cuda_each_batch_size_has_a_session_of_its_own_and_batches_are_filled_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vendor = SimulatedVendor([CUDA])
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    session = OnnxRuntime().load("/", "m", ON_GPU._replace(independent=True))
    assert session.batch_sizes == (1, 8, 32)
    for count, sizes in ((1, [1]), (2, [8]), (8, [8]), (9, [32]), (32, [32]), (70, [32, 32, 8])):
        vendor.ran.clear()
        (result,) = session.run(batch(*range(count)), ["y"])
        assert result.ravel().tolist() == [-float(value) for value in range(count)]
        assert vendor.ran == sizes
    assert len(vendor.asked) == 3
    session.close()


def test_items_that_may_influence_each_other_are_never_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedVendor([CUDA])
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    session = OnnxRuntime().load("/", "m", ON_GPU)
    assert session.batch_sizes == (1,)
    session.run(batch(1, 2, 3), ["y"])
    assert vendor.ran == [3]
    assert len(vendor.asked) == 1


def test_a_large_model_is_not_copied_onto_the_card_for_each_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimulatedVendor([CUDA]))
    (tmp_path / "m").write_bytes(b"graph")
    with (tmp_path / "m.data").open("wb") as stream:
        stream.truncate(MAX_COPIED_BYTES)
    assert OnnxRuntime().load(str(tmp_path), "m", ON_GPU._replace(independent=True)).batch_sizes == (1,)


@pytest.mark.parametrize(("provider", "sizes"), [(TENSORRT, (1,)), ("CPUExecutionProvider", ())])
def test_other_accelerators_join_nothing_and_the_cpu_takes_any_number(
    monkeypatch: pytest.MonkeyPatch, provider: str, sizes: tuple[int, ...]
) -> None:
    vendor = SimulatedVendor([provider], also_listed=(provider,))
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    target = "cpu" if not sizes else "gpu"
    options = LoadOptions(target=target, independent=True, settings={"provider": provider})
    assert OnnxRuntime().load("/", "m", options).batch_sizes == sizes


def test_the_size_that_gives_most_items_per_second_is_found_without_timing_the_first_run_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vendor = SimulatedVendor([CUDA])
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    session = OnnxRuntime().load("/", "m", ON_GPU._replace(independent=True))
    session.inputs, session.outputs = (TensorInfo("x", "FP32", (-1, 1)),), (TensorInfo("y", "FP32", (-1, 1)),)
    assert measure(session, cores=1, cap=16, profile="throughput").max_batch == 8
    assert set(vendor.ran) <= {1, 8}
    assert measure(session, cores=1, cap=32, profile="throughput").max_batch == 32
    session.batch_sizes = (1,)
    found = measure(session, cores=1, cap=32, profile="throughput")
    assert (found.max_batch, found.verdict) == (1, "CUDAExecutionProvider runs one item at a time here")


def test_without_canns_library_the_chip_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimulatedVendor([CANN], also_listed=(CANN,)))
    with pytest.raises(BackendError, match="CANN's library does not tell the chip"):
        OnnxRuntime().load("/nowhere", "m", LoadOptions(target="ascend310"))


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimulatedVendor]:
    """A simulated plugin package beside a simulated onnxruntime that finds one GPU through it."""
    vendor: Any = SimulatedVendor(["SimulatedExecutionProvider"])
    device = SimpleNamespace(
        ep_name="SimulatedExecutionProvider", device=SimpleNamespace(type="OrtHardwareDeviceType.GPU")
    )
    vendor.libraries = []
    vendor.register_execution_provider_library = lambda name, path: vendor.libraries.append((name, path))
    vendor.get_ep_devices = lambda: [device]
    (tmp_path / "onnxruntime_ep_simulated.py").write_text(
        "def get_library_path():\n    return '/simulated.so'\n"
        "def get_ep_names():\n    return ['SimulatedExecutionProvider']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    monkeypatch.setattr(ort_providers, "_REGISTERED", {})
    monkeypatch.setattr(ort_providers, "_FAULTS", {})
    yield vendor
    sys.modules.pop("onnxruntime_ep_simulated", None)


def test_a_plugin_provider_is_registered_once_and_runs_on_its_devices_simulated(plugin: Any) -> None:
    options = ON_GPU._replace(settings={"provider": "SimulatedExecutionProvider"})
    assert OnnxRuntime().load("/nowhere", "m", options).provider == "SimulatedExecutionProvider"
    assert OnnxRuntime().load("/nowhere", "m", options).concurrent is False
    assert plugin.libraries == [("onnxruntime_ep_simulated", "/simulated.so")]
    assert plugin.settings[-1].entries["session.disable_cpu_ep_fallback"] == "1"


def test_a_plugin_that_does_not_load_or_has_no_device_says_so_simulated(plugin: Any) -> None:
    plugin.get_ep_devices = list
    assert "onnxruntime_ep_simulated is installed and of no use: it finds no device" in OnnxRuntime().probe().reason
    ort_providers._REGISTERED.clear()
    plugin.register_execution_provider_library = lambda name, path: 1 / 0
    assert "of no use: division by zero" in OnnxRuntime().probe().reason


def test_the_oldest_engines_go_when_there_are_too_many(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert kept_engines(str(tmp_path), limit=20) == str(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old"}
    with pytest.raises(BackendError, match="no place for TensorRT's engines"):
        kept_engines(str(tmp_path / "new" / "below"))
