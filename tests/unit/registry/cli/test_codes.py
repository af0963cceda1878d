"""Every code leads to its meaning: `registry code`, a section of docs/codes.md, the last line of an error."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from registry.cli.main import app
from registry.cli.output import CliError, Output
from registry.contracts.codes import Code, DeploymentCode, JobCode
from scripts.lib import links
from tests.support.paths import ROOT

CODES = sorted({str(row) for table in Code.__subclasses__() for row in table})


def test_every_code_has_a_section_of_its_own_to_which_the_tables_link() -> None:
    page = (ROOT / "docs" / "codes.md").read_text()
    assert set(CODES) <= links.anchors(page)
    assert {f"#{code}" for code in CODES} <= set(links.links(page))


def test_a_code_of_several_tables_is_explained_for_each() -> None:
    told = CliRunner().invoke(app, ["code", "Golden_Mismatch"])
    assert told.exit_code == 0
    for row in (DeploymentCode.GOLDEN_MISMATCH, JobCode.GOLDEN_MISMATCH):
        assert row.meaning in told.stdout
        assert row.action in told.stdout


def test_a_program_gets_every_place_of_a_code() -> None:
    told = json.loads(CliRunner().invoke(app, ["--json", "code", "too_large"]).stdout)
    assert [place["table"] for place in told["places"]] == ["InferenceCode", "ProblemCode"]


def test_an_unknown_code_is_not_found_and_the_nearest_are_named() -> None:
    told = CliRunner().invoke(app, ["code", "golden_mismach"])
    assert told.exit_code == 3
    assert "golden_mismatch" in told.stderr


def test_an_error_ends_with_the_command_that_explains_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    Output().fail(CliError("It is not there", code="not_found"))
    assert capsys.readouterr().err.splitlines()[-1] == "  More about this: registry code not_found"
    Output().fail(CliError("It failed"))
    assert "registry code" not in capsys.readouterr().err
