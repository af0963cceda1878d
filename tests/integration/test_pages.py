"""The commands of pages do what the pages show, run as they are printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.lib import pages
from tests.support.models.mindspore_python import PYTHON, needs_mindspore
from tests.support.paths import ROOT

RUN = ["README.md", "docs/tutorial.md", "docs/broker.md", pytest.param("docs/multi-platform.md", marks=needs_mindspore)]


@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
@pytest.mark.skipif(not shutil.which("mosquitto", path="/usr/sbin:/usr/bin"), reason="needs Mosquitto")
@pytest.mark.parametrize("page", RUN)
def test_a_page_shows_what_its_commands_print(page: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "run-page", ROOT / page],
        env={**os.environ, "MODELFLEET_MINDSPORE_PYTHON": PYTHON},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=590, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


PAGE = """\
# A page

```console
$ echo one && echo two
one
two
$ cat <<END
$HOME
END
/home/somebody
```

<!-- run: exit=3 -->
```console
$ (exit 3)
```

<!-- run: terminal=other, stays -->
```console
$ touch started && echo "ready since $(date +%H:%M:%S)" && sleep 100
ready since 12:00:00
```

<!-- run: until -->
```console
$ test -e started && echo there
there
```

<!-- run: no, it is only shown -->
```console
$ false
```

<!-- run: fresh -->
```console
$ false
```

<!-- run: file=some.txt -->
```
$HOME stays
```

```console
$ cat some.txt
$HOME stays
```

```
not run
```
"""


def faults(folder: Path, page: str) -> tuple[list[str], str]:
    """Of a page, and the page with what really came."""
    home = folder / "home" / "ada"
    home.mkdir(parents=True)
    file = folder / "page.md"
    file.write_text(page)
    env = {"HOME": str(home), "PATH": os.environ["PATH"]}
    with pages.Runner(file, {"": ["bash", "--noprofile", "--norc"]}, env, home) as runner:
        return list(runner.faults()), runner.rewritten()


def test_a_page_that_shows_what_comes_has_no_fault_and_stays_as_it_is(tmp_path: Path) -> None:
    found, rewritten = faults(tmp_path, PAGE)
    assert found == []
    assert rewritten == PAGE


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("\none\ntwo\n", "\none\nthree\n"), ("\none\ntwo\n", "\none\n"), ("exit=3", "exit=0"), ("\nthere\n", "\nhere\n")],
)
def test_a_page_that_shows_something_else_has_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    monkeypatch.setattr(pages, "STAYS_S", 2.0)
    found, rewritten = faults(tmp_path, PAGE.replace(right, wrong))
    assert len(found) == 1
    assert "page.md" in found[0]
    assert (rewritten == PAGE) == (right != "exit=3")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["a", "...", "b"], "a\n1\n2\nb", True),
        (["a", "...", "b"], "a\nb", True),
        (["a", "...", "b"], "a\n1", False),
        (["3 of ... answers"], "3 of 25 answers", True),
        (["at 2026-11-28 01:59:43 UTC, 2.3 ms"], "at 2027-01-01 10:00:00 CET, 1 s", True),
        (["edge-1  online   x"], "edge-1 online x", True),
        (["1.0.0"], "1.1.0", False),
        ([], "something", False),
        ([], "", True),
    ],
)
def test_what_may_differ_is_what_the_patterns_say(shown: list[str], printed: str, same: bool) -> None:
    assert pages.matches(shown, printed) is same
