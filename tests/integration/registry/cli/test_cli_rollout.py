"""`registry rollout`, `group` and `webhook`, as a person and as a program use them, on a real registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.contracts import paths
from registry.contracts.fit.platforms import Platform
from tests.support.programs.cli import Cli
from tests.support.programs.fleet_registry import eventually, facts
from tests.support.programs.registry_process import RegistryProcess, publish

DEVICES = ("edge-1", "edge-2", "edge-3")
CREATE = ("rollout", "create", "lenet@1.1.0", "--fleet", "site=paris")
SPEC: dict[str, Any] = {"name": "as-code", "model": "lenet", "version": "1.1.0", "fleet": {"selector": "site=paris"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """One registry for this file, with lenet in two versions and three devices that have said what they are."""
    environment = {"MODELFLEET_REGISTRY_WEBHOOKS__ALLOW_PRIVATE": "true"}
    process = RegistryProcess(tmp_path_factory.mktemp("registry"), environment).start()
    with process.client() as http:
        for version in ("1.0.0", "1.1.0"):
            publish(http, "lenet", version, version.encode()).raise_for_status()
        for number, device in enumerate(DEVICES):
            body = {"labels": {"site": "paris", "ring": "early" if number == 0 else "late"}}
            token = http.put(paths.device_path(device), json=body).raise_for_status().json()["token"]
            memory = {"memory_bytes": (2 if number == 0 else 8) << 30}
            told = Platform.model_validate(facts(arch="aarch64", **memory)).canonical()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            http.put(paths.facts_path(device), content=told, headers=headers).raise_for_status()
        http.put(paths.device_path("mute"), json={"labels": {"site": "paris"}}).raise_for_status()
    yield process
    process.stop()


@pytest.fixture
def other(cli: Cli, tmp_path: Path) -> Cli:
    """Another person's shell, who may deploy."""
    made = cli("token", "create", f"bob-{tmp_path.name}"[:60], "--scope", "deploy", "--person", "bob")
    return Cli(tmp_path, cli.url, made.out.strip())


def state(cli: Cli, name: str) -> str:
    return str(cli("rollout", "status", name, "--json").document["state"])


def running(cli: Cli, name: str, *more: str) -> None:
    """A rollout that has begun; nobody answers its offers."""
    cli(*CREATE, "--name", name, "--yes", *more)
    eventually(lambda: state(cli, name) == "running")


def test_a_plan_says_who_gets_what_and_who_cannot_and_makes_nothing(cli: Cli) -> None:
    ran = cli("rollout", "plan", "lenet@1.1.0", "--fleet", "site=paris", "--waves", "1%,100%").out
    assert "lenet@1.1.0 to 3 devices" in ran
    assert "8.6 GB" in ran, "two classes of hosts look the same"
    assert "2.1 GB" in ran
    assert "facts_unknown" in ran
    assert "mute" in ran
    plan = cli("rollout", "plan", "lenet@1.1.0", "--fleet", "site=paris", "--waves", "1%,100%", "--json").document
    assert [wave["devices"] for wave in plan["waves"]] == [1, 2]
    assert [(gap["code"], gap["devices"]) for gap in plan["nothing"]] == [("facts_unknown", ["mute"])]
    assert cli("rollout", "list", "--model", "lenet", "--json").document == []
    assert cli("rollout", "list").out == "No rollouts.\n"


def test_create_without_yes_leaves_a_draft_that_start_begins_and_delete_removes(cli: Cli) -> None:
    made = cli(*CREATE, "--name", "drafted").out
    assert "drafted is a draft. Start it: registry rollout start drafted" in made
    assert "You may: submit, delete" in cli("rollout", "status", "drafted").out
    cli("rollout", "delete", "drafted", "--yes")
    assert cli("rollout", "status", "drafted", "--json", code=3).error["code"] == "not_found"
    cli(*CREATE, "--name", "drafted")
    assert cli("rollout", "start", "drafted", "--json").document["state"] in ("planning", "scheduled", "running")
    eventually(lambda: state(cli, "drafted") == "running")
    refused = cli("rollout", "delete", "drafted", "--yes", "--json", code=4).error
    assert "abort" in refused["message"] + refused["hint"]
    assert cli("rollout", "abort", "drafted", "--yes", "--json").document["state"] in ("aborting", "aborted")
    eventually(lambda: state(cli, "drafted") == "aborted")
    status = cli("rollout", "status", "drafted").out
    assert "drafted (r-" in status
    assert "tail" not in status, "an empty tail wave says nothing"
    unnamed = cli(*CREATE, "--draft", "--json").document["id"]
    assert cli("rollout", "status", unnamed).out.startswith(f"{unnamed}: lenet@1.1.0 to")
    cli("rollout", "delete", unnamed, "--yes")


def test_a_rollout_that_nobody_would_get_fails_at_once_and_names_who_is_missing(cli: Cli) -> None:
    ran = cli("rollout", "create", "lenet@1.1.0", "--device", "mispelt", "--name", "nobody", "--yes", code=1)
    assert "mispelt" in ran.out
    assert "not_registered" in ran.out
    assert "no device would get it" in ran.err
    assert "registry rollout plan nobody" in ran.err
    assert cli("rollout", "start", "nobody", "--json", code=1).error["code"] == "plan_failed"
    cli("rollout", "delete", "nobody", "--yes")


def test_pause_resume_and_why_say_what_waits_for_whom(cli: Cli) -> None:
    running(cli, "paused", "--waves", "ring=early,100%")
    assert "paused: paused" in cli("rollout", "pause", "paused", "--note", "lunch").out
    again = cli("rollout", "pause", "paused", "--json", code=4).error
    assert "paused" in again["message"], again
    assert "resume" in json.dumps(again["errors"]), again
    why = cli("rollout", "why", "edge-2").out
    assert "edge-2 in paused: planned" in why
    assert "its rollout is paused" in why
    assert "+00:00" not in why, "times are this host's"
    assert cli("rollout", "why", "edge-2", "--json").document[0]["device"]["state"] == "planned"
    missing = cli("rollout", "why", "nobody", "--json", code=3).error
    assert missing["hint"] == "See: registry rollout list"
    assert cli("rollout", "resume", "paused", "--json").document["state"] == "running"
    eventually(lambda: "It waits for (3 at most are named):" in cli("rollout", "status", "paused").out)
    assert "counts as silent at" in cli("rollout", "status", "paused").out
    devices = cli("rollout", "devices", "paused", "--state", "offered").out
    assert "edge-1" in devices
    assert "; since" not in devices, "it stands in its own column"
    assert cli("rollout", "devices", "paused", "--trouble").out == "No device is in that state.\n"
    assert [each["device"] for each in cli("rollout", "devices", "paused", "--wave", 1, "--json").document] == [
        "edge-1"
    ]
    history = cli("rollout", "history", "paused").out
    assert "lunch" in history
    assert "pause by" in history
    causes = [entry["cause"] for entry in cli("rollout", "history", "paused", "--json").document]
    assert causes[:2] == ["resume", "pause"]
    cli("rollout", "abort", "paused", "--yes")
    eventually(lambda: state(cli, "paused") == "aborted")
    assert cli("rollout", "status", "paused", "--watch", code=1).out.startswith("paused (r-")


def test_a_command_that_is_not_legal_now_says_which_ones_are(cli: Cli) -> None:
    cli(*CREATE, "--name", "early", "--draft")
    for command in ("pause", "resume", "approve"):
        refused = cli("rollout", command, "early", *(["--yes"] if command == "approve" else []), "--json", code=4).error
        assert "draft" in refused["message"], refused
        assert "submit" in json.dumps(refused), refused
    refused = cli("rollout", "retry", "early", code=2)
    assert "Give --failed for all that failed, or --device for each one." in refused.err
    cli("rollout", "delete", "early", "--yes")


def test_an_approval_is_another_persons(cli: Cli, other: Cli) -> None:
    cli(*CREATE, "--name", "asked", "--approval", "--yes")
    eventually(lambda: state(cli, "asked") == "awaiting_approval")
    refused = cli("rollout", "approve", "asked", "--yes", "--json", code=None)
    assert refused.code in (4, 5), refused
    assert state(cli, "asked") == "awaiting_approval"
    approved = other("rollout", "approve", "asked", "--yes", "--note", "seen")
    assert "Plan " in approved.out
    eventually(lambda: state(cli, "asked") == "running")
    assert cli("rollout", "status", "asked", "--json").document["approved_by"].startswith("bob-")
    cli("rollout", "abort", "asked", "--yes")
    cli(*CREATE, "--name", "refused", "--approval", "--yes")
    eventually(lambda: state(cli, "refused") == "awaiting_approval")
    assert other("rollout", "deny", "refused", "--yes", "--json").document["state"] == "denied"


def test_applying_a_file_again_changes_nothing_and_another_content_is_refused(cli: Cli) -> None:
    file = cli.folder / "as-code.json"
    file.write_text(json.dumps(SPEC))
    first = cli("rollout", "apply", "-f", file, "--json").document
    eventually(lambda: state(cli, "as-code") == "running")
    again = cli("rollout", "apply", "-f", file, "--json").document
    assert (again["id"], again["state"]) == (first["id"], "running")
    toml = cli.folder / "as-code.toml"
    toml.write_text('name = "as-code"\nmodel = "lenet"\nversion = "1.1.0"\nfleet = {selector = "site=paris"}\n')
    assert cli("rollout", "apply", "-f", toml, "--json").document["id"] == first["id"]
    file.write_text(json.dumps({**SPEC, "rate": {"devices_per_minute": 5}}))
    refused = cli("rollout", "apply", "-f", file, "--json", code=4).error
    assert any("devices_per_minute" in difference for difference in refused["errors"]), refused
    cli("rollout", "abort", "as-code", "--yes")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "x"}, "model"),
        ({**SPEC, "waves": [{"percent": 10}]}, "the last one must be 100%"),
        ({**SPEC, "fleet": {}}, "say which devices"),
        ({**SPEC, "wave": []}, "unknown keys: wave"),
        ({key: value for key, value in SPEC.items() if key != "name"}, "needs a name"),
    ],
)
def test_a_file_that_is_no_rollout_says_what_is_wrong_in_it(cli: Cli, body: dict[str, Any], said: str) -> None:
    file = cli.folder / "bad.json"
    file.write_text(json.dumps(body))
    assert said in cli("rollout", "apply", "-f", file, code=2).err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--waves", "10%,50%"), "the last one must be 100%"),
        (("--waves", "half,100%"), "A wave is 10% or 50 (devices) or ring=canary (a label)."),
        (("--soak", "soon"), "Examples: 90s, 30m, 2h, 1d."),
        (("--gate", "max_failed=1"), "max_failed_pct"),
        (("--shadow", "some"), "Example: 10%."),
    ],
)
def test_an_option_that_cannot_be_taught_says_how_it_is_written(cli: Cli, options: tuple[str, ...], said: str) -> None:
    assert said in cli(*CREATE, *options, code=2).err.replace("\n", " ")


def test_a_group_is_made_rolled_out_to_and_kept_while_it_is_named(cli: Cli) -> None:
    assert "There are no groups." in cli("group").out
    assert cli("group", "set", "early", "--selector", "ring=early").out == "Group early has 1 device now.\n"
    assert cli("group", "--json").document[0]["count"] == 1
    assert "early" in cli("group").out
    assert "Which devices?" in cli("group", "set", "none", code=2).err
    cli("rollout", "create", "lenet@1.1.0", "--group", "early", "--name", "to-group", "--yes")
    eventually(lambda: state(cli, "to-group") == "running")
    assert "group early" in cli("rollout", "status", "to-group").out
    assert "to-group" in cli("group", "remove", "early", "--yes", code=4).err
    cli("rollout", "abort", "to-group", "--yes")
    eventually(lambda: state(cli, "to-group") == "aborted")
    cli("group", "remove", "early", "--yes")


def test_a_webhook_shows_its_secret_once(cli: Cli) -> None:
    assert "There are no webhooks." in cli("webhook").out
    made = cli("webhook", "set", "ops", "http://127.0.0.1:1/hook", "--json").document
    assert len(made["secret"]) >= 32
    assert made["secret"] not in cli("webhook", "--json").out
    again = cli("webhook", "set", "ops", "http://127.0.0.1:1/other", "--secret-out", "hook.secret")
    assert again.out == "Events go to http://127.0.0.1:1/other. The secret stays what it was.\n"
    assert "hook.secret was not written" in again.err
    cli("webhook", "remove", "ops", "--yes")
    cli("webhook", "set", "ops", "http://127.0.0.1:1/hook", "--secret-out", "hook.secret")
    assert (cli.folder / "hook.secret").stat().st_mode & 0o777 == 0o600
    assert "http://127.0.0.1:1/hook" in cli("webhook").out
    refused = cli("webhook", "set", "bad", "ftp://example.com", code=2).err
    assert "pydantic" not in refused
    assert "- url: an address begins with http:// or https://" in refused
    cli("webhook", "remove", "ops", "--yes")
    cli("webhook", "remove", "ops", "--yes", code=3)


def test_a_reader_may_look_and_not_command(cli: Cli) -> None:
    token = cli("token", "create", "looker", "--scope", "read").out.strip()
    assert cli("rollout", "list", MODELFLEET_TOKEN=token).out
    assert cli(*CREATE, "--json", code=5, MODELFLEET_TOKEN=token).error["code"] == "forbidden"


def test_the_list_stays_readable_on_a_narrow_terminal(cli: Cli) -> None:
    cli(*CREATE, "--name", "narrow", "--draft")
    for command in (("list",), ("status", "narrow"), ("plan", "narrow"), ("history", "narrow")):
        lines = cli.on_terminal("rollout", *command, columns=80).splitlines()
        assert lines
        assert max(map(len, lines)) <= 80, (command, lines)
    cli("rollout", "delete", "narrow", "--yes")
