"""From a call to its request: correlation, ids and bounds. No broker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from registry.client.devices.asking import Asking, How, InferenceRequest
from registry.client.devices.errors import BadRequestError
from registry.client.devices.requests import PendingRequest
from registry.client.devices.settings import make_settings


def made(asking: Asking, value: float = 1, model: str = "m", **more: Any) -> PendingRequest:
    asked = InferenceRequest("d", model, {"x": np.full(2, value, np.float32)}, **more)
    return asking.infer(asked, How(), now=0.0, read=lambda *_: None, done=lambda _: None)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_correlation_data_of_requests_differ_and_do_not_count(protocol: str) -> None:
    asking = Asking(make_settings("mqtt://b", protocol=protocol))
    keys = {made(asking).key for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) >= 3 + 24 for key in keys)
    assert made(asking, request_id="2").key not in keys | {b"\x09\x00\x012"}


def test_without_properties_only_the_same_request_has_the_same_correlation() -> None:
    asking, settings = Asking(make_settings("mqtt://b", protocol="3.1.1")), {"request_id": "job"}
    first = made(asking, **settings)
    again = made(asking, **settings)
    assert (first.key, first.pieces) == (again.key, again.pieces)  # a device knows it again
    others = [
        made(asking, value=2, **settings), made(asking, model="n", **settings), made(asking, request_id="job2"),
        made(asking, outputs=["y"], **settings), made(asking, version="1.0.0", **settings),
        made(Asking(make_settings("mqtt://b", protocol="3.1.1")), **settings),
    ]  # fmt: skip
    assert len({first.key, *(each.key for each in others)}) == 7


@pytest.mark.parametrize("request_id", ["x" * 257, "\ud800"])
def test_an_id_that_cannot_be_sent_is_refused(request_id: str) -> None:
    with pytest.raises(BadRequestError):
        made(Asking(make_settings("mqtt://b")), request_id=request_id)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), 2.0**32])
def test_a_time_out_that_no_message_can_have_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        How(timeout=seconds)
    asking = Asking(make_settings("mqtt://b"))
    with pytest.raises(ValueError, match="timeout"):
        asking.metadata("d", "m", timeout=seconds, now=0.0, read=lambda *_: None, done=lambda _: None)
