"""The wire of rollouts: the safe defaults, and refusals that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from registry.contracts.device.deployments import DeploymentProgress
from registry.contracts.device.messages import DesiredModel
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.wire import digest_of

GOLDEN = Path(__file__).parent / "golden" / "v1" / "rollout.json"
LEAST = {"model": "lenet", "version": "1.1.0", "fleet": {"selector": "site=paris"}}


@pytest.mark.parametrize("name", ["rollout", "rollout-retries"])
def test_a_golden_spec_parses_and_is_written_as_it_was(name: str) -> None:
    raw = GOLDEN.with_name(f"{name}.json").read_bytes().strip()
    assert RolloutSpec.model_validate_json(raw).canonical() == raw


def test_unknown_fields_survive_a_round_trip() -> None:
    document = {**json.loads(GOLDEN.read_bytes()), "from_the_future": {"a": [1]}}
    assert json.loads(RolloutSpec.model_validate(document).canonical())["from_the_future"] == {"a": [1]}


def test_what_is_left_out_is_the_safe_choice() -> None:
    spec = RolloutSpec.model_validate(LEAST)
    assert [wave.percent for wave in spec.waves] == [1, 10, 100]
    assert (spec.on_failure, spec.hold, spec.offline.policy) == ("pause", "before_switch", "follow_later")
    assert (spec.gate.max_failed_pct, spec.gate.max_unknown_pct, spec.gate.min_committed_pct) == (5, 5, 90)


@pytest.mark.parametrize(
    ("change", "teaches"),
    [
        ({"fleet": {}}, "say which devices"),
        ({"waves": [{"percent": 1}]}, "the last one must be 100%"),
        ({"waves": [{"percent": 50}, {"percent": 10}, {"percent": 100}]}, "cumulative and must rise"),
        ({"waves": [{"percent": 1, "count": 3}, {"percent": 100}]}, "one of percent, count, selector"),
        ({"waves": [{}, {"percent": 100}]}, "this one has none"),
        ({"waves": []}, "at least 1"),
        ({"gate": {"health": [{"metric": "nan_share", "success": 1, "failure": 0}]}}, "must not be below success"),
        ({"gate": {"shadow": {}}}, "needs policy.shadow"),
        ({"start_at": "2026-01-02T00:00:00Z", "valid_until": "2026-01-01T00:00:00Z"}, "after start_at"),
        ({"start_at": "2026-01-02T00:00:00"}, "timezone"),
        ({"start_at": "9999-12-31T00:00:00Z"}, "start_at must lie in the years"),
        ({"valid_until": "0001-01-01T00:00:00+14:00"}, "valid_until must lie in the years"),
        ({"policy": {"hold": True}}, "pausing a rollout sets it"),
        ({"rate": {"devices_per_minute": 0}}, "greater than or equal to 0.001"),
        ({"gate": {"max_failed_pct": 101}}, "less than or equal to 100"),
    ],
)
def test_a_spec_that_cannot_work_is_refused_with_what_to_do(change: dict[str, object], teaches: str) -> None:
    with pytest.raises(ValidationError, match=teaches):
        RolloutSpec.model_validate({**LEAST, **change})


def test_an_attempt_is_at_most_what_a_database_keeps() -> None:
    said = {"version": "1.0.0", "manifest": digest_of(b"")}
    assert DesiredModel.model_validate({**said, "attempt": (1 << 31) - 1}).attempt == (1 << 31) - 1
    for wire in (DesiredModel, DeploymentProgress):
        more = {"phase": "committed", "since": "2030-01-01T00:00:00Z"} if wire is DeploymentProgress else {}
        with pytest.raises(ValidationError, match="less than or equal to 2147483647"):
            wire.model_validate({**said, **more, "attempt": 1 << 31})
