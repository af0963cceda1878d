"""The units are hardened and the install script puts everything where the units look for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from fnmatch import fnmatch

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


def test_registry_and_agent_run_as_different_users_and_read_no_secret_of_each_other() -> None:
    users = {
        part: re.search(r"^User=(\S+)$", (SYSTEMD / f"modelfleet-{part}.service").read_text(), re.MULTILINE)
        for part in ("agent", "registry")
    }
    names = {part: found[1] for part, found in users.items() if found}
    assert len(set(names.values())) == 2
    declared = re.findall(r"^u (\S+) ", (SYSTEMD / "modelfleet.sysusers").read_text(), re.MULTILINE)
    assert set(declared) == set(names.values())
    rules = [line.split() for line in (SYSTEMD / "modelfleet.tmpfiles").read_text().splitlines() if line[:1] == "z"]
    groups: dict[str, str] = {}
    for _, pattern, mode, owner, group, _ in rules:  # the last that matches counts
        assert (mode, owner) == ("0640", "root")
        for name in ("agent.toml", "agent.env", "edge-1.token", "registry.toml", "registry.env", "registry-mqtt"):
            if fnmatch(f"/etc/modelfleet/{name}", pattern):
                groups[name] = group
    assert {groups[name] for name in groups if name.startswith("registry")} == {names["registry"]}
    assert {groups[name] for name in groups if not name.startswith("registry")} == {names["agent"]}


def test_the_install_script_fetches_nothing_without_a_hash() -> None:
    """Every pip that may reach an index takes hashes; the rest take files that are there."""
    calls = [line for line in (SYSTEMD / "install").read_text().splitlines() if line.strip().startswith("pip_into")]
    assert len(calls) == 4
    for call in calls:
        assert (
            "--require-hashes" in call
            or "--no-index" in call
            or ("--no-deps" in call and "--no-build-isolation" in call)
        )
    lock = (ROOT / "requirements/build.lock").read_text()
    names = [line.split("==")[0] for line in lock.splitlines() if "==" in line and not line.startswith(" ")]
    assert "hatchling" in names
    assert lock.count("--hash=sha256:") >= len(names)


def test_the_install_script_says_what_it_does_when_asked_wrongly() -> None:
    done = subprocess.run([SYSTEMD / "install"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "systemd/install agent" in done.stdout
