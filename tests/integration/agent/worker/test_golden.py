"""Golden vectors through real workers on ONNX Runtime, in a process and inline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import AgentError, PermanentError, TransientError
from agent.worker.golden import measure_parity
from agent.worker.handle import start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import Worker, WorkerSpec
from registry.contracts.catalogue.manifest import FileRef, Golden, Parity, Tolerance
from registry.contracts.golden_vectors import Case, write_cases
from registry.contracts.tensor_file import Tensor
from registry.contracts.tensors import NUMPY_NAME, Datatype
from registry.contracts.wire import digest_of
from tests.support.clients import worker_client
from tests.support.models import onnx_models

MEASURED = Measurement(run_us=10.0, max_batch=4, lanes=1, fixed=True)
WEIGHTS = np.array([[1, 10], [2, 20], [3, 30]], "<f4")
FLOAT = Datatype.FP32
Measure = Callable[..., Parity]


def tensor(values: Any, datatype: Datatype = FLOAT) -> Tensor:
    array = np.asarray(values, NUMPY_NAME[datatype])
    return Tensor(datatype, array.shape, array.tobytes())


def rows(count: int, first: float = 0) -> np.ndarray[Any, Any]:
    return (np.arange(count * 3, dtype="<f4") + first).reshape(count, 3)


def linear(count: int, first: float = 0, off: float = 0) -> Case:
    """A case of `count` rows for onnx_models.linear; its first golden number is off by `off`."""
    want = rows(count, first) @ WEIGHTS
    want[0, 0] += off
    return Case({"x": tensor(rows(count, first))}, {"y": tensor(want)})


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers on a model's bytes; closes them all."""
    workers: list[Worker] = []

    def _load(content: bytes, **options: object) -> Worker:
        directory = onnx_models.write(tmp_path / f"artifact{len(workers)}", content)
        spec = replace(
            WorkerSpec("test", "onnxruntime", directory, "model.onnx", slots=16, known=MEASURED),
            **options,  # type: ignore[arg-type]
        )
        workers.append(start_worker(spec))
        return workers[-1]

    yield _load
    for worker in workers:
        worker.close(5.0)


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    """Writes the cases to a file and measures a worker by them."""

    def _measure(worker: Worker, *cases: Case, count: int | None = None, **options: Any) -> Parity:
        content = write_cases(cases)
        (tmp_path / "golden").write_bytes(content)
        ref = FileRef(path="golden", digest=digest_of(content), size=len(content))
        tolerance = options.pop("tolerance", Tolerance())
        described = Golden(file=ref, cases=count or len(cases), tolerance=tolerance)
        return measure_parity(worker, tmp_path / "golden", described, **options)

    return _measure


@pytest.mark.parametrize("execution", ["process", "inline"])
def test_a_worker_that_answers_right_passes_alone_and_in_batches(
    load: Callable[..., Worker], measure: Measure, execution: str
) -> None:
    worker = load(onnx_models.linear(), execution=execution)
    # One item goes by a fixed slot, more by an arena; twenty single items are more than the slots, and than a batch.
    parity = measure(worker, linear(5), *(linear(1, first) for first in range(20)))
    assert (parity.cases, parity.passed, parity.top1_agreement, parity.why) == (21, True, 1.0, "")
    assert parity.max_abs == 0.0
    assert parity.run_us is not None
    assert parity.run_us > 0


@pytest.mark.parametrize("execution", ["process", "inline"])
def test_a_worker_that_answers_otherwise_together_than_alone_passes_and_joins_no_more(
    load: Callable[..., Worker], measure: Measure, execution: str
) -> None:
    known = MEASURED._replace(cap=4)
    worker = load(onnx_models.sum_over_items(3), execution=execution, known=known, max_batch=4, joining="declared")
    values = [np.arange(3, dtype="<f4")[np.newaxis] * number for number in range(1, 9)]
    parity = measure(worker, *(Case({"x": tensor(x)}, {"y": tensor(x - x.mean())}) for x in values))
    assert (parity.passed, parity.why) == (True, "")
    assert (worker.max_batch, worker.measured.max_batch) == (1, 1)
    assert "together with others than alone" in worker.batching
    for slot, x in enumerate(values):
        worker_client.put(worker, slot, x)
    worker_client.ring(worker, range(len(values)))
    for slot, x in enumerate(values):
        assert worker_client.get(worker, slot) == (x - x.mean()).ravel().tolist()


@pytest.mark.parametrize("count", [1, 5])
def test_a_worker_that_answers_wrong_does_not_pass(load: Callable[..., Worker], measure: Measure, count: int) -> None:
    worker = load(onnx_models.linear())
    parity = measure(worker, linear(1), linear(count, off=0.5))
    assert (parity.passed, parity.max_abs) == (False, 0.5)
    assert parity.why.startswith("case 1, output 'y' is up to 0.5")
    assert measure(worker, linear(1), linear(count, off=0.5), tolerance=Tolerance(absolute=0.5)).passed


def test_a_worker_that_was_measured_still_serves(load: Callable[..., Worker], measure: Measure) -> None:
    worker = load(onnx_models.linear())
    measure(worker, linear(1), linear(2))
    worker_client.put(worker, 3, rows(1))
    assert worker_client.ring(worker, [3]) == [3]
    assert worker_client.get(worker, 3) == [8, 80]


def test_integers_and_dynamic_shapes_are_compared(load: Callable[..., Worker], measure: Measure) -> None:
    worker = load(onnx_models.one_op("Neg", ["N", "M"], "INT64"))
    cases = [
        Case({"x": tensor(np.full(shape, 7), Datatype.INT64)}, {"y": tensor(np.full(shape, -7), Datatype.INT64)})
        for shape in ((1, 1), (2, 5), (0, 3))
    ]
    assert measure(worker, *cases[:2]).passed
    with pytest.raises(PermanentError, match="without elements"):
        measure(worker, *cases)
    wrong = Case(cases[1].inputs, {"y": tensor(np.full((2, 5), -8), Datatype.INT64)})
    assert measure(worker, wrong).max_abs == 1


def test_a_nan_is_expected_only_where_it_is_golden(load: Callable[..., Worker], measure: Measure) -> None:
    worker = load(onnx_models.one_op("Sqrt", ["N", 2]))
    minus = {"x": tensor([[-1.0, 4.0]])}
    assert measure(worker, Case(minus, {"y": tensor([[np.nan, 2.0]])})).passed
    parity = measure(worker, Case(minus, {"y": tensor([[0.0, 2.0]])}))
    assert not parity.passed
    assert "NaN" in parity.why


def test_a_case_that_the_model_refuses_does_not_pass(load: Callable[..., Worker], measure: Measure) -> None:
    worker = load(onnx_models.gather_rows())
    good = Case({"x": tensor([1], Datatype.INT64)}, {"y": tensor([[2, 3]])})
    parity = measure(worker, Case({"x": tensor([77], Datatype.INT64)}, good.outputs), good)
    assert not parity.passed
    assert parity.why.startswith("case 0: run_failed")


def test_a_case_that_does_not_fit_the_arena_does_not_pass(load: Callable[..., Worker], measure: Measure) -> None:
    worker = load(onnx_models.linear(), arena_bytes=4096)
    assert "too_large" in measure(worker, linear(1000)).why


def test_a_hung_run_ends_the_worker(load: Callable[..., Worker], measure: Measure) -> None:
    worker = load(onnx_models.loop_on_demand(), run_timeout_s=0.5)
    case = Case(
        {t.name: tensor(np.full([abs(dim) for dim in t.shape], 2**62), t.datatype) for t in worker.inputs},
        {t.name: tensor(np.zeros([abs(dim) for dim in t.shape]), t.datatype) for t in worker.outputs},
    )
    with pytest.raises(TransientError) as error:
        measure(worker, case)
    assert error.value.code == "load_timeout"
    worker.close(5.0)
    assert worker_client.is_gone(worker.pid)


def test_a_worker_that_is_gone_is_an_error(load: Callable[..., Worker], measure: Measure) -> None:
    worker = load(onnx_models.linear())
    worker.kill()
    with pytest.raises(TransientError) as error:
        measure(worker, linear(1))
    assert error.value.code == "worker_crashed"


def test_measuring_ends_when_it_is_told_to_or_out_of_time(load: Callable[..., Worker], measure: Measure) -> None:
    class Stopped(Exception):  # noqa: N818 - a signal
        """Raised by the caller's check."""

    def stop() -> None:
        raise Stopped

    worker = load(onnx_models.linear())
    with pytest.raises(Stopped):
        measure(worker, linear(1), check=stop)
    with pytest.raises(TransientError, match="longer than they may"):
        measure(worker, linear(1), budget_s=-1)


def test_a_file_that_is_not_of_this_model_is_refused(
    load: Callable[..., Worker], measure: Measure, tmp_path: Path
) -> None:
    worker = load(onnx_models.linear())
    for case, count in (
        (linear(1), 2),
        (Case({"x": tensor(np.zeros((1, 4)))}, {"y": tensor(np.zeros((1, 2)))}), 1),
        (Case({"x": tensor(rows(1))}, {"z": tensor(np.zeros((1, 2)))}), 1),
    ):
        with pytest.raises(PermanentError) as error:
            measure(worker, case, count=count)
        assert error.value.code == "bad_answer"
    for content in (b"", b"not safetensors", b"\xff" * 100):
        (tmp_path / "broken").write_bytes(content)
        ref = FileRef(path="golden", digest=digest_of(content), size=len(content))
        with pytest.raises(PermanentError):
            measure_parity(worker, tmp_path / "broken", Golden(file=ref, cases=1))
    with pytest.raises(AgentError) as missing:
        measure_parity(worker, tmp_path / "missing", Golden(file=ref, cases=1))
    assert missing.value.code == "disk_error"


def test_a_file_that_changed_since_it_was_checked_is_not_compared_with(
    load: Callable[..., Worker], tmp_path: Path
) -> None:
    worker = load(onnx_models.linear())
    content = write_cases([linear(1)])
    ref = FileRef(path="golden", digest=digest_of(content), size=len(content))
    (tmp_path / "golden").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(TransientError) as changed:
        measure_parity(worker, tmp_path / "golden", Golden(file=ref, cases=1))
    assert changed.value.code == "digest_mismatch"
