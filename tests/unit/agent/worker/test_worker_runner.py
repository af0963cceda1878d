"""What happens to the requests in the slots: batches, neighbours, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.backends.base import BackendError, TensorInfo
from agent.worker.channel import ArenaTensor, Layout, join_bytes, make_layout, read_arena, split_bytes, write_arena
from agent.worker.measure import measure, warm_up
from agent.worker.runner import Runner
from tests.fakes.sessions import FunctionSession

if TYPE_CHECKING:
    from agent.backends.base import Array

X, Y = TensorInfo("x", "FP32", (-1, 2)), TensorInfo("y", "FP32", (-1, 1))


def sums(feeds: dict[str, Array]) -> dict[str, Array]:
    if np.any(feeds["x"] == 13):
        raise ValueError("unlucky")
    return {"y": feeds["x"].sum(axis=1, keepdims=True)}


class Bench:
    """A runner over a memory of its own, with ways to fill slots and look at results."""

    def __init__(self, session: FunctionSession, max_batch: int = 8) -> None:
        self.session = session
        self.layout: Layout = make_layout(session.inputs, session.outputs, slots=8, arenas=2, arena_bytes=4096)
        self.memory = memoryview(bytearray(self.layout.total))
        self.runner = Runner(session, self.layout, self.memory, max_batch)

    def put(self, slot: int, *values: float) -> None:
        self.layout.slot_view(self.memory, self.layout.inputs[0], slot)[:] = np.array(values, "<f4").tobytes()

    def get(self, slot: int) -> float | str:
        if self.layout.statuses(self.memory)[slot]:
            return self.layout.error(self.memory, slot)[0]
        return float(np.frombuffer(self.layout.slot_view(self.memory, self.layout.outputs[0], slot), "<f4")[0])

    def arena(
        self, *tensors: ArenaTensor, outputs: list[str] | None = None
    ) -> dict[str, ArenaTensor] | tuple[str, str]:
        slot_id = self.layout.slots
        view = self.layout.arena_view(self.memory, slot_id)
        write_arena(view, tensors, outputs)
        self.runner.run([slot_id])
        if self.layout.statuses(self.memory)[slot_id]:
            return self.layout.error(self.memory, slot_id)
        return {tensor.name: tensor for tensor in read_arena(view).tensors}


@pytest.fixture
def bench() -> Bench:
    return Bench(FunctionSession((X,), (Y,), sums))


def test_neighbouring_slots_are_one_batch_without_a_copy(bench: Bench) -> None:
    for slot in (2, 3, 4):
        bench.put(slot, slot, 1)
    bench.runner.run([2, 3, 4])
    assert [bench.get(slot) for slot in (2, 3, 4)] == [3, 4, 5]
    assert bench.session.batches == [3]
    assert np.shares_memory(bench.session.feeds[0]["x"], np.frombuffer(bench.memory, np.uint8))


def test_a_scalar_reaches_the_runtime_as_an_array_without_dimensions() -> None:
    scalar = TensorInfo("x", "FP32", ())
    bench = Bench(FunctionSession((scalar,), (TensorInfo("y", "FP32", ()),), lambda feeds: {"y": feeds["x"] * 2}))
    bench.put(3, 21)
    bench.runner.run([3])
    assert bench.get(3) == 42
    fed = bench.session.feeds[0]["x"]
    assert (type(fed), fed.shape) == (np.ndarray, ())


@pytest.mark.parametrize("ids", [[7, 0, 1], [3, 5, 4], [4, 2, 6]])
def test_scattered_slots_are_one_batch_too(bench: Bench, ids: list[int]) -> None:
    for slot in ids:
        bench.put(slot, slot, 100)
    bench.runner.run(ids)
    assert [bench.get(slot) for slot in ids] == [slot + 100 for slot in ids]
    assert bench.session.batches == [3]


def test_a_batch_is_never_larger_than_what_was_measured() -> None:
    bench = Bench(FunctionSession((X,), (Y,), sums), max_batch=3)
    bench.runner.run(list(range(8)))
    assert bench.session.batches == [3, 3, 2]


def test_one_bad_item_does_not_fail_its_neighbours(bench: Bench) -> None:
    bench.put(0, 1, 1)
    bench.put(1, 13, 1)
    bench.put(2, 2, 2)
    bench.runner.run([0, 1, 2])
    assert [bench.get(slot) for slot in (0, 1, 2)] == [2, "run_failed", 4]
    bench.put(1, 5, 5)
    bench.runner.run([1])
    assert bench.get(1) == 10


def test_nan_and_infinity_are_results(bench: Bench) -> None:
    bench.put(0, np.inf, 1)
    bench.put(1, np.nan, 1)
    bench.runner.run([0, 1])
    assert bench.get(0) == np.inf
    assert np.isnan(bench.get(1))


def test_a_result_of_another_shape_than_declared_is_an_error() -> None:
    bench = Bench(FunctionSession((X,), (Y,), lambda feeds: {"y": feeds["x"]}))
    bench.runner.run([0])
    assert bench.get(0) == "run_failed"


def test_an_arena_takes_a_batch_and_answers_in_place(bench: Bench) -> None:
    data = np.arange(6, dtype=np.float32)
    answer = bench.arena(ArenaTensor("x", "FP32", (3, 2), data.tobytes()))
    assert isinstance(answer, dict)
    assert answer["y"].shape == (3, 1)
    assert np.frombuffer(answer["y"].data, np.float32).tolist() == [1, 5, 9]


def test_an_empty_batch_is_a_request_like_any_other(bench: Bench) -> None:
    answer = bench.arena(ArenaTensor("x", "FP32", (0, 2), b""))
    assert isinstance(answer, dict)
    assert answer["y"].shape == (0, 1)


@pytest.mark.parametrize(
    ("tensor", "outputs", "code"),
    [
        (ArenaTensor("z", "FP32", (1, 2), bytes(8)), None, "unknown_input"),
        (ArenaTensor("x", "INT32", (1, 2), bytes(8)), None, "wrong_datatype"),
        (ArenaTensor("x", "FP32", (1, 3), bytes(12)), None, "wrong_shape"),
        (ArenaTensor("x", "FP32", (2,), bytes(8)), None, "wrong_shape"),
        (ArenaTensor("x", "FP32", (1, 2), bytes(8)), ["z"], "unknown_output"),
        (ArenaTensor("x", "FP32", (1, 2), np.array([13, 0], "<f4").tobytes()), None, "run_failed"),
    ],
)
def test_a_bad_arena_is_refused_with_a_code(
    bench: Bench, tensor: ArenaTensor, outputs: list[str] | None, code: str
) -> None:
    answer = bench.arena(tensor, outputs=outputs)
    assert isinstance(answer, tuple)
    assert answer[0] == code
    assert answer[1]


def test_a_missing_input_and_a_result_that_is_too_large_have_codes() -> None:
    big = TensorInfo("y", "FP32", (-1, -1))
    bench = Bench(FunctionSession((X,), (big,), lambda feeds: {"y": np.zeros((1, 5000), np.float32)}))
    answer = bench.arena(ArenaTensor("x", "FP32", (1, 2), bytes(8)))
    assert answer[0] == "result_too_large"
    assert bench.arena()[0] == "missing_input"


def test_a_result_that_is_a_view_of_the_request_survives_being_written_over_it() -> None:
    wide, echo = TensorInfo("x", "UINT8", (-1,)), TensorInfo("y", "UINT8", (-1, -1))
    bench = Bench(FunctionSession((wide,), (echo,), lambda feeds: {"y": feeds["x"][np.newaxis]}))
    data = bytes(range(200))
    answer = bench.arena(ArenaTensor("x", "UINT8", (200,), data))
    assert isinstance(answer, dict)
    assert bytes(answer["y"].data) == data


def test_bytes_go_in_and_out_as_bytes() -> None:
    text, back = TensorInfo("x", "BYTES", (-1,)), TensorInfo("y", "BYTES", (-1,))
    bench = Bench(FunctionSession((text,), (back,), lambda feeds: {"y": feeds["x"][::-1]}))
    answer = bench.arena(ArenaTensor("x", "BYTES", (3,), join_bytes([b"a", b"", b"\xff\0c"])))
    assert isinstance(answer, dict)
    assert split_bytes(answer["y"].data, 3) == [b"\xff\0c", b"", b"a"]
    assert bench.arena(ArenaTensor("x", "BYTES", (1,), b"\x09\0\0\0abc"))[0] == "bad_payload"


def test_items_that_influence_each_other_are_never_batched_even_where_it_is_allowed() -> None:
    def centred(feeds: dict[str, Array]) -> dict[str, Array]:
        return {"y": (feeds["x"] - feeds["x"].mean())[:, :1]}

    assert measure(FunctionSession((X,), (Y,), centred), cores=2, cap=64, profile="throughput").max_batch == 1


def test_a_model_whose_cost_does_not_grow_with_the_batch_gets_the_largest_that_the_cap_allows() -> None:
    def constant(feeds: dict[str, Array]) -> dict[str, Array]:
        for _ in range(300):
            np.linalg.det(np.eye(2))
        return {"y": feeds["x"][:, :1]}

    found = measure(FunctionSession((X,), (Y,), constant), cores=2, cap=4, profile="throughput", budget_s=5.0)
    assert found.max_batch == 4


def test_a_model_that_fails_on_whatever_is_tried_is_served_unmeasured() -> None:
    def fails(feeds: dict[str, Array]) -> dict[str, Array]:
        raise ValueError("no")

    found = measure(FunctionSession((X,), (Y,), fails), cores=1, cap=8, profile="throughput")
    assert found[:4] == (0.0, 1, 1, True)
    assert found.trial == "its trial runs failed: no"


@pytest.mark.parametrize("valid", [1, 2])
def test_zero_need_not_be_a_valid_request(valid: int) -> None:
    def picky(feeds: dict[str, Array]) -> dict[str, Array]:
        if not (feeds["x"] == valid).all():
            raise ValueError("out of range")
        return {"y": feeds["x"][:, :1]}

    found = measure(FunctionSession((X,), (Y,), picky), cores=1, cap=4, profile="throughput", budget_s=5.0)
    assert found.run_us > 0
    assert found.trial == ""


def test_what_the_publisher_gave_is_tried_first() -> None:
    seen: list[float] = []

    def remembers(feeds: dict[str, Array]) -> dict[str, Array]:
        seen.append(float(feeds["x"].flat[0]))
        return {"y": feeds["x"][:, :1]}

    given = [{"x": np.full((1, *X.shape[1:]), 7, np.float32)}]
    measure(FunctionSession((X,), (Y,), remembers), cores=1, cap=1, profile="throughput", given=given)
    assert set(seen) == {7.0}


def test_a_model_that_no_memory_is_enough_for_is_refused() -> None:
    def eats(feeds: dict[str, Array]) -> dict[str, Array]:
        raise BackendError("run_failed", "std::bad_alloc")

    with pytest.raises(BackendError, match="bad_alloc") as caught:
        measure(FunctionSession((X,), (Y,), eats), cores=1, cap=1, profile="throughput")
    assert caught.value.code == "out_of_memory"


def test_a_model_with_shapes_that_only_a_request_knows_may_fail_on_a_guess() -> None:
    def fails(feeds: dict[str, Array]) -> dict[str, Array]:
        raise ValueError("too small")

    session = FunctionSession((TensorInfo("x", "FP32", (1, -1)),), (Y,), fails)
    assert measure(session, cores=2, cap=8, profile="throughput")[:4] == (0.0, 1, 2, False)
    assert warm_up(session) == "its trial runs failed: too small"


def test_a_model_with_free_dimensions_gets_a_lane_per_core_whatever_its_smallest_run_takes() -> None:
    picture = TensorInfo("x", "FP32", (-1, 3, -1, -1))
    session = FunctionSession((picture,), (Y,), lambda feeds: {"y": np.zeros((len(feeds["x"]), 1), np.float32)})
    assert measure(session, cores=2, cap=8, profile="throughput")[:4] == (0.0, 1, 2, False)
    assert measure(session, cores=2, cap=8, profile="latency").lanes == 1


def test_results_of_a_handed_through_input_keep_their_neighbours() -> None:
    bench = Bench(FunctionSession((X,), (TensorInfo("y", "FP32", (-1, 2)),), lambda feeds: {"y": feeds["x"]}))
    for slot in range(3):
        bench.put(slot, slot, slot)
    bench.runner.run([2, 0, 1])
    assert [bench.get(slot) for slot in range(3)] == [0, 1, 2]
