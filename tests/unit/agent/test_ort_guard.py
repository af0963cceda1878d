"""ONNX Runtime falls back to the CPU silently; the backend does not let it. The vendor module is a simulator."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.backends.base import BackendError, LoadOptions
from agent.backends.ort import OnnxRuntime


class Settings:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class SimulatedVendor(ModuleType):
    """Lists CUDA; its sessions really have `working` providers."""

    __version__ = "0.0"

    def __init__(self, working: list[str]) -> None:
        super().__init__("onnxruntime")
        self.SessionOptions = Settings
        self.settings: list[Settings] = []
        self.fallback: list[int] = []
        self._working = working

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def set_default_logger_severity(self, severity: int) -> None:
        assert severity in range(5)

    def InferenceSession(
        self, model: Any, settings: Settings, *, providers: list[str], enable_fallback: int
    ) -> SimpleNamespace:
        self.settings.append(settings)
        self.fallback.append(enable_fallback)
        float_node = SimpleNamespace(name="x", type="tensor(float)", shape=[1])
        return SimpleNamespace(
            get_providers=lambda: self._working,
            disable_fallback=lambda: None,
            get_inputs=lambda: [float_node],
            get_outputs=lambda: [SimpleNamespace(name="y", type="tensor(float)", shape=[1])],
            run=lambda names, feeds: [np.negative(feeds["x"])],
        )


def test_a_session_that_came_up_on_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedVendor(["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    with pytest.raises(BackendError, match="fell back to CPUExecutionProvider") as caught:
        OnnxRuntime().load("/nowhere", "model.onnx", LoadOptions(target="gpu"))
    assert caught.value.code == "backend_unavailable"
    assert vendor.fallback == [0]
    assert vendor.settings[0].entries["session.disable_cpu_ep_fallback"] == "1"
    assert OnnxRuntime().probe().targets == ("cpu",)


def test_a_provider_that_computes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = SimulatedVendor(["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", vendor)
    assert OnnxRuntime().load("/nowhere", "m", LoadOptions(target="gpu")).provider == "CUDAExecutionProvider"
    assert OnnxRuntime().probe().targets == ("cpu", "gpu")


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
