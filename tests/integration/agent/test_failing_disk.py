"""Each write, sync and rename of a pull fails once: a clear error, nothing wrong under its name, the next try works."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import TransientError
from registry.contracts.codes import DeploymentCode
from tests.fakes.registry_simulator import RegistrySimulator, one_file_manifest
from tests.integration.agent.reconciler.test_pull import MODEL, Puller

CALLS = ("fsync", "pwrite", "replace", "mkdir", "fchmod")
DATA = MODEL[: 3 << 20]


class FailingOnce:
    """Stands in for functions of `os`; the `at`-th call of all of them fails.

    Making a folder that is there writes nothing, so it is no call that fails.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> None:
        self.calls = 0
        self.failed = ""
        self._number, self._at = number, at
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if name == "mkdir" and Path(arguments[0]).is_dir():
                return real(*arguments, **named)
            self.calls += 1
            if self.calls == self._at:
                self.failed = name
                raise OSError(self._number, os.strerror(self._number))
            return real(*arguments, **named)

        return call


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    simulator = RegistrySimulator(token="secret").start()
    yield simulator
    simulator.stop()


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EIO, DeploymentCode.DISK_ERROR), (errno.ENOSPC, DeploymentCode.INSUFFICIENT_DISK)],
    ids=["EIO", "ENOSPC"],
)
def test_each_call_that_fails_once_is_got_over(
    registry: RegistrySimulator, tmp_path: Path, number: int, code: DeploymentCode
) -> None:
    manifest = one_file_manifest(DATA)
    registry.publish(manifest, DATA)
    seen: set[str] = set()
    for at in range(1, 200):
        puller = Puller(tmp_path / str(at), registry.url)
        with pytest.MonkeyPatch.context() as patch:
            failing = FailingOnce(patch, number, at)
            try:
                puller.pull(manifest)
            except TransientError as error:
                raised: str | None = error.code
            else:
                raised = None
        if failing.failed:
            seen.add(failing.failed)
            assert raised == code, f"{failing.failed} failed as call {at}"
            for file in puller.named():
                assert file.read_bytes() == DATA
        assert puller.pull(manifest).read_bytes() == DATA
        puller.client.close()
        if not failing.failed:
            break
    assert seen == set(CALLS)
