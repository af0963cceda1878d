"""The README's two commands, and the ways to install, on a Debian that has nothing but git and this checkout.

`scripts/test-bare` runs them, in their order: each goes on with the machine that the one before it left.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator

import pytest

from tests.support.host.debian_root import CHECKOUT, DebianRoot

SUITE = os.environ.get("MODELFLEET_BARE_DEBIAN", "")
pytestmark = [
    pytest.mark.skipif(not SUITE, reason="scripts/test-bare runs these: they need root, packages and six minutes"),
    pytest.mark.timeout(1200),
]
USER = "ada"


@pytest.fixture(scope="module")
def bare() -> Iterator[DebianRoot]:
    """Root and an ordinary user have a checkout each."""
    machine = DebianRoot(SUITE)
    try:
        machine.add_checkout()
        machine.add_checkout(USER)
        yield machine
    finally:
        machine.remove()


@pytest.mark.parametrize("command", [["scripts/quickstart", "--once"], ["scripts/test"]], ids=["quickstart", "test"])
def test_an_ordinary_user_is_told_the_one_command_for_an_administrator(bare: DebianRoot, command: list[str]) -> None:
    done = bare.run(*command, user=USER)
    assert done.returncode == 69, done.stdout
    assert re.search(
        r"^ +apt-get update && apt-get install -y python3 python3-venv mosquitto", done.stdout, re.MULTILINE
    )
    assert "Traceback" not in done.stdout
    assert not (bare.root / "home" / USER / CHECKOUT / ".venv").exists()


def test_the_quick_start_as_root_sets_up_everything_and_answers_rightly(bare: DebianRoot) -> None:
    done = bare.run("scripts/quickstart", "--once")
    assert done.returncode == 0, done.stdout
    assert "all answers right" in done.stdout
    assert not (bare.root / "usr/sbin/policy-rc.d").exists()


def test_the_suite_as_root_sets_up_what_it_needs_and_passes(bare: DebianRoot) -> None:
    passes(bare.run("scripts/test", "-m", "smoke"))


def test_the_suite_as_an_ordinary_user_passes(bare: DebianRoot) -> None:
    passes(bare.run("scripts/test", "-m", "smoke", user=USER, home=f"/home/{USER}"))


def test_the_quick_start_on_a_terminal_that_is_not_utf_8_gives_no_traceback(bare: DebianRoot) -> None:
    done = bare.run("scripts/quickstart", "--once", user=USER, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stdout
    assert "all answers right" in done.stdout


def test_two_set_ups_at_a_time_make_a_damaged_environment_anew(bare: DebianRoot) -> None:
    environment = bare.root / "root" / CHECKOUT / ".venv"
    shutil.rmtree(next(environment.glob("lib/python3*/site-packages/pip")))
    done = bare.run("sh", "-c", "scripts/setup & scripts/setup; code=$?; wait $! && exit $code")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("recreating it") == 1, done.stdout
    assert bare.run(".venv/bin/python", "-m", "pip", "--version").returncode == 0
    assert bare.run("scripts/setup").stdout == ""


def passes(done: object) -> None:
    """pytest ran tests, and all that ran passed."""
    output = str(getattr(done, "stdout", ""))
    assert getattr(done, "returncode", None) == 0, output
    passed = re.search(r"(\d+) passed", output)
    assert passed, output
    assert int(passed[1]) > 100
