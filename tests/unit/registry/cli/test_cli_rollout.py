"""What `registry rollout create` and `apply` make of a command line or a file, and how states are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.cli.rollouts import app as rollout
from registry.cli.rollouts.spec import policy_body, read_spec, seconds, spec_of, waves_of
from registry.cli.rollouts.view import FOR_A_PERSON, OVER
from registry.client.errors import UsageFault
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState, Command
from registry.core.rollouts.columns import COLUMNS, counted
from registry.core.rollouts.machine import legal

PLAIN: dict[str, Any] = {"reference": "lenet@1.1.0", "fleet": "site=paris"}


def test_what_is_left_out_is_the_safe_default() -> None:
    spec = spec_of(**PLAIN)
    assert spec == RolloutSpec.model_validate(
        {"model": "lenet", "version": "1.1.0", "fleet": {"selector": "site=paris"}}
    )


def test_every_option_reaches_the_spec() -> None:
    spec = spec_of(
        **PLAIN, waves="1%,50,ring=early,100%", soak="30m,1h,2h,10m", gate=["max_failed_pct=2", "deadline_s=2h"],
        rate=30.0, max_unavailable=5, policy=policy_body(None, "10m", None, "10%"), on_failure="rollback",
        offline="wait", approval=True, start_at="2030-01-01T00:00:00Z", name="r-7", note="why", groups=["lab"],
        devices=["d1"],
    )  # fmt: skip
    assert [(w.percent, w.count, w.selector, w.soak_s) for w in spec.waves] == [
        (1, None, None, 1800), (None, 50, None, 3600), (None, None, "ring=early", 7200), (100, None, None, 600),
    ]  # fmt: skip
    assert (spec.gate.max_failed_pct, spec.gate.deadline_s) == (2.0, 7200.0)
    assert (spec.rate.devices_per_minute, spec.rate.max_unavailable) == (30.0, 5)
    assert spec.policy.probation_s == 600
    assert spec.policy.shadow is not None
    assert spec.policy.shadow.share == pytest.approx(0.1)
    assert (spec.on_failure, spec.offline.policy, spec.requires_approval) == ("rollback", "wait", True)
    assert (spec.fleet.groups, spec.fleet.devices, spec.name) == (("lab",), ("d1",), "r-7")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reference": "lenet"}, "Which version"),
        ({"fleet": None}, "say which devices"),
        ({"waves": "1%,50%"}, "the last one must be 100%"),
        ({"waves": "10%,5%,100%"}, "cumulative and must rise"),
        ({"waves": "some,100%"}, "not a wave"),
        ({"waves": "200%,100%"}, "less than or equal to 100"),
        ({"soak": "1h,2h"}, "2 times for 3 waves"),
        ({"soak": "soon"}, "not a duration"),
        ({"gate": ["max_failed=2"]}, "max_failed=2"),
        ({"gate": ["max_failed_pct=many"]}, "max_failed_pct"),
        ({"start_at": "tomorrow"}, "start_at"),
        ({"name": "A B"}, "name"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_write(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageFault) as fault:
        spec_of(**(PLAIN | changes))
    assert says in f"{fault.value.what} {' '.join(fault.value.errors)}"


def test_a_rollout_reads_the_same_from_toml_and_json(tmp_path: Path) -> None:
    body = {
        "name": "r-7",
        "model": "lenet",
        "version": "1.1.0",
        "fleet": {"selector": "*"},
        "waves": waves_of("100%", "1m"),
    }
    (tmp_path / "r.json").write_text(json.dumps(body))
    (tmp_path / "r.toml").write_text(
        'name = "r-7"\nmodel = "lenet"\nversion = "1.1.0"\nfleet = {selector = "*"}\n'
        "waves = [{percent = 100, soak_s = 60}]\n"
    )
    assert read_spec(tmp_path / "r.json") == read_spec(tmp_path / "r.toml")


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", "[" * 100_000, '{"model": "lenet"}',
             '{"name": "a", "model": "m", "version": "1", "fleet": {"selector": "*"}, "wave": []}',
             '{"model": "m", "version": "1", "fleet": {"selector": "*"}}'],
)  # fmt: skip
def test_a_file_that_is_no_rollout_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageFault):
        read_spec(tmp_path / "r.json")


def test_every_state_of_a_device_is_counted_in_one_column() -> None:
    assert sorted(state for states in COLUMNS.values() for state in states) == sorted(ActionState)
    assert sum(counted(dict.fromkeys(ActionState, 1)).values()) == len(ActionState)


def test_watching_ends_where_only_a_person_can_go_on() -> None:
    assert all(legal(state) for state in FOR_A_PERSON)
    assert not OVER & FOR_A_PERSON


def test_durations_are_seconds() -> None:
    assert [seconds(text, "x") for text in ("90", "90s", "1.5m", "2h", "1d")] == [90, 90, 90, 7200, 86400]


def test_whatever_a_status_says_one_may_do_is_a_command() -> None:
    assert {each.value for each in Command} <= {known.name for known in rollout.app.registered_commands}
