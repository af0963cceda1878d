"""What scripts/setup, setup-mindspore and systemd/install make of an environment that is not whole: it is recreated."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT

WANT = "the locks of today"
BASE = getattr(sys, "_base_executable", "") or sys.executable
TRIED = {"MODELFLEET_TRIED_PYTHON": BASE}
"""Takes this one without making an environment for a trial first."""
INTERPRETER = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def shell(body: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs bash with the functions of scripts/lib in reach."""
    script = f"set -euo pipefail\n. scripts/lib/environment.sh\n{body}"
    variables = {"PATH": f"{Path(BASE).parent}:/usr/bin:/bin", **env}
    return subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as the scripts make it, with pip and nothing else."""
    folder = tmp_path_factory.mktemp("environment") / "whole"
    done = shell(f"begin_environment '{folder}' '{WANT}'; finish_environment '{folder}' '{WANT}'", **TRIED)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("script", ["setup", "quickstart"])
def test_help_is_printed_and_nothing_is_installed(script: str, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    copied = shutil.copy(ROOT / "scripts" / script, tmp_path / "scripts")
    done = subprocess.run([copied, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "xit code" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["scripts"]


def packages(folder: Path) -> Path:
    return folder / "lib" / INTERPRETER / "site-packages"


def interrupted(folder: Path) -> None:
    (folder / ".modelfleet-lock").unlink()


def without_pip(folder: Path) -> None:
    for part in packages(folder).glob("pip*"):
        shutil.rmtree(part)


def pip_in_part(folder: Path) -> None:
    shutil.rmtree(packages(folder) / "pip" / "_internal")


def emptied_by_a_power_cut(folder: Path) -> None:
    (packages(folder) / "pip" / "__main__.py").write_bytes(b"")


def package_in_part(folder: Path) -> None:
    (packages(folder) / "half-1.0.dist-info").mkdir()


def interpreter_gone(folder: Path) -> None:
    link = folder / "bin" / INTERPRETER
    target = folder / "bin" / "python"
    target.unlink()
    target.symlink_to("/nowhere/python3")
    link.unlink(missing_ok=True)


def another_version_now(folder: Path) -> None:
    (folder / "lib" / INTERPRETER).rename(folder / "lib" / "python3.1")


def no_longer_an_environment(folder: Path) -> None:
    (folder / "pyvenv.cfg").unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def folders_only(folder: Path) -> None:
    empty(folder)
    (folder / "bin").mkdir()
    (folder / "lib").mkdir()


def link_to_nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "gone")


FAULTS = [
    interrupted, without_pip, pip_in_part, emptied_by_a_power_cut, package_in_part, interpreter_gone,
    another_version_now, no_longer_an_environment, empty, folders_only, link_to_nothing,
]  # fmt: skip


def state(folder: Path, want: str = WANT, **env: str) -> subprocess.CompletedProcess[str]:
    return shell(f"environment_state '{folder}' '{want}'", **env)


def copy_in_place(made: Path, spare: Path) -> Path:
    """`made` itself, kept in `spare` to be put back: an environment works where it was made only."""
    shutil.copytree(made, spare, symlinks=True)
    return made


def test_a_whole_environment_is_left_alone(made: Path) -> None:
    done = state(made)
    assert (done.returncode, done.stdout) == (0, "")
    marker = made / "mine"
    marker.touch()
    assert state(made, "the locks of tomorrow").returncode == 3
    done = shell(f"begin_environment '{made}' '{WANT}'; finish_environment '{made}' '{WANT}'")
    assert done.returncode == 0, done.stderr
    assert marker.exists()


@pytest.mark.parametrize("damage", FAULTS, ids=lambda damage: damage.__name__)
def test_an_environment_that_is_not_whole_is_known_as_such(
    made: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    copy_in_place(made, tmp_path / "spare")
    try:
        damage(made)
        done = state(made)
        assert done.returncode == 1
        assert done.stdout.strip(), "no reason is given"
        assert done.stderr == ""
    finally:
        made.unlink() if made.is_symlink() else shutil.rmtree(made)
        shutil.copytree(tmp_path / "spare", made, symlinks=True)
    assert state(made).returncode == 0


def test_a_copy_in_another_folder_is_known_as_such(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    done = state(tmp_path / "copy")
    assert done.returncode == 1
    assert "moved or copied" in done.stdout


def test_an_interpreter_that_is_named_must_be_the_one_inside(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.99\n")
    other.chmod(0o755)
    done = state(made, PYTHON=str(other))
    assert done.returncode == 1
    assert "PYTHON names 3.99" in done.stdout
    assert state(made, PYTHON=BASE).returncode == 0


def test_what_is_not_whole_is_made_anew(made: Path) -> None:
    interpreter_gone(made)
    done = shell(f"begin_environment '{made}' '{WANT}'; finish_environment '{made}' '{WANT}'", **TRIED)
    assert done.returncode == 0, done.stderr
    assert "recreating it" in done.stderr
    assert state(made).returncode == 0
    assert subprocess.run([made / "bin" / "python", "-m", "pip", "--version"], check=False).returncode == 0


def test_a_folder_that_is_no_environment_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    done = shell(f"begin_environment '{folder}' '{WANT}'")
    assert done.returncode == 73
    assert "move it away" in done.stderr
    assert (folder / "letter.txt").read_text() == "mine"


def test_the_second_of_two_waits_for_the_first(tmp_path: Path) -> None:
    lock, order = tmp_path / "setup.lock", tmp_path / "order"
    body = f"lock_environment '{lock}'; echo in >> '{order}'; [ -e '{order}' ] && sleep 0.3; echo out >> '{order}'"
    done = shell(f"({body}) & ({body}); wait $!")
    assert done.returncode == 0, done.stderr
    assert order.read_text().split() == ["in", "out", "in", "out"]
    assert "waiting for it" in done.stderr


def test_an_interpreter_that_does_not_serve_is_refused_by_name(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = shell("ENVIRONMENT=/nowhere; ensure python", PYTHON=str(old))
    assert done.returncode == 69
    assert f"PYTHON={old} does not serve" in done.stderr


def test_what_is_missing_and_optional_is_said_and_ends_nothing() -> None:
    done = shell("apt_install() { false; }; have_mosquitto() { false; }; ensure 'mosquitto?'; echo on")
    assert done.stdout == "on\n"
    assert "missing here: the broker Mosquitto" in done.stderr
