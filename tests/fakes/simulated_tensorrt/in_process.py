"""The simulated `tensorrt` and `cuda.bindings` in the test's own process: fresh for each use, strict at the end."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

from tests.fakes.simulated_tensorrt.plan import SIMULATED_VENDOR


@contextmanager
def simulated_tensorrt() -> Iterator[Any]:
    """The module `tensorrt`; `.GPU` is the simulated GPU. Whatever was not given back by the end raises there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _loaded():
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(str(SIMULATED_VENDOR))
        try:
            trt: Any = import_module("tensorrt")
            gpu = import_module("cuda.bindings.runtime").GPU
            trt.GPU = gpu
            yield trt
            if gpu.alive() or list(trt.ALIVE):
                gc.collect()  # what a cycle holds is given back, too
            assert gpu.alive() == {}
            assert list(trt.ALIVE) == []
        finally:
            for name in _loaded():
                del sys.modules[name]


def _loaded() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] in ("tensorrt", "cuda")]
