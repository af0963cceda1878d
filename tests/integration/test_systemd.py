"""The units are hardened and the install script puts everything where the units look for it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.support.paths import ROOT

SYSTEMD = ROOT / "systemd"
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


@needs_systemd
@pytest.mark.parametrize("unit", ["modelfleet-agent.service", "modelfleet-registry.service"])
def test_the_exposure_of_a_unit_is_at_most_1_5(unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(SYSTEMD / unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 1.5


@pytest.mark.parametrize("part", ["agent", "registry"])
def test_a_unit_restarts_within_limits_and_is_watched(part: str) -> None:
    text = (SYSTEMD / f"modelfleet-{part}.service").read_text()
    for setting in ("Type=notify", "WatchdogSec=", "Restart=on-failure", "StartLimitBurst=", "TimeoutStopSec="):
        assert setting in text


def test_the_install_script_says_what_it_does_when_asked_wrongly() -> None:
    done = subprocess.run([SYSTEMD / "install"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "systemd/install agent" in done.stdout
