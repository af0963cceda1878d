"""The outermost fields of protobuf bytes."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from registry.inspection.protobuf import NotProtobufError, TruncatedError, outer_fields


def fields(data: bytes) -> list[tuple[int, int]]:
    return [(field.number, field.length) for field in outer_fields(BytesIO(data), len(data))]


def test_an_onnx_model_is_its_ir_version_graph_and_opsets() -> None:
    model = helper.make_model(helper.make_graph([], "g", [], []), ir_version=9)
    assert fields(model.SerializeToString())[:1] == [(1, 9)]
    assert 7 in [number for number, _ in fields(model.SerializeToString())]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_cut_file_is_seen_without_reading_its_contents(cut: int) -> None:
    whole = helper.make_model(helper.make_graph([], "a-long-name-of-a-graph", [], [])).SerializeToString()
    with pytest.raises(TruncatedError):
        fields(whole[: len(whole) - cut])


@given(st.binary(max_size=200))
def test_any_bytes_end_in_fields_or_in_a_refusal(data: bytes) -> None:
    try:
        found = fields(data)
    except NotProtobufError:
        return
    assert len(found) <= len(data)
