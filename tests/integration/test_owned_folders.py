"""What the suite leaves in memory when it is killed is gone after the next run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.host.owned_folders import STRANGE_S, OwnedFolder
from tests.support.paths import ROOT

OWNER = """
import sys, time
from pathlib import Path
from tests.support.host.owned_folders import OwnedFolder
folder = OwnedFolder("some-", Path(sys.argv[1]))
(folder.path / "data").mkdir()
print(folder.path, flush=True)
time.sleep(60)
"""


def test_the_folder_of_a_killed_owner_is_removed_at_the_next_start_and_no_other(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        first = OwnedFolder("some-", tmp_path)
        assert (left / "data").is_dir()
        owner.kill()
    second = OwnedFolder("some-", tmp_path)
    assert not left.exists()
    assert first.path.is_dir()
    for folder in (first, second):
        folder.remove()
        assert not folder.path.exists()


@pytest.mark.parametrize(("age", "stays"), [(0.0, True), (STRANGE_S + 60, False)])
def test_a_folder_without_a_lock_stays_for_a_day(tmp_path: Path, age: float, stays: bool) -> None:
    strange = tmp_path / "some-other"
    strange.mkdir()
    then = strange.stat().st_mtime - age
    os.utime(strange, (then, then))
    OwnedFolder("some-", tmp_path).remove()
    assert strange.exists() == stays
