"""What the MindSpore backend adds to MindSpore: names, shapes, words. No MindSpore here; the cell is a simulator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agent.backends.base import BackendError, TensorInfo
from agent.backends.catalog import CATALOG
from agent.backends.mindspore_graph import MindSpore, MindSporeSession, first_line, named
from agent.config.sections import WorkerSettings

A, B = TensorInfo("a", "FP32", (-1, 2)), TensorInfo("b", "FP32", (3,))
X = np.ones((5, 2), np.float32)
SAID = """\
----------------------------------------------------
- Memory not enough:
----------------------------------------------------
Device(id:0) memory isn't enough and alloc failed, kernel name: Conv2D, alloc size: 18816B.

----------------------------------------------------
- C++ Call Stack: (For framework developers)
----------------------------------------------------
mindspore/ccsrc/runtime/graph_scheduler/graph_scheduler.cc:1200 Run
"""


class SimulatedTensor:
    """As mindspore.Tensor: made from an array, gives one back."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def asnumpy(self) -> Any:
        return self.array


def session(cell: Callable[..., Any], outputs: tuple[TensorInfo, ...] = (A,)) -> MindSporeSession:
    return MindSporeSession(cell, SimulatedTensor, "MindSpore CPU", (A,), outputs)


def test_the_catalogue_has_it_for_mindir_and_checkpoints_only() -> None:
    assert CATALOG["mindspore"].formats == ("mindir", "mindspore-ckpt")


def test_without_mindspore_the_probe_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mindspore", None)
    probe = MindSpore().probe()
    assert not probe.usable
    assert "worker.interpreters" in probe.reason


def test_the_manifests_names_are_given_in_order() -> None:
    assert [tensor.name for tensor in named((A, B), ("x", "y"))] == ["x", "y"]
    assert named((A, B), ("x", "y"))[1].shape == B.shape


@pytest.mark.parametrize("names", [(), ("x",), ("b", "a"), ("x", "y", "z")])
def test_names_stay_when_the_manifest_has_none_others_in_number_or_the_same(names: tuple[str, ...]) -> None:
    assert named((A, B), names) == (A, B)


@pytest.mark.parametrize("shape", [(5, 3), (2,), (1, 5, 2)])
def test_a_shape_that_mindspore_might_take_in_silence_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BackendError, match=r"input 'a' has shape \[-1, 2\]") as refused:
        session(lambda x: x).run({"a": np.zeros(shape, np.float32)}, ["a"])
    assert refused.value.code == "run_failed"


def test_outputs_come_in_the_order_that_was_asked_for() -> None:
    both = session(lambda x: (SimulatedTensor(x.array + 1), SimulatedTensor(x.array - 1)), (A, B))
    less, more = both.run({"a": X}, ["b", "a"])
    assert (less.max(), more.min()) == (0.0, 2.0)


def test_an_input_is_a_copy_because_its_slot_is_filled_again() -> None:
    held = []

    def cell(x: SimulatedTensor) -> SimulatedTensor:
        held.append(x.array)
        return x

    mine = X.copy()
    session(cell).run({"a": mine}, ["a"])
    mine[:] = 7
    assert held[0].tolist() == X.tolist()


def test_another_number_of_outputs_than_declared_is_a_failed_run() -> None:
    with pytest.raises(BackendError, match="gave 2 outputs, its file declares 1"):
        session(lambda x: (x, x)).run({"a": X}, ["a"])


def test_what_mindspore_throws_is_a_failed_run_in_its_words() -> None:
    def cell(_: SimulatedTensor) -> SimulatedTensor:
        raise RuntimeError(SAID)

    with pytest.raises(BackendError, match="memory isn't enough") as refused:
        session(cell).run({"a": X}, ["a"])
    assert refused.value.code == "run_failed"


def test_its_call_stacks_and_rules_are_left_out() -> None:
    text = first_line(RuntimeError(SAID))
    assert text.startswith("Memory not enough: Device(id:0)")
    assert "Call Stack" not in text
    assert "graph_scheduler" not in text
    assert first_line(RuntimeError("")) == "RuntimeError"
    assert len(first_line(RuntimeError("word " * 1000))) <= 400


def test_it_never_runs_in_two_threads() -> None:
    assert not session(lambda x: x).concurrent


def test_a_backend_may_have_a_python_of_its_own() -> None:
    settings = WorkerSettings.model_validate({"interpreter": "/a/python", "interpreters": {"mindspore": "/b/python"}})
    assert str(settings.python("mindspore")) == "/b/python"
    assert str(settings.python("onnxruntime")) == "/a/python"


def test_a_python_for_a_backend_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no backend is named mindspre; there are onnxruntime, mindspore"):
        WorkerSettings.model_validate({"interpreters": {"mindspre": "/b/python"}})
