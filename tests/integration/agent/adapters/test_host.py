"""What the agent finds out about this host, and what it tells the service manager."""

from __future__ import annotations

import os
import platform
import socket
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from agent.adapters.facts import hardware, process_stats
from registry.contracts.fit.platforms import Platform
from registry.systemd import notify, watchdog_interval_s

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def probe(folder: Path, **changes: bool) -> Platform:
    return hardware.probe_host(python_of=lambda _: Path(sys.executable), cores=2, data_dir=folder, now=NOW, **changes)


def test_facts_are_those_of_this_host(tmp_path: Path) -> None:
    facts = probe(tmp_path)
    assert (facts.os, facts.arch, facts.cpu_count) == ("linux", platform.machine(), 2)
    assert (facts.memory_bytes or 0) >= (facts.memory_free_bytes or 0) > 0
    (runtime,) = [backend for backend in facts.backends if backend.name == "onnxruntime"]
    assert runtime.usable, runtime.reason
    assert "cpu" in runtime.targets


def test_backends_are_probed_once_until_asked_to(tmp_path: Path) -> None:
    first = probe(tmp_path)
    kept = hardware.kept(tmp_path)
    assert kept is not None
    known = kept.backends[0].model_copy(update={"version": "kept"})
    hardware.keep(tmp_path, kept.model_copy(update={"backends": (known, *kept.backends[1:])}))
    assert probe(tmp_path).backends[0].version == "kept"
    assert probe(tmp_path, fresh=True).facts_digest() == first.facts_digest()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}'])
def test_a_kept_answer_that_cannot_be_read_is_probed_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "probe.json").write_text(text)
    assert probe(tmp_path).backends[0].usable


def test_an_interpreter_that_is_not_there_is_a_reason_not_an_error(tmp_path: Path) -> None:
    facts = hardware.probe_host(python_of=lambda _: tmp_path / "python", cores=1, data_dir=tmp_path, now=NOW)
    assert not facts.backends[0].usable
    assert facts.backends[0].reason


@pytest.mark.parametrize(
    ("size", "counts"),
    [(200 << 20, 200 << 20), ((200 << 20) + 4095, 200 << 20), (255 << 20, 248 << 20), (5000, 4096), (100, 0)],
)
def test_a_small_disk_counts_as_what_it_has(size: int, counts: int) -> None:
    assert hardware.rounded(size, hardware.DISK_STEP) == counts


@pytest.mark.parametrize("size", [10 << 30, (10 << 30) + (200 << 20)])
def test_disks_of_one_kind_are_of_one_size(size: int) -> None:
    assert hardware.rounded(size, hardware.DISK_STEP) == 10 << 30


def test_a_disk_that_does_not_answer_is_unknown_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(hardware.shutil, "disk_usage", refuse)
    facts = probe(tmp_path)
    assert (facts.disk_bytes, facts.disk_free_bytes) == (None, None)
    assert "disk_bytes" in facts.failed()


def test_own_memory_and_time_are_known() -> None:
    assert (process_stats.proportional_memory([os.getpid()]) or 0) > 1 << 20
    assert process_stats.cpu_seconds(os.getpid()) > 0
    assert process_stats.cpu_seconds(1 << 22) == 0
    assert process_stats.proportional_memory([]) is None


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_a_service_manager_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("", "relative", str(tmp_path / "nobody")):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")


def test_the_watchdog_is_fed_twice_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert watchdog_interval_s() == 15
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval_s() is None
    monkeypatch.delenv("WATCHDOG_PID")
    monkeypatch.delenv("WATCHDOG_USEC")
    assert watchdog_interval_s() is None
