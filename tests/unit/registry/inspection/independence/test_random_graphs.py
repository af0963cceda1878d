"""Random graphs: whatever is proven, ONNX Runtime answers alone as together. A counterexample is a fault of the proof.

The suite takes the same few each time. Many more: python -m tests.support.models.random_graphs 0 20000
"""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.models.random_graphs import fault_of

SEEN: Counter[str] = Counter()


@settings(max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**48))
def test_what_is_proven_of_a_random_graph_holds(seed: int) -> None:
    fault, seen = fault_of(seed)
    SEEN.update(seen)
    assert not fault, f"seed {seed}: {fault}"


def test_both_verdicts_came_up_often() -> None:
    """Runs after the test above, in the same process: random graphs that are all refused would show nothing."""
    if SEEN.total() > 100:
        assert SEEN["proven"] > SEEN.total() / 10
        assert SEEN["refused"] > SEEN.total() / 10
