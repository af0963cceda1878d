"""A request that comes twice is run once, and its reply is sent to everyone who asked."""

from __future__ import annotations

from agent.dataplane.dedupe import MAX_WAITERS, Dedupe, DedupeVerdict, Key, request_key
from registry.inference.reply import Reply

REPLY = Reply((b"head", memoryview(b"tensor")), 4, "application/octet-stream")
ONE = request_key("me/replies", "id-1", b"payload")


def test_a_repeat_while_it_runs_waits_and_gets_the_reply_with_its_own_correlation() -> None:
    dedupe: Dedupe[str] = Dedupe()
    assert dedupe.begin(ONE, "c1", 0.0) == (DedupeVerdict.RUN, None)
    assert dedupe.begin(ONE, "c2", 0.1) == (DedupeVerdict.WAIT, None)
    assert dedupe.begin(ONE, "c3", 0.2) == (DedupeVerdict.WAIT, None)
    assert dedupe.finish(ONE, REPLY, 1.0) == ["c2", "c3"]


def test_a_repeat_afterwards_gets_the_stored_reply_though_the_slot_was_used_again() -> None:
    dedupe: Dedupe[str] = Dedupe()
    memory = bytearray(b"tensor")
    dedupe.begin(ONE, "c1", 0.0)
    dedupe.finish(ONE, Reply((b"head", memoryview(memory)), 4, "application/octet-stream"), 1.0)
    memory[:] = b"others"
    verdict, reply = dedupe.begin(ONE, "c2", 2.0)
    assert verdict is DedupeVerdict.REPEAT
    assert reply is not None
    assert (reply.join(), reply.header_length) == (b"headtensor", 4)
    assert dedupe.counters.repeated == 1


def test_the_same_id_with_other_content_or_another_asker_is_another_request() -> None:
    dedupe: Dedupe[str] = Dedupe()
    dedupe.begin(ONE, "c1", 0.0)
    dedupe.finish(ONE, REPLY, 0.0)
    for other in (request_key("me/replies", "id-1", b"other"), request_key("you/replies", "id-1", b"payload")):
        assert dedupe.begin(other, "c", 0.0) == (DedupeVerdict.RUN, None)


def test_after_its_time_a_reply_is_forgotten() -> None:
    dedupe: Dedupe[str] = Dedupe(ttl_s=10)
    dedupe.begin(ONE, "c", 0.0)
    dedupe.finish(ONE, REPLY, 5.0)
    assert dedupe.begin(ONE, "c", 14.9)[0] is DedupeVerdict.REPEAT
    assert dedupe.begin(ONE, "c", 15.0)[0] is DedupeVerdict.RUN
    assert dedupe.stored_bytes == 0


def test_a_failed_request_is_not_remembered_and_its_waiters_are_told() -> None:
    dedupe: Dedupe[str] = Dedupe()
    dedupe.begin(ONE, "c1", 0.0)
    dedupe.begin(ONE, "c2", 0.0)
    assert dedupe.abandon(ONE) == ["c2"]
    assert dedupe.begin(ONE, "c3", 0.0) == (DedupeVerdict.RUN, None)


def test_waiters_are_bounded() -> None:
    dedupe: Dedupe[int] = Dedupe()
    dedupe.begin(ONE, 0, 0.0)
    verdicts = [dedupe.begin(ONE, number, 0.0)[0] for number in range(MAX_WAITERS + 1)]
    assert verdicts == [DedupeVerdict.WAIT] * MAX_WAITERS + [DedupeVerdict.REFUSE]
    assert len(dedupe.finish(ONE, REPLY, 0.0)) == MAX_WAITERS


def keys(count: int) -> list[Key]:
    return [request_key("t", f"id-{number}", b"") for number in range(count)]


def test_entries_and_bytes_are_bounded_oldest_first() -> None:
    for dedupe in (Dedupe[str](max_entries=2), Dedupe[str](max_bytes=25)):
        for key in keys(3):
            dedupe.begin(key, "c", 0.0)
            dedupe.finish(key, REPLY, 0.0)
        assert len(dedupe) == 2
        assert dedupe.stored_bytes == 20
        assert dedupe.counters.evicted == 1
        assert [dedupe.begin(key, "c", 0.0)[0] for key in keys(3)[1:]] == [DedupeVerdict.REPEAT] * 2


def test_a_reply_over_all_room_is_not_kept_and_does_not_push_others_out() -> None:
    dedupe: Dedupe[str] = Dedupe(max_bytes=15)
    small, large = keys(2)
    dedupe.begin(small, "c", 0.0)
    dedupe.finish(small, REPLY, 0.0)
    dedupe.begin(large, "c", 0.0)
    dedupe.finish(large, Reply((b"x" * 16,), None, ""), 0.0)
    assert dedupe.begin(small, "c", 0.0)[0] is DedupeVerdict.REPEAT
    assert dedupe.begin(large, "c", 0.0)[0] is DedupeVerdict.RUN


def test_with_too_many_running_a_request_runs_without_memory() -> None:
    dedupe: Dedupe[str] = Dedupe(max_entries=1)
    first, second = keys(2)
    dedupe.begin(first, "c", 0.0)
    assert dedupe.begin(second, "c", 0.0) == (DedupeVerdict.RUN, None)
    assert dedupe.begin(second, "c", 0.0) == (DedupeVerdict.RUN, None)
    assert dedupe.counters.untracked == 2
    assert dedupe.finish(second, REPLY, 0.0) == []
