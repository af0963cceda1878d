"""Leases as a local program uses them, through the command line, on a real folder."""

from __future__ import annotations

import json
import shlex
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.adapters.local_policy import MAX_LEASES, Leases
from agent.cli.main import app
from agent.errors import PermanentError

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "leases")


def test_a_lease_is_taken_listed_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_DATA_DIR", str(tmp_path))
    runner = CliRunner()
    taken = runner.invoke(app, ["lease", "take", "30m", "--reason", "a show", "--model", "lenet", "--json"])
    lease = json.loads(taken.stdout)
    listed = json.loads(runner.invoke(app, ["lease", "list", "--json"]).stdout)
    assert listed == [lease]
    assert (lease["reason"], lease["model"]) == ("a show", "lenet")
    assert runner.invoke(app, ["lease", "give-back", lease["id"]]).exit_code == 0
    assert runner.invoke(app, ["lease", "list"]).stdout == "no leases\n"
    assert runner.invoke(app, ["lease", "give-back", lease["id"]]).exit_code == 1


def test_what_the_commands_say_of_a_lease_can_be_acted_upon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_DATA_DIR", str(tmp_path / "nowhere"))
    runner = CliRunner()
    refused = runner.invoke(app, ["lease", "take", "30m"])
    assert refused.exit_code == 1
    assert "no agent ever ran" in refused.output
    assert not (tmp_path / "nowhere").exists()
    monkeypatch.setenv("MODELFLEET_AGENT_DATA_DIR", str(tmp_path))
    said = runner.invoke(app, ["lease", "take", "30m"]).stdout.strip()
    assert runner.invoke(app, said.partition("agent ")[2].split()).exit_code == 0


def test_the_hint_of_a_lease_names_the_settings_it_was_taken_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_DATA_DIR", str(tmp_path))
    settings = tmp_path / "my agent.toml"
    settings.write_text("")
    runner = CliRunner()
    said = runner.invoke(app, ["lease", "take", "30m", "--config", str(settings)]).stdout.strip()
    words = shlex.split(said.partition("agent lease ")[2])
    assert words[-2:] == ["--config", str(settings)]
    assert runner.invoke(app, ["lease", *words]).exit_code == 0


@pytest.mark.parametrize("lease", ["nope", "no/pe", "n" * 300])
def test_a_lease_that_is_not_there_is_a_code_and_what_to_do(
    lease: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_DATA_DIR", str(tmp_path))
    gone = CliRunner().invoke(app, ["lease", "give-back", lease])
    assert gone.exit_code == 1
    assert "no_such_lease" in gone.output
    assert "agent lease list" in gone.output


def test_a_reason_cannot_steer_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_DATA_DIR", str(tmp_path))
    runner = CliRunner()
    taken = runner.invoke(app, ["lease", "take", "30m", "--reason", "a\x1b[2Jb\u202e"], color=True)
    assert taken.exit_code == 0
    assert runner.invoke(app, ["lease", "list"], color=True).stdout.endswith("a�[2Jb�\n")
    refused = runner.invoke(app, ["lease", "give-back", "\x1b[2J"], color=True)
    assert refused.exit_code == 1
    assert "\x1b" not in refused.output


@pytest.mark.parametrize("duration", ["", "30", "1w", "-5m", "99d"])
def test_a_duration_that_is_none_or_too_long_is_refused(
    duration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFLEET_AGENT_DATA_DIR", str(tmp_path))
    assert CliRunner().invoke(app, ["lease", "take", "--", duration]).exit_code != 0
    assert Leases(tmp_path / "leases").living(NOW) == []


def test_an_expired_lease_holds_nothing_and_its_file_goes(leases: Leases, tmp_path: Path) -> None:
    leases.add(NOW + timedelta(minutes=1), "short", None, NOW)
    assert len(leases.living(NOW)) == 1
    assert leases.living(NOW + timedelta(minutes=1)) == []
    assert list((tmp_path / "leases").iterdir()) == []


def test_files_that_are_no_leases_hold_nothing(leases: Leases, tmp_path: Path) -> None:
    leases.add(NOW + timedelta(minutes=1), "good", None, NOW)
    for name, content in (("a.json", b""), ("b.json", b"[" * 10_000), ("c.json", b'{"until": "soon", "reason": "x"}')):
        (tmp_path / "leases" / name).write_bytes(content)
    assert [lease.reason for lease in leases.living(NOW)] == ["good"]


def test_leases_are_bounded_in_number_and_none_reaches_outside_its_folder(leases: Leases, tmp_path: Path) -> None:
    for _ in range(MAX_LEASES):
        leases.add(NOW + timedelta(hours=1), "many", None, NOW)
    with pytest.raises(PermanentError, match="held already"):
        leases.add(NOW + timedelta(hours=1), "one more", None, NOW)
    (tmp_path / "precious.json").write_text("{}")
    with pytest.raises(PermanentError):
        leases.give_back("../precious")
    assert (tmp_path / "precious.json").exists()
