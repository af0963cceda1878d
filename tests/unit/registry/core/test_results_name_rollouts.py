"""A recorded result names the rollout that put its version there."""

from __future__ import annotations

import json

import pytest

from registry.core.intake import describe


@pytest.mark.parametrize(
    ("header", "rollout"),
    [
        ({"model_version": "2", "parameters": {"rollout": "r-1", "variant": "cpu"}, "outputs": []}, "r-1"),
        ({"model_version": "2", "parameters": {"variant": "cpu"}, "outputs": []}, ""),
        ({"model_version": "2", "outputs": []}, ""),
        ({"parameters": {"rollout": 7}}, ""),
        ({"parameters": ["rollout"]}, ""),
    ],
)
def test_the_rollout_is_read_from_the_results_parameters(header: dict[str, object], rollout: str) -> None:
    text = json.dumps(header).encode()
    assert describe(text).rollout == rollout
    assert describe(text + b"\0" * 8, header_length=str(len(text))).rollout == rollout
