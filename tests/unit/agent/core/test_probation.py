"""What ends a probation, well and badly; and whether there is room for two."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.fitness import Room, choose
from agent.core.health import Histogram, HistogramView
from agent.core.probation import MAX_ENDS, Counts, Looked, Tally, expected_of, judge
from agent.dataplane.answers import count_answer, is_finite, kinds_in
from registry.contracts.catalogue.manifest import Parity, Special, Tolerance
from registry.contracts.codes import DeploymentCode as Code
from registry.contracts.device.deployments import ProbationLimits, Strategy
from registry.contracts.golden_vectors import Comparison
from registry.contracts.tensors import Datatype
from registry.inference.reply import OutputTensor
from tests.fakes.registry_simulator import one_file_manifest

LIMITS = ProbationLimits()
VARIANT = one_file_manifest(b"x" * 100).variants[0]


def runs(microseconds: float, count: int = 50) -> HistogramView:
    histogram = Histogram()
    for _ in range(count):
        histogram.record(microseconds)
    return histogram.view()


def seen(answered: int, specials: tuple[int, ...]) -> Looked:
    return Looked(answered=answered, specials=specials)


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        (Counts(answered=95, failed=5), None),
        (Counts(answered=94, failed=6), Code.PROBATION_ERRORS),
        (Counts(answered=9, failed=9), None),
        (Counts(answered=19, failed=1, unexpected=(1, 0, 0)), Code.PROBATION_NAN),
        (Counts(answered=20, unexpected=(0, 0, 1)), Code.PROBATION_NAN),
        (Counts(answered=20, unexpected=(20, 20, 20), comparable=False), None),
        (Counts(answered=20, unexpected=(20, 0, 0), before=seen(30, (30, 0, 0))), None),
        (
            Counts(answered=20, unexpected=(20, 0, 0), before=seen(30, (0, 0, 30))),
            Code.PROBATION_NAN,
        ),
        (
            Counts(answered=20, unexpected=(0, 0, 1), before=seen(30, (30, 0, 0))),
            Code.PROBATION_NAN,
        ),
        (Counts(answered=100, unexpected=(38, 0, 0), before=seen(100, (30, 0, 0))), None),
        (
            Counts(answered=100, unexpected=(60, 0, 0), before=seen(100, (30, 0, 0))),
            Code.PROBATION_NAN,
        ),
        (Counts(crashes=1), None),
        (Counts(crashes=2), Code.PROBATION_CRASHES),
        (Counts(ends=MAX_ENDS - 1), None),
        (Counts(ends=MAX_ENDS), Code.PROBATION_CRASHES),
        (Counts(given_up="it died"), Code.PROBATION_CRASHES),
        (Counts(answered=50, run=runs(6200), before_us=2000), Code.PROBATION_LATENCY),
        (Counts(answered=50, run=runs(5000), before_us=2000), None),
        (Counts(answered=50, run=runs(9000)), None),
        (Counts(answered=50, run=runs(9000, 5), before_us=100), None),
    ],
)
def test_a_limit_that_is_passed_ends_it_and_nothing_else_does(counts: Counts, code: Code | None) -> None:
    verdict = judge(LIMITS, counts, over=False)
    assert (verdict.code if verdict else None) == code


def test_when_its_time_is_over_it_passes_and_says_how_little_is_known() -> None:
    verdict = judge(LIMITS, Counts(answered=3), over=True)
    assert verdict is not None
    assert verdict.code == ""
    assert "too few" in verdict.message


def test_a_difference_that_a_busy_host_makes_is_no_latency_of_the_version() -> None:
    assert judge(LIMITS, Counts(answered=50, run=runs(900), before_us=30), over=False) is None
    verdict = judge(LIMITS, Counts(answered=50, run=runs(1200), before_us=30), over=False)
    assert verdict is not None
    assert verdict.code == "probation_latency"


def test_a_few_runs_that_the_host_stalled_are_no_latency_of_the_version() -> None:
    def mixed(slow: int, total: int) -> HistogramView:
        found = Histogram()
        found.record(30, total - slow)
        found.record(9000, slow)
        return found.view()

    for slow, total, told in (
        (3, 20, False),
        (4, 20, True),
        (3, 200, False),
        (4, 200, True),
        (99, 10_000, False),
        (110, 10_000, True),
    ):
        verdict = judge(LIMITS, Counts(answered=total, run=mixed(slow, total), before_us=30), over=False)
        assert (verdict is not None) is told, (slow, total)


def test_latency_is_not_judged_where_the_policy_says_so() -> None:
    limits = ProbationLimits(max_latency_ratio=None)
    assert judge(limits, Counts(answered=50, run=runs(9000), before_us=1), over=False) is None


def test_only_errors_of_the_version_itself_count() -> None:
    tally = Tally()
    tally.errors.update({"bad_payload": 5, "overloaded": 5, "deadline_exceeded": 5, "run_failed": 2, "run_timeout": 1})
    assert tally.failed() == 3


def test_what_the_golden_vectors_hold_is_no_fault_in_that_output() -> None:
    parity = Parity(cases=1, max_abs=0, max_rel=0, passed=True, specials={"y": (Special.NEGATIVE_INFINITY,)})
    tally = Tally(expected=expected_of(parity))
    outputs = [OutputTensor(name, "FP32", (2,), b"") for name in ("y", "z")]
    fine, nan, minus = (np.array([1, value], np.float32).tobytes() for value in (2, np.nan, -np.inf))
    assert count_answer(tally, outputs, [minus, fine])
    assert not count_answer(tally, outputs, [nan, fine])
    assert not count_answer(tally, outputs, [fine, minus])
    assert (tally.answered, tally.not_finite, tally.specials, tally.unexpected) == (3, 2, [1, 0, 2], [1, 0, 1])


def test_golden_vectors_say_which_specials_they_hold() -> None:
    comparison = Comparison(Tolerance())
    want = np.array([1, -np.inf, np.nan], np.float32)
    comparison.add(0, {"y": (Datatype.FP32, want, want), "z": (Datatype.INT32, np.ones(1), np.ones(1))})
    parity = comparison.parity(1, [])
    assert (parity.passed, parity.specials) == (True, {"y": (Special.NEGATIVE_INFINITY, Special.NAN)})


@pytest.mark.parametrize(
    ("datatype", "byte", "kinds"), [("FP8E4M3FN", 0x7F, 1), ("FP8E5M2", 0x7C, 2), ("FP8E5M2", 0xFC, 4)]
)
def test_eight_bit_floats_are_looked_into_too(datatype: str, byte: int, kinds: int) -> None:
    tally = Tally()
    assert not count_answer(tally, [OutputTensor("y", datatype, (2,), b"")], [bytes([0x10, byte])])
    assert tally.specials == [kinds & 1, kinds >> 1 & 1, kinds >> 2]


def test_an_allowed_share_is_judged_without_anything_to_compare_with() -> None:
    some = Counts(answered=100, unexpected=(20, 0, 0), comparable=False)
    verdict = judge(LIMITS, some, over=True)
    assert verdict is not None
    assert verdict.code == ""
    assert "20 hold nan: not judged" in verdict.message
    verdict = judge(ProbationLimits(max_nan_share=0.1), some, over=False)
    assert verdict is not None
    assert verdict.code == Code.PROBATION_NAN
    assert judge(ProbationLimits(max_nan_share=0.2), some, over=False) is None


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
@pytest.mark.parametrize(("value", "kinds"), [(np.nan, 1), (np.inf, 2), (-np.inf, 4)])
def test_each_kind_is_told_apart(datatype: str, value: float, kinds: int) -> None:
    array = np.array([1, value, 1], {"FP16": "<f2", "FP64": "<f8"}.get(datatype, "<f4"))
    held = (array.view("<u4") >> 16).astype("<u2") if datatype == "BF16" else array
    assert kinds_in(datatype, held.tobytes()) == kinds


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_seen(datatype: str, value: float) -> None:
    dtype = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}[datatype]
    assert is_finite(datatype, np.ones(4, dtype).tobytes())
    assert not is_finite(datatype, np.array([1, value, 1], dtype).tobytes())


def test_bfloat16_is_looked_into_and_integers_are_not() -> None:
    assert is_finite("BF16", (np.array([1.0, -3e38], "<f4").view("<u4") >> 16).astype("<u2").tobytes())
    assert not is_finite("BF16", (np.array([1.0, np.nan], "<f4").view("<u4") >> 16).astype("<u2").tobytes())
    assert is_finite("INT32", np.array([np.nan], "<f4").tobytes())


@pytest.mark.parametrize(
    ("strategy", "room", "chosen"),
    [
        (Strategy.AUTO, Room(free=200), Strategy.BESIDE),
        (Strategy.AUTO, Room(free=199), Strategy.STOP_FIRST),
        (Strategy.AUTO, Room(free=400, active=500), Strategy.STOP_FIRST),
        (Strategy.AUTO, Room(free=None), Strategy.BESIDE),
        (Strategy.BESIDE, Room(free=10), None),
        (Strategy.BESIDE, Room(free=10**9), Strategy.BESIDE),
        (Strategy.STOP_FIRST, Room(free=10**9), Strategy.STOP_FIRST),
    ],
)
def test_two_versions_are_loaded_at_once_only_where_there_is_room(
    strategy: Strategy, room: Room, chosen: Strategy | None
) -> None:
    assert choose(strategy, VARIANT, room) is chosen


def test_what_the_manifest_asks_for_wins_over_an_estimate() -> None:
    requirements = VARIANT.requirements.model_copy(update={"memory_bytes": 50})
    modest = VARIANT.model_copy(update={"requirements": requirements})
    assert choose(Strategy.AUTO, modest, Room(free=60, active=500)) is Strategy.BESIDE
