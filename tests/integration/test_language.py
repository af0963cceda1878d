"""One name has one meaning, and texts use the field's terms."""

from __future__ import annotations

import ast
import re
import runpy
from collections import defaultdict

from tests.support.paths import ROOT


def _classes() -> dict[str, list[str]]:
    found = defaultdict(list)
    for side in ("agent", "registry"):
        for path in sorted((ROOT / side).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(str(path.relative_to(ROOT)))
    return found


def test_a_class_name_is_defined_once() -> None:
    """Without exception: where two parts need one word, the narrower one says what it belongs to."""
    assert {name: places for name, places in _classes().items() if len(places) > 1} == {}


def test_the_glossary_names_classes_and_files_that_exist() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    classes = _classes()
    assert [name for name in re.findall(r"`([A-Z]\w+)(?:\.\w+)?`", glossary) if name not in classes] == []
    paths = re.findall(r"`((?:agent|registry)/[\w/.]+)`", glossary)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_docs_help_texts_and_docstrings_use_the_terms_of_the_field() -> None:
    banned = runpy.run_path(str(ROOT / "scripts" / "prose"))["banned"]()
    assert banned == [], "scripts/prose says what to write in place of each"
