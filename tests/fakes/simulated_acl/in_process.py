"""The simulated `acl` in the test's own process: fresh for each use, and finalized strictly at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from agent.backends import ascend_acl, ascend_acl_calls
from tests.fakes.simulated_acl.om import SIMULATED_CANN


@contextmanager
def simulated_acl() -> Iterator[Any]:
    """The module `acl`. At the end runs what the backend left for the end of the process; leaks raise there."""
    finish: list[Callable[[], None]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASCEND_TOOLKIT_HOME", str(SIMULATED_CANN))
        patch.delenv("ASCEND_HOME_PATH", raising=False)
        # A host with the real one keeps it: out of sight here, back at the end.
        patch.setattr(sys, "path", [place for place in sys.path if not Path(place, "acl").exists()])
        for name in _loaded():
            patch.delitem(sys.modules, name)
        patch.setattr(ascend_acl_calls.atexit, "register", lambda call, *given: finish.append(lambda: call(*given)))
        process = ascend_acl_calls._Process()
        for module in (ascend_acl, ascend_acl_calls):
            patch.setattr(module, "PROCESS", process)
        try:
            ascend_acl_calls.vendor()
            acl = import_module("acl")
            yield acl
            for call in finish:
                call()
            assert acl.MACHINE.alive() == {}
            assert acl.MACHINE.finished is acl.MACHINE.started
        finally:
            for name in _loaded():
                del sys.modules[name]


def _loaded() -> list[str]:
    return [name for name in sys.modules if name == "acl" or name.startswith("acl.")]
