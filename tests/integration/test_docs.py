"""What is generated is current, and what the docs link to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.lib import links
from tests.support.paths import ROOT


def test_the_generated_docs_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs", "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_link_only_to_files_and_anchors_that_are_there() -> None:
    assert links.faults_of_sources(ROOT, links.pages(ROOT)) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](missing.md)", "no such file"),
        ("[a](other.md#missing)", "no such anchor"),
        ("[a](#missing)", "no such anchor"),
        ("[a](folder)", "no such file"),
        ("[a](../outside.md)", "no such file"),
    ],
)
def test_a_link_that_leads_nowhere_is_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    root = tmp_path / "checkout"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "outside.md").write_text("# Outside\n")
    (root / "other.md").write_text("# A `heading`, twice\n\n# A heading twice\n\n```\n# missing\n```\n")
    page = root / "page.md"
    page.write_text(f"[good](other.md#a-heading-twice-1) `[code](nowhere.md)`\n\n{text}\n")
    (found,) = links.faults_of_sources(root, [page, root / "other.md"])
    assert found.endswith(fault)


def test_every_page_but_single_decisions_is_in_the_navigation_of_the_site() -> None:
    listed = set(re.findall(r'"([^"]+\.md)"', (ROOT / "docs" / "site" / "zensical.toml").read_text()))
    every = {str(page.relative_to(ROOT)) for page in links.pages(ROOT)}
    assert listed == {page for page in every if not re.match(r"docs/adr/\d", page)}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Zensical needs Python 3.11")
def test_the_site_is_built_strictly_and_fetches_nothing_from_another_host(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, ROOT / "scripts" / "site", "--folder", tmp_path],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    start = (tmp_path / "site" / "index.html").read_text()
    assert "scripts/quickstart" in start
    assert "docs/cli.html" in start
    assert "registry publish" in (tmp_path / "site" / "search.js").read_text()


@pytest.mark.parametrize(
    ("markup", "fault"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "another host"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "another host"),
        ('<img src="http://cdn.example/x.png">', "another host"),
        ('<img src="missing.png">', "no such file"),
        ('<a href="#missing">', "no such anchor"),
    ],
)
def test_a_built_page_that_fetches_from_elsewhere_or_leads_nowhere_is_a_fault(
    tmp_path: Path, markup: str, fault: str
) -> None:
    (tmp_path / "index.html").write_text(f'<a href="https://example.org/">out</a><h1 id="here"></h1>{markup}')
    assert fault in links.faults_of_site(tmp_path)[0]


def test_a_style_sheet_that_fetches_from_another_host_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "site.css").write_text("@font-face { src: url('https://fonts.example/x.woff2') }")
    assert "another host" in links.faults_of_site(tmp_path)[0]
