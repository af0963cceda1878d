"""How golden outputs are compared, and which files of tensors are taken."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from registry.contracts.catalogue.manifest import Parity, TensorSpec, Tolerance
from registry.contracts.golden_vectors import Case, Comparison, check_cases, read_cases, write_cases
from registry.contracts.tensor_file import Tensor, TensorFileError, read_spans, write_tensors
from registry.contracts.tensors import Datatype

NAN, INF = float("nan"), float("inf")
X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2))
Y = TensorSpec(name="a/y", datatype=Datatype.FP32, shape=(-1, 2))


def compared(got: Any, want: Any, datatype: Datatype = Datatype.FP32, **tolerance: float) -> Parity:
    comparison = Comparison(Tolerance(**tolerance))
    comparison.add(0, {"y": (datatype, np.asarray(got), np.asarray(want))})
    return comparison.parity(1, [3.0, 1.0, 2.0])


def floats(*values: float) -> Tensor:
    return Tensor(Datatype.FP32, (1, len(values)), np.array(values, "<f4").tobytes())


EMPTY = Tensor(Datatype.FP32, (0, 2), b"")


def golden(**changes: Tensor) -> bytes:
    return write_tensors({"0/in/x": floats(1, 2), "0/out/a/y": floats(3, 4), **changes})


def test_equal_answers_pass_with_zero_error_and_the_median_time() -> None:
    assert compared([[1.0, 2.0]], [[1.0, 2.0]]) == Parity(
        cases=1, max_abs=0, max_rel=0, top1_agreement=1.0, passed=True, run_us=2.0
    )


def test_each_element_may_be_off_by_the_absolute_and_the_relative_tolerance_together() -> None:
    assert compared([100.5], [100.0], absolute=0.25, relative=0.0025).passed
    off = compared([100.75], [100.0], absolute=0.25, relative=0.0025)
    assert (off.passed, off.max_abs, off.max_rel) == (False, 0.75, 0.0075)
    assert "over the tolerance" in off.why
    assert not compared([100.0, 0.5], [100.0, 0.0], absolute=0.25, relative=0.0025).passed, "each element by its own"


def test_a_wrong_top_class_fails_even_within_the_distance() -> None:
    almost = compared([[0.50001, 0.5], [0.0, 1.0]], [[0.5, 0.50001], [0.0, 1.0]])
    assert (almost.top1_agreement, almost.passed) == (0.5, False)
    assert compared([[0.50001, 0.5], [0.0, 1.0]], [[0.5, 0.50001], [0.0, 1.0]], top1_agreement=0.5).passed


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 2, 1), ()])
def test_outputs_that_are_no_classes_have_no_top_class(shape: tuple[int, ...]) -> None:
    parity = compared(np.ones(shape, "<f4"), np.ones(shape, "<f4"))
    assert (parity.passed, parity.top1_agreement) == (True, None)


@pytest.mark.parametrize(
    ("got", "want", "passed"),
    [
        ([NAN, 1.0], [NAN, 1.0], True),
        ([NAN, 1.0], [2.0, 1.0], False),
        ([2.0, 1.0], [NAN, 1.0], False),
        ([INF], [INF], True),
        ([-INF], [INF], False),
        ([INF], [3e38], False),
        ([NAN], [INF], False),
    ],
)
def test_what_is_not_finite_stands_where_it_was_expected(got: Any, want: Any, passed: bool) -> None:
    parity = compared(got, want)
    assert parity.passed is passed
    assert json.dumps(parity.to_json(), allow_nan=False)


def test_another_shape_fails_and_says_which() -> None:
    assert "[1, 3] instead of [1, 2]" in compared([[1.0, 2.0, 3.0]], [[1.0, 2.0]]).why


def test_integers_do_not_wrap_and_bf16_is_read_as_numbers() -> None:
    assert compared(np.array([0], "<u1"), np.array([255], "<u1"), Datatype.UINT8).max_abs == 255
    assert not compared(np.array([True]), np.array([False]), Datatype.BOOL).passed
    one, two = np.array([0x3F80], "<u2"), np.array([0x4000], "<u2")
    assert compared(one, two, Datatype.BF16).max_abs == 1.0


def test_enormous_numbers_give_figures_that_json_can_carry() -> None:
    parity = compared(np.array([1.7e308]), np.array([-1.7e308]), Datatype.FP64)
    assert not parity.passed
    assert json.dumps(parity.to_json(), allow_nan=False)


def test_a_variant_that_did_not_answer_cannot_pass() -> None:
    comparison = Comparison(Tolerance())
    comparison.refuse("case 0: run_failed")
    parity = comparison.parity(1, [])
    assert (parity.passed, parity.why, parity.run_us) == (False, "case 0: run_failed", None)


def test_cases_come_back_as_they_were_written() -> None:
    raw = np.arange(2, dtype="<f4").tobytes()
    case = Case({"x": Tensor(Datatype.FP32, (1, 2), raw)}, {"a/y": Tensor(Datatype.INT64, (1,), bytes(8))})
    content = write_cases([case, case], {"made": "here"})
    cases = read_cases(content, len(content))
    assert len(cases) == 2
    span = cases[1].inputs["x"]
    assert content[span.begin : span.end] == raw
    assert cases[1].outputs["a/y"].datatype is Datatype.INT64
    header = content[: 8 + int.from_bytes(content[:8], "little")]
    assert read_cases(header, len(content)) == cases, "the header is enough to know what there is"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x": floats(1)}, "is not named"),
        ({"01/in/x": floats(1, 2)}, "is not named"),
        ({"64/in/x": floats(1, 2)}, "is not named"),
        ({"²/in/x": floats(1, 2)}, "is not named"),
        ({"0/through/x": floats(1, 2)}, "is not named"),
        ({"2/in/x": floats(1, 2)}, "without a gap"),
        ({"1/in/x": floats(1, 2)}, "case 1 has no output"),
        ({"1/out/a/y": floats(1, 2)}, "case 1 has no input 'x'"),
        ({"0/in/z": floats(1, 2)}, "'z' is not the model's"),
        ({"0/in/x": floats(1, 2, 3)}, r"is \[1, 3\], the model has \[-1, 2\]"),
        ({"0/in/x": Tensor(Datatype.INT8, (1, 2), b"12")}, "is INT8, the model has FP32"),
        ({"0/in/x": EMPTY}, r"case 0: input 'x' is \[0, 2\], without elements"),
        ({"1/out/a/y": EMPTY, "1/in/x": floats(1, 2)}, r"case 1: output 'a/y' is \[0, 2\], without elements"),
    ],
)
def test_a_golden_file_that_is_not_of_this_model_is_refused(changes: dict[str, Tensor], says: str) -> None:
    content = golden(**changes)
    with pytest.raises(TensorFileError, match=says):
        check_cases(read_cases(content, len(content)), [X], [Y])


def test_a_file_of_tensors_that_is_not_whole_is_refused_wherever_it_ends() -> None:
    content = golden()
    for length in range(len(content)):
        with pytest.raises(TensorFileError):
            read_spans(content[:length], length, 8)
    assert len(read_spans(content, len(content), 8)) == 2


def _file(header: Any, body: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body


_U8 = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


@pytest.mark.parametrize(
    "content",
    [
        (1 << 63).to_bytes(8, "little") + b"{}",
        _file(b"[" * 100_000),
        _file(b"\xff\xfe"),
        _file([]),
        _file({}),
        _file(b'{"a":{},"a":{}}'),
        _file(b'{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', b"1"),
        _file({"a": []}),
        _file({"a": {**_U8, "dtype": "STR"}}, b"1"),
        _file({"a": {**_U8, "dtype": ["U8"]}}, b"1"),
        _file({"a": {**_U8, "shape": [-1]}}, b"1"),
        _file({"a": {**_U8, "shape": [True]}}, b"1"),
        _file({"a": {**_U8, "shape": [1] * 9}}, b"1"),
        _file({"a": {**_U8, "shape": [1 << 40]}}, b"1"),
        _file({"a": {**_U8, "data_offsets": [0]}}, b"1"),
        _file({"a": {**_U8, "data_offsets": [0, 2]}}, b"12"),
        _file({"a": {**_U8, "data_offsets": [1, 2]}}, b"12"),
        _file({"a": _U8, "b": _U8}, b"1"),
        _file({"a": _U8}, b"12"),
        _file({str(i): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(9)}),
    ],
)
def test_a_file_of_tensors_that_lies_is_refused(content: bytes) -> None:
    with pytest.raises(TensorFileError):
        read_spans(content, len(content), 8)


def test_tensors_that_cannot_be_written_are_refused() -> None:
    for tensor in (Tensor(Datatype.BYTES, (1,), b"1234"), Tensor(Datatype.FP32, (2,), b"1234")):
        with pytest.raises(TensorFileError):
            write_tensors({"a": tensor})
    with pytest.raises(TensorFileError, match="1 to 64"):
        write_cases([])
