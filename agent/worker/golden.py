"""Runs the version's golden vectors through a loaded model, before it serves, and says how it measured up.

Every case runs alone, as one live request, and is timed. What is compared is in `registry.contracts.golden_vectors`.
Where requests may be joined, the cases that fit fixed slots run once more together, as live requests that came at the
same time do. What answers rightly alone and otherwise together is not refused: its requests are not joined.
A worker that answers wrongly is not an error here: the figures say so, and the caller decides.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.errors import PermanentError, TransientError
from agent.worker.caller import Caller, Request, RunFailedError, array_of
from agent.worker.channel import ArenaTensor
from agent.worker.measure import same
from agent.worker.spec import Worker
from registry.contracts.catalogue.manifest import MAX_GOLDEN_BYTES, Golden, Parity, Tolerance
from registry.contracts.codes import DeploymentCode
from registry.contracts.golden_vectors import Array, Comparison, GoldenCase, check_cases, read_cases
from registry.contracts.tensor_file import TensorFileError
from registry.contracts.wire import digest_of

DEFAULT_BUDGET_S = 300.0


def measure_parity(
    worker: Worker,
    path: Path,
    golden: Golden,
    *,
    budget_s: float = DEFAULT_BUDGET_S,
    check: Callable[[], None] = lambda: None,
) -> Parity:
    """How the worker's answers compare with the golden vectors in the file at `path`.

    The worker must not be with the data path. The file is read once; what was read must have the digest of `golden`.

    Args:
        worker: Loaded; after an error it is only fit to be closed.
        path: The file of `golden.file`.
        golden: As the manifest has it: the number of cases, the tolerance.
        budget_s: For all runs together. Each run has the worker's `run_timeout_s` at most.
        check: Called between runs; what it raises goes through: for cancelling.

    Raises:
        PermanentError: bad_answer: the file is not one of golden vectors, or not of this model.
        TransientError: digest_mismatch, disk_error, worker_crashed, or load_timeout.
    """
    content = _read(path)
    if digest_of(content) != golden.file.digest:
        raise TransientError(
            DeploymentCode.DIGEST_MISMATCH, f"{path.name}: not the golden vectors that were published for this version"
        )
    try:
        cases = read_cases(content, len(content))
        check_cases(cases, worker.inputs, worker.outputs, golden.cases)
    except TensorFileError as error:
        raise PermanentError(
            DeploymentCode.BAD_ANSWER, f"the golden vectors {golden.file.digest} of {worker.spec.model}: {error}"
        ) from None
    return _Trial(
        worker, content, cases, tolerance=golden.tolerance, deadline=time.monotonic() + budget_s, check=check
    ).run()


class _Trial:
    """One run of all cases."""

    def __init__(
        self,
        worker: Worker,
        content: memoryview,
        cases: Sequence[GoldenCase],
        *,
        tolerance: Tolerance,
        deadline: float,
        check: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._content = content
        self._cases = cases
        self._deadline = deadline
        self._check = check
        self._caller = Caller(worker)
        self._tolerance = tolerance
        self._comparison = Comparison(tolerance)
        self._alone: dict[int, dict[str, Array]] = {}
        """Answers of the cases that may run together."""

    def run(self) -> Parity:
        """See `measure_parity`."""
        requests = [self._request(case) for case in self._cases]
        joined = self._worker.max_batch > 1 and self._worker.layout.batchable
        runs_us: list[float] = []
        for number, request in enumerate(requests):
            self._go_on()
            begin = time.perf_counter()
            try:
                answer = self._caller.call(request)
            except RunFailedError as error:
                self._comparison.refuse(f"case {number}: {error}")
                continue
            runs_us.append((time.perf_counter() - begin) * 1e6)
            self._compare(self._comparison, number, answer)
            if joined and self._caller.is_fixed(request):
                self._alone[number] = {name: array.copy() for name, array in answer.items()}
        why = self._together() if len(self._alone) > 1 else ""
        if why:
            self._worker.run_alone(why)
        return self._comparison.parity(len(self._cases), runs_us)

    def _together(self) -> str:
        """Why the worker must not join requests; empty: the cases together answer as each alone."""
        slots, numbers = self._worker.layout.slots, list(self._alone)
        comparison = Comparison(self._tolerance)
        for start in range(0, len(numbers), slots):
            group = numbers[start : start + slots]
            self._go_on()
            try:
                answers = self._caller.call_together([self._request(self._cases[number]) for number in group])
            except RunFailedError as error:
                return f"the golden cases {group[0]} to {group[-1]} fail together, not alone: {error}"
            for number, answer in zip(group, answers):
                self._compare(comparison, number, answer)
                for spec in self._worker.outputs:
                    if not same(str(spec.datatype), answer[spec.name], self._alone[number][spec.name]):
                        return f"golden case {number} answers otherwise together with others than alone"
        parity = comparison.parity(len(numbers), ())
        return "" if parity.passed else f"the golden cases answer otherwise together than alone: {parity.why}"

    def _go_on(self) -> None:
        self._check()
        if time.monotonic() > self._deadline:
            self._worker.kill()
            raise TransientError(
                DeploymentCode.LOAD_TIMEOUT,
                f"{self._worker.spec.model}: the golden vectors take longer than they may on this host",
            )

    def _request(self, case: GoldenCase) -> Request:
        return {
            name: ArenaTensor(name, str(span.datatype), span.shape, self._content[span.begin : span.end])
            for name, span in case.inputs.items()
        }

    def _compare(self, comparison: Comparison, number: int, answer: dict[str, Array]) -> None:
        outputs = {}
        for name, span in self._cases[number].outputs.items():
            want = array_of(self._content[span.begin : span.end], span.datatype, span.shape)
            outputs[name] = (span.datatype, answer[name], want)
        comparison.add(number, outputs)


def _read(path: Path) -> memoryview:
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size <= MAX_GOLDEN_BYTES:
                return memoryview(stream.read(MAX_GOLDEN_BYTES + 1))
    except OSError as error:
        raise TransientError(DeploymentCode.DISK_ERROR, f"{path.name}: {error.strerror}") from None
    raise PermanentError(DeploymentCode.BAD_ANSWER, f"golden vectors of more than {MAX_GOLDEN_BYTES} bytes")
