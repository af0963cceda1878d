"""Presence is a state with an expiry; two agents of one name are told from one that restarts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from registry.core.presence import (
    AFTERWARDS_S,
    DEFAULT_EXPIRY_S,
    RIVAL_WINDOW_S,
    Speakers,
    as_of,
    ended_before,
    is_online,
    patience_s,
    unheard,
)

NOW = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("heard_until", "gone_at", "online"),
    [(None, None, False), (later(1), None, True), (NOW, None, False), (later(-1), None, False), (later(1), NOW, False)],
)
def test_a_device_is_online_until_its_patience_is_over_or_its_session_ends(
    heard_until: datetime | None, gone_at: datetime | None, online: bool
) -> None:
    assert is_online(heard_until, gone_at, NOW) is online


@pytest.mark.parametrize(
    ("every", "seconds"), [(None, DEFAULT_EXPIRY_S), (30.0, DEFAULT_EXPIRY_S), (3600.0, 7200.0), (1e9, 7 * 86400.0)]
)
def test_a_device_that_speaks_seldom_is_waited_for_longer(every: float | None, seconds: float) -> None:
    assert patience_s(every) == seconds


def test_silence_counts_only_while_the_registry_listened() -> None:
    assert as_of(None, NOW) == NOW
    assert as_of(later(-10), NOW) == NOW
    assert as_of(later(-3600), NOW) == later(-3600 + AFTERWARDS_S)
    assert as_of(later(3600), NOW) == NOW  # the clock was set back
    assert unheard(None, NOW) == timedelta()
    assert unheard(later(-20), NOW) == timedelta()
    assert unheard(later(-3600), NOW) == timedelta(hours=1)
    assert unheard(later(3600), NOW) == timedelta()


def heard(*sessions: str, every: float = 1.0) -> tuple[Speakers, datetime]:
    speakers, now = Speakers(), NOW
    for number, session in enumerate(sessions):
        now = later(number * every)
        speakers = speakers.heard(session, now)
    return speakers, now


@pytest.mark.parametrize(
    "sessions",
    [
        ("a",),
        ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"),  # ten restarts
        ("a", "a", "b", "b"),
        ("b", "a", "b"),  # what a of before the restart said came late
        ("a", "b", "a", "b"),
    ],
)
def test_an_agent_that_restarts_has_no_rival(sessions: tuple[str, ...]) -> None:
    speakers, now = heard(*sessions)
    assert speakers.rivals(now) == ()


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
def test_sessions_that_speak_in_turn_are_several_agents(names: str) -> None:
    speakers, now = heard(*(names * 4))
    assert set(speakers.rivals(now)) <= set(names)
    assert len(speakers.rivals(now)) == 2
    assert speakers.rivals(now + timedelta(seconds=RIVAL_WINDOW_S + 1)) == ()  # one of them was stopped


def test_returns_that_are_far_apart_are_no_rivals() -> None:
    speakers, now = heard(*("ab" * 4), every=RIVAL_WINDOW_S + 1)
    assert speakers.rivals(now) == ()


def test_what_was_retained_of_a_session_that_another_followed_is_out_of_date() -> None:
    speakers, _ = heard("a", "b")
    assert ended_before(speakers.sessions, "a")
    assert not ended_before(speakers.sessions, "b")
    assert not ended_before(speakers.sessions, "c")
