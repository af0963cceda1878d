"""What ONNX Runtime answers a device answers, too: through a registry, an agent and a broker, values compared.

A sample of the backend cases of the `onnx` wheel (`onnx_sample.txt`: every operator group once, more of those that
devices once refused; `scripts/onnx-cases` runs all), and models as exporters make them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from scripts.onnx_cases.cases import Case, Set, Tensor, all_cases, answered
from scripts.onnx_cases.fleet import CaseFleet, Outcome

SAMPLE = Path(__file__).with_name("onnx_sample.txt").read_text().split()
IN_PROCESSES = frozenset(SAMPLE[::10])
"""The others run in the agent's own process, by the same code, which is quicker to start."""
pytestmark = pytest.mark.timeout(600)  # all cases run in one fixture
Request = dict[str, NDArray[Any]]
F, L, S = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaseFleet]:
    with CaseFleet(tmp_path_factory.mktemp("cases")) as running:
        yield running


@pytest.fixture(scope="module")
def outcomes(fleet: CaseFleet) -> dict[str, Outcome]:
    """Of the sample and of the models below, run together."""
    cases = [*all_cases(frozenset(SAMPLE)), *(make(name) for name, make in MODELS.items())]
    own = frozenset(MODELS)
    return {
        each.case: each
        for each in fleet.run(cases, inline=lambda case: case.name not in own and case.name not in IN_PROCESSES)
    }


def value(name: str, kind: int, shape: Sequence[int | str] | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str], dict[str, Any]]],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    opset: int = 19,
    **constants: NDArray[Any],
) -> bytes:
    made = [helper.make_node(op, list(given), list(made), **more) for op, given, made, more in nodes]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(made, "g", list(inputs), list(outputs), initializers)
    done = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return bytes(done.SerializeToString())


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def texts(*values: str) -> NDArray[Any]:
    return np.array(values, dtype=object).reshape(-1, 1)


def whole(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def parse(name: str) -> Case:
    """Text to numbers: empty text is none."""
    nodes = [("Cast", ["x"], ["f"], {"to": F}), ("Mul", ["f", "two"], ["y"], {})]
    content = model(nodes, [value("x", S, ["N", 1])], [value("y", F, ["N", 1])], two=floats(2))
    return answered(name, content, [{"x": texts("1.5", "-2")}, {"x": texts("7")}])


def divide(name: str) -> Case:
    content = model([("Div", ["x", "d"], ["y"], {})], [value("x", L, [4]), value("d", L, [4])], [value("y", L, [4])])
    return answered(name, content, [{"x": whole(9, 8, -7, 6), "d": whole(3, -2, 2, 1)}])


def ranged(name: str) -> Case:
    """Zero is no step; and as many rows as the data says."""
    given = [value(each, L, []) for each in ("start", "limit", "step")]
    content = model([("Range", ["start", "limit", "step"], ["y"], {})], given, [value("y", L, ["k"])])
    requests = [(1, 10, 3), (5, 5, 1), (0, -4, -1), (0, 500, 1)]
    keys = ("start", "limit", "step")
    return answered(name, content, [dict(zip(keys, map(np.array, each), strict=True)) for each in requests])


def must_be(right: int) -> Callable[[str], Case]:
    """Fails for every input that does not hold one certain number, which nobody could guess."""

    def make(name: str) -> Case:
        nodes = [("Equal", ["x", "right"], ["e"], {}), ("Cast", ["e"], ["k"], {"to": L}),
                 ("Sub", ["k", "one"], ["i"], {}), ("Add", ["i", "i"], ["j"], {}), ("Add", ["j", "i"], ["h"], {}),
                 ("Gather", ["table", "h"], ["y"], {})]  # fmt: skip
        content = model(
            nodes, [value("x", L, [1])], [value("y", F, [1])],
            right=whole(right), one=whole(1), table=floats(42, 43),
        )  # fmt: skip
        return answered(name, content, [{"x": whole(right)}])

    return make


def detector(name: str) -> Case:
    """0, 1 or many rows, whatever the request; several at once."""
    nodes = [
        ("Greater", ["x", "t"], ["c"], {}),
        ("NonZero", ["c"], ["i"], {}),
        ("Transpose", ["i"], ["y"], {"perm": [1, 0]}),
    ]
    content = model(nodes, [value("x", F, [8])], [value("y", L, ["k", 1])], t=floats(0.5))
    return answered(name, content, [{"x": (np.arange(8) < rows).astype(np.float32)} for rows in (0, 1, 3, 8, 2, 0)])


def kept_rows(name: str) -> Case:
    """A leading dimension of any size on both sides, which are not the same."""
    nodes = [("ReduceMax", ["x", "axis"], ["m"], {"keepdims": 0}), ("Greater", ["m", "t"], ["c"], {}),
             ("Compress", ["x", "c"], ["y"], {"axis": 0})]  # fmt: skip
    content = model(nodes, [value("x", F, ["N", 2])], [value("y", F, ["M", 2])], axis=whole(1), t=floats(0.5))
    rows = np.array([[0, 1], [0, 0], [2, 0]], np.float32)
    return answered(name, content, [{"x": rows}, {"x": rows[:1]}, {"x": rows[1:2]}, {"x": rows[:2]}])


def many_other_forms(name: str) -> Case:
    """The file declares another shape than comes, and more requests come at once than there are arenas."""
    nodes = [("Concat", ["x", "x"], ["d"], {"axis": 0}), ("Reshape", ["d", "form"], ["y"], {})]
    content = model(nodes, [value("x", F, [2])], [value("y", F, [4])], form=whole(2, 2))
    return answered(name, content, [{"x": floats(number, -number)} for number in range(14)])


def wrong_shape(name: str) -> Case:
    content = model([("Neg", ["x"], ["y"], {})], [value("x", F, ["a", "b"])], [value("y", F, [7])])
    return answered(name, content, [{"x": np.ones((2, 3), np.float32)}, {"x": np.ones((7, 1), np.float32)}])


def no_shapes(name: str) -> Case:
    content = model([("Neg", ["x"], ["y"], {})], [value("x", F, None)], [value("y", F, None)])
    shapes: list[tuple[int, ...]] = [(), (2, 3), (1, 2, 1, 2), (0, 3)]
    return answered(name, content, [{"x": np.full(shape, 2, np.float32)} for shape in shapes])


def no_types(name: str) -> Case:
    """The operators say what the outputs are: the file does not."""
    nodes = [("Neg", ["x"], ["y"], {}), ("Cast", ["y"], ["z"], {"to": L}), ("TopK", ["x", "k"], ["v", "i"], {})]
    given = onnx.load_from_string(model(nodes, [value("x", F, ["N", 3])], [], k=whole(2)))
    given.graph.output.extend([onnx.ValueInfoProto(name="y"), value("v", F, None), onnx.ValueInfoProto(name="z")])
    return answered(name, given.SerializeToString(), [{"x": np.array([[1, 3, 2]] * rows, "f4")} for rows in (1, 2)])


def listed_twice(name: str) -> Case:
    """The same output; and one that is an input, too."""
    outputs = [value("y", F, ["N"]), value("z", F, ["N"]), value("y", F, ["N"]), value("x", F, ["N"])]
    nodes = [("Neg", ["x"], ["y"], {}), ("Abs", ["x"], ["z"], {})]
    return answered(name, model(nodes, [value("x", F, ["N"])], outputs), [{"x": floats(1, -2)}, {"x": floats(3)}])


def constant(name: str) -> Case:
    content = model([("Identity", ["c"], ["y"], {})], [], [value("y", F, [2])], c=floats(1, 2))
    return answered(name, content, [{}, {}])


def optional(name: str) -> Case:
    content = model(
        [("Mul", ["x", "k"], ["y"], {})],
        [value("x", F, ["N"]), value("k", F, [1])],
        [value("y", F, ["N"])],
        k=floats(3),
    )
    return answered(name, content, [{"x": floats(1, 2)}, {"x": floats(1, 2), "k": floats(10)}, {"x": floats(5)}])


def only_optional(name: str) -> Case:
    content = model([("Neg", ["k"], ["y"], {})], [value("k", F, [2])], [value("y", F, [2])], k=floats(3, 4))
    return answered(name, content, [{}, {"k": floats(1, 2)}])


def sparse(name: str) -> Case:
    default = helper.make_sparse_tensor(
        numpy_helper.from_array(floats(2), "w"), numpy_helper.from_array(whole(1), "wi"), [3]
    )
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node], "g", [value("x", F, [3]), value("w", F, [3])], [value("y", F, [3])], sparse_initializer=[default]
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    ones = np.ones(3, np.float32)
    return answered(name, content, [{"x": ones}, {"x": ones, "w": 5 * ones}])


def named(given: str, made: str) -> Callable[[str], Case]:
    def make(name: str) -> Case:
        content = model([("Neg", [given], [made], {})], [value(given, F, ["N", 2])], [value(made, F, ["N", 2])])
        return answered(name, content, [{given: np.ones((1, 2), np.float32)}, {given: np.ones((3, 2), np.float32)}])

    return make


def mixed(name: str) -> Case:
    """Text beside a type that NumPy does not have."""
    nodes = [
        ("Cast", ["x"], ["f"], {"to": F}),
        ("Cast", ["f"], ["y"], {"to": TensorProto.BFLOAT16}),
        ("Identity", ["x"], ["z"], {}),
    ]
    content = model(
        nodes, [value("x", S, ["N", 1])], [value("y", TensorProto.BFLOAT16, ["N", 1]), value("z", S, ["N", 1])]
    )
    given = Tensor("BYTES", (2, 1), b"".join(struct.pack("<I", len(text)) + text for text in (b"1.5", b"-2")))
    right = {"y": Tensor("BF16", (2, 1), bytes.fromhex("c03f 00c0")), "z": given}  # 1.5 and -2
    return Case(name, content, (Set({"x": given}, right, repeatable=True),), "")


def large(name: str) -> Case:
    """25 MB each way, of any height and width."""
    content = model([("Neg", ["x"], ["y"], {})], [value("x", F, [1, 3, "h", "w"])], [value("y", F, [1, 3, "h", "w"])])
    return answered(name, content, [{"x": np.full((1, 3, 1088, 1920), 0.5, np.float32)}])


def thousand(name: str) -> Case:
    """As many inputs and outputs as a model may have."""
    count = 1024
    nodes = [("Mul", [f"input/{i}", "two"], [f"output/{i}"], {}) for i in range(count)]
    sides = ([value(f"{side}/{i}", F, ["N", 1]) for i in range(count)] for side in ("input", "output"))
    given = [{f"input/{i}": floats(*range(i, i + n)).reshape(n, 1) for i in range(count)} for n in (1, 3)]
    return answered(name, model(nodes, *sides, two=floats(2)), given)


MODELS: dict[str, Callable[[str], Case]] = {
    "parse": parse,
    "divide": divide,
    "range": ranged,
    "must be 5": must_be(5),
    "must be 70000": must_be(70_000),
    "detector": detector,
    "rows that are kept": kept_rows,
    "many of another form": many_other_forms,
    "a wrong shape": wrong_shape,
    "no shapes": no_shapes,
    "no types": no_types,
    "an output that is listed twice": listed_twice,
    "constant": constant,
    "optional": optional,
    "only an optional": only_optional,
    "sparse": sparse,
    "long names": named("i" * 300, "o" * 4096),
    "odd names": named('in/0:1 "é\\" 💡', "Ausgang #1+\n"),
    "a blank name": named(" ", "y y"),
    "text and bfloat16": mixed,
    "large": large,
    "a thousand inputs": thousand,
}


def test_the_sample_has_200_cases_that_the_wheel_has() -> None:
    assert len(SAMPLE) == len(set(SAMPLE)) == 200


@pytest.mark.parametrize("name", SAMPLE)
def test_a_device_answers_as_onnx_runtime_does(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes.get(name, Outcome(name, "not run")) == Outcome(name)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_as_exporters_make_it_is_answered_as_by_onnx_runtime(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name] == Outcome(name)


def test_the_right_values_are_those_that_are_meant() -> None:
    optional_case, constant_case = MODELS["optional"]("o"), MODELS["constant"]("c")
    rights = [np.frombuffer(each.outputs["y"].data, "<f4").tolist() for each in optional_case.sets]
    assert rights == [[3, 6], [10, 20], [15]]
    assert np.frombuffer(constant_case.sets[0].outputs["y"].data, "<f4").tolist() == [1, 2]
    assert [each.outputs["y"].shape for each in MODELS["detector"]("d").sets][:3] == [(0, 1), (1, 1), (3, 1)]
