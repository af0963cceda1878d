"""Which registry and which token a command uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.cli.output import CliError, Output
from registry.cli.session import GlobalOptions, parse_labels
from registry.client.address import default_data_dir, find_address
from registry.client.errors import UsageFault
from registry.client.versions import split_reference
from registry.contracts.texts import size_text, visible


def test_options_come_before_the_environment_and_that_before_this_host() -> None:
    environment = {"MODELFLEET_REGISTRY": "https://there/", "MODELFLEET_TOKEN": "from-environment"}
    assert find_address("http://here:1", "t", environment=environment).url == "http://here:1"
    assert find_address(environment=environment).url == "https://there"
    assert find_address(environment=environment).token == "from-environment"
    assert find_address(environment={"HOME": "/nowhere"}).url == "http://127.0.0.1:8470"


def test_an_option_after_the_command_wins_over_one_before_it() -> None:
    before = GlobalOptions(registry="http://a", token="one", as_json=True)
    after = GlobalOptions(token_file=Path("two"))
    assert after.over(before) == GlobalOptions(registry="http://a", token_file=Path("two"), as_json=True)


def test_a_command_takes_a_token_or_a_file_with_one_but_not_both() -> None:
    with pytest.raises(UsageFault, match="not both"):
        GlobalOptions(token="t", token_file=Path("f")).address  # noqa: B018 - it raises


@pytest.mark.parametrize(
    "url", ["ftp://x", "example.org", "http://", "http://u:p@host", "http://host/?q=1", "http://[::1", "http://host:x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageFault, match="not the address"):
        find_address(url, environment={})


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "naïve"])
def test_a_token_that_would_break_a_header_is_refused(token: str) -> None:
    with pytest.raises(UsageFault, match="characters that no token has"):
        find_address(token=token, environment={})


def test_a_token_in_the_clear_over_the_network_is_noticed() -> None:
    assert find_address("http://far", "t", environment={}).sends_token_in_clear
    assert not find_address("https://far", "t", environment={}).sends_token_in_clear
    assert not find_address("http://127.0.0.1:1", "t", environment={}).sends_token_in_clear


def test_the_data_folder_follows_the_registrys_own_rules() -> None:
    assert default_data_dir({"MODELFLEET_REGISTRY_DATA_DIR": "/d"}) == Path("/d")
    assert default_data_dir({"XDG_DATA_HOME": "/x"}) == Path("/x/modelfleet/registry")
    assert default_data_dir({"HOME": "/h"}) == Path("/h/.local/share/modelfleet/registry")


def test_references_and_labels() -> None:
    assert split_reference("lenet@1.0.0") == ("lenet", "1.0.0")
    assert split_reference("lenet") == ("lenet", None)
    assert parse_labels(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    for bad in ("lenet@", "@1"):
        with pytest.raises(UsageFault):
            split_reference(bad)
    for labels in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(UsageFault):
            parse_labels(labels)


def test_text_from_elsewhere_cannot_steer_the_terminal() -> None:
    assert visible("a\x1b[2Jb\x07\x9b\u202e\u2066\u200f\ud800c\n") == "a�[2Jb������c\n"
    assert visible("naïve 模型 🚀") == "naïve 模型 🚀"


def test_for_programs_such_text_is_escaped_and_stays_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    note = "a\x1b\x9b\u202e模\n"
    Output(as_json=True).document({"note": note})
    Output(as_json=True).fail(CliError(note))
    out, err = capsys.readouterr()
    assert (json.loads(out)["note"], json.loads(err)["error"]["message"]) == (note, note)
    assert not {"\x1b", "\x9b", "\u202e"} & set(out + err)
    assert "模" in out


def test_sizes_are_said_as_people_say_them() -> None:
    assert [size_text(n) for n in (0, 999, 1500, 246_812, 3_000_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "247 kB",
        "3.0 GB",
    ]
