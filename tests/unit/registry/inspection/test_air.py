"""AIR is told by its content, as the published source of Graph Engine writes it. The bytes are made here, by hand."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.inspection import air
from tests.support.models.protobuf import message, number


def operator(kind: str) -> bytes:
    return message(6, message(1, "some_name") + message(2, kind) + message(5, "other:0") + number(21, 1))


GRAPH = message(1, "graph_1") + message(4, "x:0") + message(5, "y:0") + operator("Data") + operator("Conv2D")
ATTRIBUTE = message(11, message(1, "memory_size") + message(2, number(3, 0)))


def found(data: bytes) -> set[str]:
    return set(air.operators(BytesIO(data), len(data)))


def test_the_operators_of_all_graphs_are_read() -> None:
    assert found(message(7, GRAPH) + ATTRIBUTE) == {"Data", "Conv2D"}
    assert found(message(1, "model") + number(2, 1) + message(7, GRAPH) + message(7, operator("Relu"))) == {
        "Data",
        "Conv2D",
        "Relu",
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ATTRIBUTE,
        message(7, b""),
        message(7, message(1, "graph without operators")),
        message(7, message(6, message(1, "operator without a type"))),
        message(7, operator("no identifier")),
        message(7, message(6, message(2, b"\xff\xfe"))),
        message(7, GRAPH) + message(8, b""),
        message(7, GRAPH + message(2, "what an ONNX graph calls its name")),
        number(1, 9) + message(7, GRAPH),
        (message(7, GRAPH) + ATTRIBUTE)[:-1],
    ],
)
def test_what_has_another_form_is_not_taken_for_air(data: bytes) -> None:
    assert found(data) == set()


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda raw: message(7, operator("Data") + raw)))
def test_any_bytes_end_in_an_answer(data: bytes) -> None:
    assert "no identifier" not in found(data)
