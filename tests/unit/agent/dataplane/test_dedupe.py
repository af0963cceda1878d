"""A request that comes twice is run once, and its reply is sent to everyone who asked."""

from __future__ import annotations

import zlib
from typing import Any

from agent.dataplane.dedupe import MAX_WAITERS, Dedupe, DedupeVerdict, Key, fingerprint
from registry.contracts.counters import AGENT_METRICS, Counters
from registry.inference.reply import Reply

REPLY = Reply((b"head", memoryview(b"tensor")), 4, "application/octet-stream")
ONE = Key("m", "me/replies", "id-1", 7, 20)


def memory(**limits: Any) -> Dedupe[Any]:
    return Dedupe(Counters(AGENT_METRICS), **limits)


def test_a_repeat_while_it_runs_waits_and_gets_the_reply_with_its_own_correlation() -> None:
    dedupe = memory()
    assert dedupe.begin(ONE, "c1", 0.0) == (DedupeVerdict.RUN, None)
    assert dedupe.begin(ONE, "c2", 0.1) == (DedupeVerdict.WAIT, None)
    assert dedupe.begin(ONE, "c3", 0.2) == (DedupeVerdict.WAIT, None)
    assert dedupe.finish(ONE, REPLY, 1.0) == ["c2", "c3"]


def test_a_repeat_afterwards_gets_the_stored_reply_though_the_slot_was_used_again() -> None:
    dedupe = memory()
    slot = bytearray(b"tensor")
    dedupe.begin(ONE, "c1", 0.0)
    dedupe.finish(ONE, Reply((b"head", memoryview(slot)), 4, "application/octet-stream"), 1.0)
    slot[:] = b"others"
    verdict, reply = dedupe.begin(ONE, "c2", 2.0)
    assert verdict is DedupeVerdict.REPEAT
    assert reply is not None
    assert (reply.join(), reply.header_length) == (b"headtensor", 4)
    assert dedupe.counters.total("repeats_answered") == 1


def test_the_same_id_with_other_content_or_another_asker_is_another_request() -> None:
    dedupe = memory()
    dedupe.begin(ONE, "c1", 0.0)
    dedupe.finish(ONE, REPLY, 0.0)
    for other in (
        ONE._replace(content=8),
        ONE._replace(model="n"),
        ONE._replace(length=21),
        ONE._replace(response_topic="you/replies"),
    ):
        assert dedupe.begin(other, "c", 0.0) == (DedupeVerdict.RUN, None)


def test_after_its_time_a_reply_is_forgotten() -> None:
    dedupe = memory(ttl_s=10)
    dedupe.begin(ONE, "c", 0.0)
    dedupe.finish(ONE, REPLY, 5.0)
    assert dedupe.begin(ONE, "c", 14.9)[0] is DedupeVerdict.REPEAT
    assert dedupe.begin(ONE, "c", 15.0)[0] is DedupeVerdict.RUN
    assert len(dedupe) == 1


def test_a_failed_request_is_not_remembered_and_its_waiters_are_told() -> None:
    dedupe = memory()
    dedupe.begin(ONE, "c1", 0.0)
    dedupe.begin(ONE, "c2", 0.0)
    assert dedupe.abandon(ONE) == ["c2"]
    assert dedupe.begin(ONE, "c3", 0.0) == (DedupeVerdict.RUN, None)


def test_waiters_are_bounded() -> None:
    dedupe = memory()
    dedupe.begin(ONE, 0, 0.0)
    verdicts = [dedupe.begin(ONE, number, 0.0)[0] for number in range(MAX_WAITERS + 1)]
    assert verdicts == [DedupeVerdict.WAIT] * MAX_WAITERS + [DedupeVerdict.REFUSE]
    assert len(dedupe.finish(ONE, REPLY, 0.0)) == MAX_WAITERS


def keys(count: int) -> list[Key]:
    return [Key("m", "t", f"id-{number}", 0, 0) for number in range(count)]


def test_entries_and_bytes_are_bounded_oldest_first() -> None:
    for dedupe in (memory(max_entries=2), memory(max_bytes=25)):
        for key in keys(3):
            dedupe.begin(key, "c", 0.0)
            dedupe.finish(key, REPLY, 0.0)
        assert len(dedupe) == 2
        assert dedupe.counters.total("kept_replies_dropped") == 1
        assert [dedupe.begin(key, "c", 0.0)[0] for key in keys(3)[1:]] == [DedupeVerdict.REPEAT] * 2


def test_a_reply_over_all_room_is_not_kept_and_does_not_push_others_out() -> None:
    dedupe = memory(max_bytes=15)
    small, large = keys(2)
    dedupe.begin(small, "c", 0.0)
    dedupe.finish(small, REPLY, 0.0)
    dedupe.begin(large, "c", 0.0)
    dedupe.finish(large, Reply((b"x" * 16,), None, ""), 0.0)
    assert dedupe.begin(small, "c", 0.0)[0] is DedupeVerdict.REPEAT
    assert dedupe.begin(large, "c", 0.0)[0] is DedupeVerdict.RUN


def test_with_too_many_running_a_request_runs_without_memory() -> None:
    dedupe = memory(max_entries=1)
    first, second = keys(2)
    dedupe.begin(first, "c", 0.0)
    assert dedupe.begin(second, "c", 0.0) == (DedupeVerdict.RUN, None)
    assert dedupe.begin(second, "c", 0.0) == (DedupeVerdict.RUN, None)
    assert dedupe.counters.total("untracked_requests") == 2
    assert dedupe.finish(second, REPLY, 0.0) == []


def test_a_fingerprint_tells_contents_apart_that_have_one_checksum() -> None:
    """Two texts with the same CRC-32."""
    first, second = b"plumless", b"buckeroo"
    assert zlib.crc32(first) == zlib.crc32(second)
    assert fingerprint((first,)) != fingerprint((second,))
    assert fingerprint((memoryview(first),)) == fingerprint((bytearray(first),))
