"""Trials are kept for whoever made them, not for long, and within bounds."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from registry.errors import BusyError, NotFoundError
from registry.server.console.trials import KEPT, MAX_AT_ONCE, MAX_BYTES, MAX_OF_ONE, MAX_TRIALS, Picture, Trials

NOW = datetime(2026, 11, 28, tzinfo=timezone.utc)


def test_a_trial_is_found_by_its_owner_until_its_time_is_over() -> None:
    trials = Trials()
    made = trials.keep(1, NOW, None, "{}", ())
    assert trials.get(made.id, 1, NOW + KEPT - timedelta(seconds=1)) == made
    for owner, at in ((2, NOW), (1, NOW + KEPT)):
        with pytest.raises(NotFoundError):
            trials.get(made.id, owner, at)


def test_the_oldest_trials_make_room_for_new_ones() -> None:
    trials = Trials()
    made = [trials.keep(1, NOW, None, "{}", ()) for _ in range(MAX_TRIALS + 1)]
    with pytest.raises(NotFoundError):
        trials.get(made[0].id, 1, NOW)
    assert trials.get(made[1].id, 1, NOW) == made[1]


def test_pictures_make_room_by_their_bytes() -> None:
    trials = Trials()
    picture = Picture(bytes(MAX_BYTES // 2 + 1), "image/png", 1, 1)
    first, second = (trials.keep(1, NOW, picture, "", ()) for _ in range(2))
    with pytest.raises(NotFoundError):
        trials.get(first.id, 1, NOW)
    assert trials.get(second.id, 1, NOW) == second


def test_only_so_many_are_under_way_for_one_visitor_and_for_all() -> None:
    trials = Trials()
    open_ones = [trials.under_way(1) for _ in range(MAX_OF_ONE)]
    for each in open_ones:
        each.__enter__()
    with pytest.raises(BusyError), trials.under_way(1):
        pass
    others = [trials.under_way(10 + number) for number in range(MAX_AT_ONCE - MAX_OF_ONE)]
    for each in others:
        each.__enter__()
    with pytest.raises(BusyError), trials.under_way(2):
        pass
    open_ones[0].__exit__(None, None, None)
    with trials.under_way(2):
        pass
