"""The command line finds the registry that runs on this host as a service, and says who may use it."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from registry.client.address import find_address
from registry.client.local_service import FOLDERS_VARIABLE, UNIT, find_service
from tests.support.paths import ROOT

TOKEN = "a" * 40


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A host with the unit of this checkout, whose data and settings lie in the test's folder; a user without any."""
    units, data = tmp_path / "units", tmp_path / "data"
    units.mkdir()
    data.mkdir(mode=0o700)
    text = (ROOT / "systemd" / UNIT).read_text(encoding="utf-8")
    text = text.replace("/etc/modelfleet", str(tmp_path)).replace("/var/lib/modelfleet-registry", str(data))
    (units / UNIT).write_text(text, encoding="utf-8")
    (data / "admin.token").write_text(TOKEN + "\n")
    (tmp_path / "registry.toml").write_text("port = 9123\n")
    return {FOLDERS_VARIABLE: str(units), "HOME": str(tmp_path / "home")}


def test_the_unit_says_where_its_data_are_and_its_settings_at_which_port_it_listens(
    environment: dict[str, str], tmp_path: Path
) -> None:
    address = find_address(environment=environment)
    assert (address.url, address.token, address.hint) == ("http://127.0.0.1:9123", TOKEN, "")
    (tmp_path / "units" / f"{UNIT}.d").mkdir()
    drop_in = tmp_path / "units" / f"{UNIT}.d" / "port.conf"
    drop_in.write_text('[Service]\nEnvironment="MODELFLEET_REGISTRY_PORT=9200"\n')
    assert find_address(environment=environment).url == "http://127.0.0.1:9200"


def test_the_token_goes_to_no_other_host(environment: dict[str, str]) -> None:
    assert find_address("https://registry.example", environment=environment).token is None


def test_what_is_named_wins_and_so_does_a_registry_of_ones_own(environment: dict[str, str], tmp_path: Path) -> None:
    named = environment | {"MODELFLEET_REGISTRY": "http://127.0.0.1:1"}
    assert find_address(environment=named).url == "http://127.0.0.1:1"
    own = tmp_path / "home" / ".local" / "share" / "modelfleet" / "registry"
    own.mkdir(parents=True)
    (own / "admin.token").write_text("b" * 40)
    address = find_address(environment=environment)
    assert (address.url, address.token) == ("http://127.0.0.1:8470", "b" * 40)


def test_who_cannot_read_the_token_is_told_which_login_can(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data" / "admin.token").unlink()
    hint = find_address(environment=environment).hint
    me = pwd.getpwuid(os.getuid())[0]
    assert f"{tmp_path / 'data' / 'admin.token'}; {me} and root (sudo -u {me} registry ...) may read it" in hint
    assert "registry token create NAME --role viewer" in hint


def test_who_cannot_read_the_token_is_told_which_group_can(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data" / "admin.token").unlink()
    (tmp_path / "data").chmod(0o750)
    group = grp.getgrgid(os.getgid())[0]
    assert f"members of the group {group} (usermod -aG {group} USER" in find_address(environment=environment).hint


def test_a_host_without_the_service_is_as_before(tmp_path: Path) -> None:
    environment = {FOLDERS_VARIABLE: str(tmp_path), "HOME": str(tmp_path)}
    assert find_service(environment) is None
    assert find_address(environment=environment).url == "http://127.0.0.1:8470"


@pytest.mark.parametrize("text", ["", "ExecStart=\nEnvironment=\n", "port = [", "\x00\xff"])
def test_a_unit_or_settings_that_cannot_be_understood_change_nothing(
    environment: dict[str, str], tmp_path: Path, text: str
) -> None:
    (tmp_path / "registry.toml").write_text(text)
    assert find_address(environment=environment).url == "http://127.0.0.1:8470"
    (tmp_path / "units" / UNIT).write_text(text)
    assert find_address(environment=environment).token is None
