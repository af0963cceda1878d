"""A start that takes long tells systemd that it goes on, so that it is not killed for its time limit."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from registry.server.index_progress import IndexProgress
from registry.systemd import EXTENSION_S, long_step

EXTENDED = f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1e6:.0f}\nSTATUS="


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(60)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return listener


def test_a_step_that_cannot_tell_how_far_it_is_extends_the_time_while_it_goes_on(systemd: socket.socket) -> None:
    with systemd, long_step("Changing a table", every_s=0.001):
        for _ in range(3):
            assert systemd.recv(1000).decode() == f"{EXTENDED}Changing a table"


def test_a_step_that_hangs_extends_it_only_so_long(systemd: socket.socket) -> None:
    with systemd, long_step("Hanging", every_s=0.001, most_s=0.002):
        for _ in range(3):
            systemd.recv(1000)
        systemd.settimeout(0.2)
        with pytest.raises(TimeoutError):
            systemd.recv(1000)


def test_the_making_of_the_index_says_how_far_it_is(systemd: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    progress = IndexProgress(every_s=0)
    with systemd, caplog.at_level(logging.INFO):
        progress(500, 1200)
        progress(1200, 1200)
        assert systemd.recv(1000).decode() == f"{EXTENDED}making the fleet's index: 500 of 1,200 devices"
        assert systemd.recv(1000).decode().endswith("1,200 of 1,200 devices")
    assert "500 of 1,200 devices" in caplog.text


def test_an_index_that_is_made_at_once_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        IndexProgress()(500, 500)
    assert caplog.text == ""
