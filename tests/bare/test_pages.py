"""The README's round by hand and the tutorial, as printed, on a Debian that has nothing but git and this checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from scripts.lib import pages
from tests.support.host.debian_root import CHECKOUT, DebianRoot
from tests.support.paths import ROOT

SUITE = os.environ.get("MODELFLEET_BARE_DEBIAN", "")
pytestmark = [
    pytest.mark.skipif(not SUITE, reason="scripts/test-bare runs these: they need root, packages and three minutes"),
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module")
def machine() -> Iterator[DebianRoot]:
    """Each page has a user with a checkout of its own. Its ports are those of this host, whose network the root has."""
    made = DebianRoot(SUITE)
    try:
        yield made
    finally:
        made.remove()


@pytest.mark.parametrize(("user", "page"), [("ada", "README.md"), ("grace", "docs/tutorial.md")])
def test_a_page_works_as_printed_on_a_machine_that_has_nothing(machine: DebianRoot, user: str, page: str) -> None:
    machine.add_checkout(user)
    home = f"/home/{user}"
    env = {**machine.variables, "HOME": home, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    bash = ("bash", "--noprofile", "--norc")
    shells = {
        "": machine.argv(*bash, user=user, folder=f"{home}/{CHECKOUT}", **env),
        "root": machine.argv(*bash, **{**env, "HOME": "/root"}),
    }
    with pages.Runner(ROOT / page, shells, dict(os.environ), ROOT, fresh=True) as runner:
        assert list(runner.faults()) == []
