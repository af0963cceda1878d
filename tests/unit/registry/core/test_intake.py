"""What a device sends is stored only when it is what its topic promises, and speaks of that device."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from registry.contracts.device.messages import MAX_CONTROL_BYTES, Health, Presence
from registry.contracts.tensors import BINARY_MAGIC
from registry.core.intake import MAX_BODY_BYTES, Recorded, describe, read_message

NOW = datetime(2030, 5, 1, tzinfo=timezone.utc)
HEALTH: dict[str, Any] = {
    "device": "d1",
    "session_id": "s1",
    "seq": 1,
    "at": "2030-05-01T00:00:00Z",
    "window_s": 60.0,
    "uptime_s": 60.0,
}


def read(kind: str, value: Any, model: str = "") -> Any:
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_message("d1", kind, model, payload, NOW).body


def test_each_kind_is_read_as_what_it_is() -> None:
    assert isinstance(read("health", HEALTH), Health)
    assert isinstance(read("presence", {"device": "d1", "online": True, "session_id": "s"}), Presence)
    assert isinstance(read("results", b"anything", model="lenet"), Recorded)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("health", b""),
        ("health", b"{"),
        ("health", b"[" * 100_000),
        ("health", b"\xff\xfe"),
        ("health", b" " * (MAX_CONTROL_BYTES + 1)),
        ("health", HEALTH | {"device": "another"}),
        ("health", HEALTH | {"session_id": ""}),
        ("health", HEALTH | {"session_id": "s" * 65}),
        ("health", HEALTH | {"seq": 1 << 60}),
        ("health", HEALTH | {"cpu_fraction": float("nan")}),
        ("health", HEALTH | {"window_s": float("inf")}),
        ("health", HEALTH | {"temperatures_c": {"cpu": float("nan")}}),
        ("health", HEALTH | {"models": {"lenet": {"requests": 1 << 60}}}),
        ("health", HEALTH | {"models": {"lenet": {"errors": {"x": 1 << 60}}}}),
        ("health", HEALTH | {"models": {"../../x": {}}}),
        ("presence", HEALTH),
        ("desired", HEALTH),
        ("infer", HEALTH),
    ],
)
def test_poison_is_refused_with_a_reason(kind: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(kind, value)


def test_fields_that_nobody_knows_here_are_not_stored() -> None:
    taken = read_message("d1", "health", "", json.dumps(HEALTH | {"new": {"a": 1}}).encode(), NOW)
    assert "new" not in json.loads(taken.text)
    assert json.loads(taken.text)["seq"] == HEALTH["seq"]


def test_a_json_result_says_its_version_and_request() -> None:
    body = json.dumps({"model_name": "m", "model_version": "1.0.0", "id": "r1", "outputs": []}).encode()
    result = describe(body)
    assert (result.version, result.request_id, result.code, result.body) == ("1.0.0", "r1", "", body)
    assert result.content_type == "application/json"


def test_an_error_result_says_its_code() -> None:
    assert describe(b'{"error": "no", "code": "overloaded"}').code == "overloaded"


@pytest.mark.parametrize("magic", [True, False])
def test_a_binary_result_is_read_by_its_header(magic: bool) -> None:
    header = json.dumps({"model_version": "2", "id": "r2"}).encode()
    tensors = bytes(range(16))
    if magic:
        result = describe(BINARY_MAGIC + len(header).to_bytes(4, "little") + header + tensors)
    else:
        result = describe(header + tensors, header_length=str(len(header)))
    assert (result.version, result.request_id, result.header_length) == ("2", "r2", len(header))
    assert result.content_type == "application/octet-stream"


@pytest.mark.parametrize(
    ("payload", "length"),
    [
        (b"", ""),
        (b"\xff" * 10, ""),
        (b"[" * 50_000, ""),
        (b'{"model_version": "not a version!"}', ""),
        (b'{"model_version": 7, "id": {}}', ""),
        (BINARY_MAGIC + b"\xff\xff\xff\xff", ""),
        (b"{}", "999999999999"),
        (b"{}", "-1"),
        (b"{}", "3"),
    ],
)
def test_a_result_that_makes_no_sense_is_kept_as_it_is(payload: bytes, length: str) -> None:
    result = describe(payload, header_length=length)
    assert (result.version, result.request_id, result.body) == (None, "", payload)
    assert result.header_length is None


def test_a_long_result_is_kept_as_metadata_with_a_note() -> None:
    body = json.dumps({"model_version": "1", "id": "r", "data": "x" * MAX_BODY_BYTES}).encode()
    result = describe(body)
    assert (result.version, result.body, result.size) == ("1", None, len(body))
    assert str(MAX_BODY_BYTES) in result.note
