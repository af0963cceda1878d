"""A topic whose replies seem to end connections is left alone for a while, never for ever."""

from __future__ import annotations

from agent.core.strikes import FIRST_MUTE_S, LONGEST_MUTE_S, LOST_AFTER, MAX_STRIKES, MAX_TOPICS, Strikes

TOPIC, OTHER = b"a", b"b"


def struck(times: int) -> Strikes:
    strikes = Strikes()
    for _ in range(times):
        strikes.strike(TOPIC, 0.0)
    return strikes


def test_a_few_cuts_mute_nobody() -> None:
    assert not struck(MAX_STRIKES - 1).muted(TOPIC, 0.0)


def test_cuts_in_a_row_mute_the_topic_for_seconds_and_no_other() -> None:
    strikes = struck(MAX_STRIKES)
    assert strikes.muted(TOPIC, FIRST_MUTE_S - 1)
    assert not strikes.muted(TOPIC, FIRST_MUTE_S)
    assert not strikes.muted(OTHER, 0.0)


def test_the_pause_grows_with_every_further_cut_up_to_an_hour() -> None:
    strikes = struck(MAX_STRIKES)
    pauses = [strikes.strike(TOPIC, 0.0) for _ in range(100)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 2 * FIRST_MUTE_S
    assert pauses[-1] == LONGEST_MUTE_S
    assert strikes.hopeless(TOPIC)
    assert not struck(LOST_AFTER - 1).hopeless(TOPIC)


def test_one_delivered_message_clears_it() -> None:
    strikes = struck(50)
    strikes.clear(TOPIC)
    assert not strikes
    assert not strikes.muted(TOPIC, 0.0)


def test_the_number_of_suspects_is_bounded() -> None:
    strikes = struck(MAX_STRIKES)
    for number in range(MAX_TOPICS):
        strikes.strike(b"%d" % number, 0.0)
    assert not strikes.muted(TOPIC, 0.0)
