"""Arguments that cannot be used: each is refused by its name, with what to give instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from registry.client.devices.asking import Asking, How, InferenceRequest, as_request, check_window
from registry.client.devices.settings import make_settings

URL = "mqtt://127.0.0.1"


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ({"timeout": None}, TypeError, "timeout=None: give a number of seconds"),
        ({"timeout": "5"}, TypeError, "timeout='5': give a number of seconds"),
        ({"timeout": 0}, ValueError, "timeout=0: give a number of seconds over 0"),
        ({"timeout": float("nan")}, ValueError, "timeout=nan"),
        ({"timeout": float("inf")}, ValueError, "timeout=inf"),
        ({"qos": 2}, ValueError, "qos=2: give 0 to 1"),
        ({"qos": None}, TypeError, "qos=None: give a whole number"),
        ({"retries": -1}, ValueError, "retries=-1: give at least 0"),
        ({"retries": 1.5}, TypeError, "retries=1.5: give a whole number"),
    ],
)
def test_how_a_request_is_sent(how: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as refused:
        How(**how)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("timeout", [1, 0.5, np.float32(2), np.int64(3)])
def test_every_number_of_seconds_is_a_time_out(timeout: Any) -> None:
    assert How(timeout=timeout).timeout == timeout


@pytest.mark.parametrize(
    ("window", "max_bytes", "errors", "said"),
    [
        (0, 1, "raise", "window=0: give at least 1"),
        (1, 0, "raise", "max_bytes=0: give at least 1"),
        (1, 1, "keep", "errors='keep': give 'raise' or 'return'"),
    ],
)
def test_how_many_requests_are_under_way(window: int, max_bytes: int, errors: str, said: str) -> None:
    with pytest.raises(ValueError, match="give") as refused:
        check_window(window, max_bytes, errors)
    assert str(refused.value) == said


def test_inputs_are_arrays_by_name_and_a_picture_is_a_path_or_bytes() -> None:
    with pytest.raises(TypeError, match=r"inputs is a ndarray: give a dict of arrays by the names .*\"x\": array"):
        InferenceRequest("edge-1", "lenet", np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="picture is a ndarray: give the path"):
        InferenceRequest("edge-1", "lenet", picture=np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an item of requests is a ndarray: give an InferenceRequest"):
        as_request(np.zeros(3), "edge-1", "lenet", None)


def test_a_picture_is_not_sent_as_json() -> None:
    asking = Asking(make_settings(URL))
    picture = InferenceRequest("edge-1", "lenet", picture=b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="binary=False is for inputs"):
        asking.infer(picture, How(binary=False), now=0.0, read=lambda *_: None, done=lambda _: None)


@pytest.mark.parametrize("url", ["127.0.0.1", "http://127.0.0.1", "mqtt://", "localhost:1883"])
def test_an_address_that_is_none_is_refused_with_one_that_is(url: str) -> None:
    with pytest.raises(ValueError, match=r"for instance mqtt://127\.0\.0\.1"):
        make_settings(url)


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"connect_timeout": None}, TypeError, "connect_timeout=None: give a number of seconds"),
        ({"keepalive": 65536}, ValueError, "keepalive=65536: give 1 to 65535"),
        ({"max_in_flight": 0}, ValueError, "max_in_flight=0: give at least 1"),
        ({"max_bytes_in_flight": 0}, ValueError, "max_bytes_in_flight=0: give at least 1"),
    ],
)
def test_settings_of_a_client(settings: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as refused:
        make_settings(URL, **settings)
    assert str(refused.value).startswith(said)


def test_messages_name_the_model_and_the_pool() -> None:
    asking = Asking(make_settings(URL))
    asked = InferenceRequest(pool="cameras", model="lenet", inputs={"x": np.zeros(1, np.float32)})
    request = asking.infer(asked, How(), now=0.0, read=lambda *_: None, done=lambda _: None)
    assert request.target == "model lenet of pool cameras"
