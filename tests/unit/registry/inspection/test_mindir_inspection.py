"""What is read of MindIR files, and refused, without MindSpore. The bytes are made by hand."""

from __future__ import annotations

from io import BytesIO

import pytest

from registry.contracts.tensors import MAX_TENSORS
from registry.inspection import mindir
from registry.inspection.facts import InspectionError
from tests.support.models.protobuf import message, number


def mindir_of(graph: bytes, more: bytes = b"", producer: str = "MindSpore", version: str = "2.10.0") -> mindir.Content:
    data = message(1, "1.1") + message(2, producer) + message(3, version) + message(7, graph) + more
    return mindir.read(BytesIO(data), len(data), "m.mindir")


def tensor(*dims: int, code: int = 1, more: bytes = b"") -> bytes:
    return b"".join(number(1, dim) for dim in dims) + number(2, code) + more


def value(name: str, content: bytes) -> bytes:
    return message(1, name) + message(2, content)


OUTPUT = message(6, value("1_main:y", tensor(1)))
"""Of a MindIR's graph."""


def test_the_signature_is_read_with_names_of_inputs_and_places_of_outputs() -> None:
    graph = message(5, value("1_main:x", tensor(-1, 3))) + message(5, value("mask", tensor(2, code=9)))
    content = mindir_of(graph + message(6, value("1_main:CNode_2:3", tensor(-1, 10, code=10))))
    assert [(s.name, s.datatype, s.shape) for s in content.inputs] == [
        ("x", "FP32", (-1, 3)),
        ("mask", "BOOL", (2,)),
    ]
    assert [(s.name, s.datatype, s.shape) for s in content.outputs] == [("output", "FP16", (-1, 10))]


def test_inputs_of_one_name_are_numbered() -> None:
    graph = message(5, value("a:x", tensor(1))) + message(5, value("b:x", tensor(1)))
    assert [spec.name for spec in mindir_of(graph + OUTPUT).inputs] == ["input_0", "input_1"]


def test_dimensions_may_be_packed() -> None:
    packed = message(1, b"\x02\x03") + number(2, 1)
    assert mindir_of(message(5, value("x", packed)) + OUTPUT).inputs[0].shape == (2, 3)


def test_a_signature_with_an_open_rank_or_type_is_no_signature() -> None:
    for unknown in (tensor(-2), tensor(1, code=0), b""):
        graph = message(5, value("x", tensor(1))) + message(5, value("y", unknown))
        assert mindir_of(graph + OUTPUT).inputs == ()


@pytest.mark.parametrize(
    "operator", ["Custom", "Custom:12", "CustomAOT", "PyExecute", "PyFunc:3", "S-Prim-Custom", "resolve"]
)
def test_an_operator_that_runs_code_is_refused_wherever_it_is(operator: str) -> None:
    node = message(1, message(4, operator))
    inner = message(1, message(5, message(7, node)) + message(4, "If"))
    for graph, more in (
        (node, b""),
        (inner, b""),
        (b"", message(8, node)),
        (b"", message(12, message(2, operator))),
    ):
        with pytest.raises(InspectionError, match="has the operator"):
            mindir_of(graph, more)


def test_a_graph_may_be_called_as_its_author_likes() -> None:
    call = message(1, message(4, "REF::1_main_CustomNet_construct:2"))
    content = mindir_of(
        call + OUTPUT, message(8, message(2, "1_main_CustomNet_construct:2")) + message(12, message(4, "custom"))
    )
    assert content.operators == set()


def test_a_file_that_was_cut_between_two_parts_is_refused() -> None:
    calls = [message(1, message(2, "v:1") + message(4, f"REF::{name}")) for name in ("ReLU:1", "inner", "v:1", "w")]
    graph = b"".join(calls) + message(3, tensor(1, more=message(7, "w"))) + OUTPUT
    parts = [message(8, message(2, "inner")), message(12, message(1, "ReLU:1") + message(2, "ReLU"))]
    assert mindir_of(graph, b"".join(parts)).references == {"ReLU:1", "inner", "v:1", "w"}
    for left, missing in ((parts[0], "ReLU:1"), (parts[1], "inner")):
        with pytest.raises(InspectionError, match=f"it calls '{missing}', which is not in it"):
            mindir_of(graph, left)
    with pytest.raises(InspectionError, match="has no outputs"):
        mindir_of(message(5, value("x", tensor(1))))


def test_a_tuple_inside_a_tuple_is_refused() -> None:
    def group(content: bytes) -> bytes:
        return message(17, content)

    flat = group(message(12, tensor(1))) + group(message(12, tensor(2)))
    assert [spec.shape for spec in mindir_of(message(6, message(1, "t") + message(5, flat))).outputs] == [
        (1,),
        (2,),
    ]
    nested = group(message(12, tensor(1))) + group(flat)
    with pytest.raises(InspectionError, match="one flat tuple"):
        mindir_of(message(6, message(1, "t") + message(5, nested)))


def test_a_value_that_names_a_python_object_is_refused() -> None:
    with pytest.raises(InspectionError, match="Python class"):
        mindir_of(message(1, message(5, message(17, number(16, 32)))))


def test_weights_in_other_files_are_named() -> None:
    place = message(1, "m_variables/data_0") + number(2, 64) + number(3, 1024)
    content = mindir_of(message(3, tensor(16, more=message(7, "w") + message(12, place))) + OUTPUT)
    external = content.external[0]
    assert (external.tensor, external.location) == ("w", "m_variables/data_0")
    assert (external.offset, external.length) == (64, 1024)


def test_older_exporters_say_their_version_elsewhere() -> None:
    data = message(2, "MindSpore") + message(5, "2.10.0") + message(7, OUTPUT)
    assert mindir.read(BytesIO(data), len(data), "m").version == "2.10.0"


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (message(5, value("x", tensor(*[1] * 9))), "more than 8 dimensions"),
        (message(5, value("x", tensor(1 << 40))), "impossible shape"),
        (message(5, value("x", tensor(-3))), "impossible shape"),
        (message(5, value("x", tensor(1, code=14))), "requests cannot carry"),
        (message(5, value("x", tensor(1))) * (MAX_TENSORS + 1), f"more than {MAX_TENSORS}"),
        (message(1, number(4, 5)), "not a readable MindIR"),
        (message(1, message(4, b"\xff\xfe")), "not a readable MindIR"),
        (message(1, message(4, "x" * 5000)), "not a readable MindIR"),
    ],
)
def test_a_hostile_graph_is_refused(graph: bytes, reason: str) -> None:
    with pytest.raises(InspectionError, match=reason):
        mindir_of(graph)


def test_a_thousand_nested_attributes_are_refused() -> None:
    nested = b""
    for _ in range(1000):
        nested = message(17, nested)
    with pytest.raises(InspectionError, match="nests graphs"):
        mindir_of(message(8, nested))


def test_another_producer_or_no_graph_is_no_mindir() -> None:
    with pytest.raises(InspectionError, match="does not name MindSpore"):
        mindir_of(b"", producer="pytorch")
    data = message(2, "MindSpore")
    with pytest.raises(InspectionError, match="without a graph"):
        mindir.read(BytesIO(data), len(data), "m")
