"""The pure parts of the catalogue: differences, ranges, nesting, cursors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core.differences import differences
from registry.errors import InvalidError
from registry.server.middleware.limits import nests_deeper
from registry.server.middleware.paging import decode_cursor, encode_cursor
from registry.server.routes.blobs import UnsatisfiableRangeError, parse_range

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("ours", "theirs", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: published 1, offered 2"]),
        ({"a": 1}, {}, ["a: published 1, offered nothing"]),
        ({}, {"b": {"c": "x"}}, ['b: published nothing, offered {"c": "x"}']),
        ({"a": 1}, {"a": True}, ["a: published 1, offered true"]),
        (
            {"files": [{"path": "m.onnx", "size": 1}, {"path": "w.bin", "size": 2}]},
            {"files": [{"path": "w.bin", "size": 3}, {"path": "m.onnx", "size": 1}]},
            ["files.w.bin.size: published 2, offered 3", "files: another order"],
        ),
        ({"shape": [1, 2]}, {"shape": [1, 3]}, ["shape: published [1, 2], offered [1, 3]"]),
    ],
)
def test_each_difference_is_named_by_its_field(ours: Any, theirs: Any, lines: list[str]) -> None:
    assert list(differences(ours, theirs)) == lines


@given(json_values, json_values)
def test_there_are_differences_exactly_when_documents_differ(ours: Any, theirs: Any) -> None:
    same = json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    assert (differences(ours, theirs) == ()) is same


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-", (0, 10)),
        ("bytes=3-5", (3, 6)),
        ("bytes=3-99", (3, 10)),
        ("bytes=-4", (6, 10)),
        ("bytes=-99", (0, 10)),
        ("BYTES=1-1", (1, 2)),
        ("bytes=5-3", None),
        ("bytes=1-2,4-5", None),
        ("bytes=-", None),
        ("items=1-2", None),
        ("bytes=٣-", None),
    ],
)
def test_a_range_is_understood_or_ignored(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_a_range_after_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, 10)


@pytest.mark.parametrize(
    ("text", "deeper"),
    [
        (b"[[[]]]", False),
        (b"[[[[]]]]", True),
        (b'{"a":{"b":{"c":{}}}}', True),
        (b'["[[[[[[[["]', False),
        (b'["\\"[[[[[["]', False),
        (b"[],[],[],[]", False),
        (b'"[[[[[', False),
        (b"[[[[", True),
        (b"", False),
    ],
)
def test_nesting_is_counted_outside_of_strings(text: bytes, deeper: bool) -> None:
    assert nests_deeper(text, 3) is deeper


@given(json_values)
def test_nesting_agrees_with_the_parser(value: Any) -> None:
    def depth(item: Any) -> int:
        if isinstance(item, dict):
            return 1 + max(map(depth, item.values()), default=0)
        return 1 + max(map(depth, item), default=0) if isinstance(item, list) else 0

    text = json.dumps(value).encode()
    assert not nests_deeper(text, depth(value))
    assert depth(value) == 0 or nests_deeper(text, depth(value) - 1)


@pytest.mark.parametrize("key", ["", "lenet", 0, 7, (1 << 63) - 1])
def test_a_cursor_gives_back_its_key(key: str | int) -> None:
    assert decode_cursor(encode_cursor("models", key), "models") == key


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "AAAA", encode_cursor("aliases a", "b"), encode_cursor("models", -1), "W10", "bnVsbA"]
)
def test_what_is_no_cursor_of_the_list_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidError):
        decode_cursor(cursor, "models")
