"""Who runs together: nothing waits for more, nobody gets more than it may hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.joining import AHEAD, share_out

COUNTS = st.integers(0, 300)


@given(COUNTS, st.lists(st.integers(0, 200), min_size=1, max_size=8), st.integers(1, 64))
def test_every_share_is_within_bounds(waiting: int, outstanding: list[int], max_batch: int) -> None:
    shares = share_out(waiting, outstanding, max_batch)
    assert sum(count for _, count in shares) <= waiting
    assert len({runner for runner, _ in shares}) == len(shares)
    for runner, count in shares:
        assert count >= 1
        assert outstanding[runner] + count <= max(AHEAD * max_batch, outstanding[runner])


@given(COUNTS, st.lists(st.integers(0, 200), min_size=1, max_size=8), st.integers(1, 64))
def test_nothing_waits_while_a_runner_has_room(waiting: int, outstanding: list[int], max_batch: int) -> None:
    shares = dict(share_out(waiting, outstanding, max_batch))
    left = waiting - sum(shares.values())
    room = sum(max(0, AHEAD * max_batch - held - shares.get(runner, 0)) for runner, held in enumerate(outstanding))
    assert left == 0 or room == 0


def test_one_request_goes_at_once() -> None:
    assert share_out(1, [0], 64) == [(0, 1)]


def test_idle_runners_share_evenly() -> None:
    assert share_out(4, [0, 0], 8) == [(0, 2), (1, 2)]


def test_a_busy_runner_gets_work_after_the_idle_ones() -> None:
    assert share_out(1, [1, 0], 1) == [(1, 1)]
    assert share_out(2, [1, 0], 1) == [(0, 1), (1, 1)]
