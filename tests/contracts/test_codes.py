"""Every code that a person or a program can see has its row, with what it means and what to do."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

from registry.cli.main import COMMANDS
from registry.contracts.api.answers import STATUS_OF_CODE
from registry.contracts.codes import Code, ProblemCode, known
from tests.contracts.code_literals import code_literals

ROOT = Path(__file__).parents[2]
TABLES = tuple(Code.__subclasses__())
ROWS = tuple(chain.from_iterable(TABLES))
BETWEEN_WORKER_AND_AGENT = {"trial_timeout"}
"""Of a message that only the agent reads."""


def test_no_code_is_written_in_the_source_that_has_no_row() -> None:
    sources = chain((ROOT / "agent").rglob("*.py"), (ROOT / "registry").rglob("*.py"))
    found = code_literals(path for path in sources if path != ROOT / "registry/contracts/codes.py")
    raw = {code: places for code, places in found.items() if known(code, TABLES) is None}
    assert set(raw) <= BETWEEN_WORKER_AND_AGENT, raw


@pytest.mark.parametrize(
    "source",
    [
        "raise PermanentError('not_in_a_table', 'text')",
        "raise CliError('text', code='not_in_a_table')",
        "if error.code == 'not_in_a_table': pass",
        "if error.code in ('not_found', 'not_in_a_table'): pass",
        "class Refusal(RegistryError):\n    code = 'not_in_a_table'",
        "WHY = 'not_in_a_table'\nraise PermanentError(WHY, 'text')",
        "code = 'not_found' if here else 'not_in_a_table'",
        "send({'code': 'not_in_a_table'})",
        "_RUN_CODES = {1: 'not_in_a_table'}",
        "def fail(text, code='not_in_a_table'): pass",
    ],
)
def test_a_code_is_found_wherever_it_is_written(source: str, tmp_path: Path) -> None:
    base = "class AgentError(Exception):\n    def __init__(self, code, message): pass\n"
    (tmp_path / "a.py").write_text(f"{base}class PermanentError(AgentError): pass\n{source}\n")
    assert "not_in_a_table" in code_literals([tmp_path / "a.py"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{type(row).__name__}.{row}")
def test_a_row_has_a_word_and_two_sentences(row: Code) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]{1,63}", row)
    assert re.fullmatch(r"[A-Z`].{8,}\.", row.meaning)
    assert re.fullmatch(r"[A-Z`d].{6,}", row.action)


def test_what_to_do_names_commands_and_settings_that_there_are() -> None:
    said = "\n".join(row.action for row in ROWS)
    assert set(re.findall(r"`registry ([a-z]+)", said)) <= set(COMMANDS)
    settings = (ROOT / "docs/agent.toml").read_text()
    for section, key in re.findall(r"\b(limits|worker|policy|entry_points|registry)\.([a-z_]+) of the agent", said):
        assert re.search(rf"^\[{section}\]$(?:(?!^\[).)*^#{key} =", settings, re.MULTILINE | re.DOTALL), (section, key)
    for page in re.findall(r"docs/[a-z.-]+\b", said):
        assert (ROOT / page).exists(), page


def test_each_code_of_a_problem_document_has_a_status() -> None:
    assert set(STATUS_OF_CODE) == set(ProblemCode)
