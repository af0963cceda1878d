"""`registry broker` and `registry clients`: what they write, keep, renew and refuse, without a registry."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from registry.authority.certificates import KeyPair, issue_client, issue_server, names_of, new_authority
from registry.authority.folder import AuthorityFolder, AuthorityFolderError
from tests.support.programs.cli import Cli

NOW = datetime(2026, 11, 28, tzinfo=timezone.utc)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path, "http://127.0.0.1:9", "")


def _set_up(cli: Cli, folder: Path, *options: str) -> Path:
    cli(
        "broker",
        "config",
        "mosquitto",
        "--host",
        "broker.example",
        "--out",
        str(folder / "out"),
        *_at(folder),
        *options,
    )
    return folder / "out"


def _at(folder: Path) -> list[str]:
    return ["--authority", str(folder / "authority")]


def test_keys_are_for_their_owner_only_and_the_settings_name_every_file(cli: Cli, tmp_path: Path) -> None:
    out = _set_up(cli, tmp_path)
    for file in (tmp_path / "authority").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "authority").stat().st_mode) == 0o700
    assert stat.S_IMODE((out / "broker.key").stat().st_mode) == 0o640
    assert stat.S_IMODE((out / "registry" / "registry.key").stat().st_mode) == 0o600
    named = [line.split()[1] for line in (out / "mosquitto.conf").read_text().splitlines() if f"{out}/" in line]
    assert named
    assert all(Path(each).is_file() for each in named)


def test_the_same_again_changes_nothing_and_a_change_runs_the_reload_command(cli: Cli, tmp_path: Path) -> None:
    mark = tmp_path / "reloaded"
    _set_up(cli, tmp_path, "--reload", f"echo again >> {mark}")
    assert mark.read_text() == "again\n"
    assert cli("broker", "update", *_at(tmp_path), "--json").document["changed"] == []
    assert mark.read_text() == "again\n"
    cli("broker", "deny", "edge-7", *_at(tmp_path))
    assert mark.read_text() == "again\nagain\n"
    assert "user edge-7\ntopic deny #\n" in (tmp_path / "out" / "devices.acl").read_text()
    cli("broker", "deny", "edge-7", "--undo", *_at(tmp_path))
    assert "edge-7" not in (tmp_path / "out" / "devices.acl").read_text()


def test_a_reload_that_fails_is_told_but_at_the_first_set_up(cli: Cli, tmp_path: Path) -> None:
    _set_up(cli, tmp_path, "--reload", "echo no such service >&2; exit 3")
    failed = cli("broker", "deny", "edge-7", *_at(tmp_path), "--json", code=1)
    assert "no such service" in failed.error["message"]
    assert "edge-7" in (tmp_path / "out" / "devices.acl").read_text()


def test_another_name_of_the_broker_gives_another_certificate_of_the_same_authority(cli: Cli, tmp_path: Path) -> None:
    out = _set_up(cli, tmp_path)
    before = (out / "broker.pem").read_bytes(), (out / "services-ca.pem").read_bytes()
    _set_up(cli, tmp_path, "--host", "10.0.0.5")
    assert (out / "broker.pem").read_bytes() != before[0]
    assert (out / "services-ca.pem").read_bytes() == before[1]


def test_an_application_gets_what_was_granted_until_it_is_removed(cli: Cli, tmp_path: Path) -> None:
    out = _set_up(cli, tmp_path)
    added = cli(
        "clients", "add", "app", "--model", "m", "--pools", "--out", str(tmp_path / "a"), *_at(tmp_path), "--json"
    )
    assert added.document["url"] == "mqtts://broker.example:8884"
    assert "user app\ntopic write modelfleet/v1/infer/m\n" in (out / "services.acl").read_text()
    assert list(cli("clients", "list", *_at(tmp_path), "--json").document["applications"]) == ["app"]
    cli("clients", "remove", "app", *_at(tmp_path))
    assert "user app" not in (out / "services.acl").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("clients", "add", "registry", "--model", "m", "--pools"), "registry's own name"),
        (("clients", "add", "app", "--model", "m"), "Whom may it ask?"),
        (("clients", "add", "a b", "--model", "m", "--pools"), "no application's name"),
        (("clients", "add", "app", "--model", "m\ntopic readwrite #", "--pools"), "no model's name"),
        (("clients", "add", "app", "--model", "m", "--device", "+"), "no device's name"),
        (("broker", "certificate", "edge/1"), "no device's name"),
    ],
)
def test_names_that_could_say_more_than_a_name_are_refused(
    cli: Cli, tmp_path: Path, command: tuple[str, ...], said: str
) -> None:
    done = cli(*command, "--out", str(tmp_path / "out"), *_at(tmp_path), "--json", code=2)
    assert said in done.error["message"]


def test_a_damaged_folder_is_named_and_not_made_again(cli: Cli, tmp_path: Path) -> None:
    _set_up(cli, tmp_path)
    (tmp_path / "authority" / "services.pem").write_text("nothing\n")
    done = cli("broker", "update", *_at(tmp_path), "--json", code=1)
    assert "services.pem" in done.error["message"]


def test_a_certificate_is_kept_only_where_key_names_authority_and_time_are_right() -> None:
    mine, other = new_authority("a", NOW), new_authority("a", NOW)
    year, month = timedelta(days=365), timedelta(days=30)
    client, server = issue_client(mine, "edge-1", NOW, year), issue_server(mine, ["b.example", "::1"], NOW, year)
    assert names_of(client, mine, NOW, month) == ("edge-1",)
    assert names_of(server, mine, NOW, month) == ("b.example", "::1")
    assert names_of(client, other, NOW, month) is None
    assert names_of(client, mine, NOW + timedelta(days=350), month) is None
    assert names_of(KeyPair(client.certificate, server.key), mine, NOW, month) is None
    assert names_of(KeyPair(b"", client.key), mine, NOW, month) is None


def test_no_certificate_outlives_its_authority() -> None:
    authority = new_authority("a", NOW)
    late = NOW + timedelta(days=3600)
    assert issue_client(authority, "edge-1", late, timedelta(days=365)).expires() == authority.expires()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = AuthorityFolder(tmp_path / "file" / "authority")
    with pytest.raises(AuthorityFolderError, match=r"file.*Not a directory"), folder.locked():
        pass
