"""The inbox between the broker and the database: bounded, in order, patient with what its senders rely on."""

from __future__ import annotations

import threading

from registry.server.mqtt.bridge import Inbox, Received


def message(mid: int, qos: int = 1) -> Received:
    return Received(None, qos, mid, 1)


def mids(taken: list[Received]) -> list[int]:
    return [received.mid for received in taken]


def test_messages_come_out_in_the_order_in_which_they_came() -> None:
    inbox = Inbox(limit=4, reserve=1)
    assert all(inbox.put(message(mid)) for mid in (1, 2, 3))
    assert mids(inbox.take(2, 0, 0)) == [1, 2]
    assert mids(inbox.take(2, 0, 0)) == [3]


def test_messages_without_an_acknowledgement_leave_room_for_the_others() -> None:
    inbox = Inbox(limit=3, reserve=1)
    assert [inbox.put(message(mid, qos=0)) for mid in (1, 2, 3)] == [True, True, False]
    assert inbox.put(message(4))


def test_a_message_that_must_not_be_lost_waits_for_room() -> None:
    inbox = Inbox(limit=1, reserve=0, patience_s=20)
    inbox.put(message(1))
    put: list[bool] = []
    reader = threading.Thread(target=lambda: put.append(inbox.put(message(2))))
    reader.start()
    assert mids(inbox.take(1, 0, 20)) == [1]
    reader.join(20)
    assert put == [True]
    assert mids(inbox.take(1, 0, 0)) == [2]


def test_without_room_in_time_it_is_not_taken() -> None:
    inbox = Inbox(limit=1, reserve=0, patience_s=0.001)
    inbox.put(message(1))
    assert not inbox.put(message(2))
    assert mids(inbox.take(2, 0, 0)) == [1]


def test_closing_ends_every_wait_for_room() -> None:
    inbox = Inbox(limit=1, reserve=0, patience_s=20)
    inbox.put(message(1))
    put: list[bool] = []
    reader = threading.Thread(target=lambda: put.append(inbox.put(message(2))))
    reader.start()
    inbox.close()
    reader.join(20)
    assert put == [False]
    assert mids(inbox.take(1, 0, 0)) == [1]


def test_devices_take_turns_and_each_keeps_its_order() -> None:
    inbox = Inbox(limit=100, reserve=0)
    for mid in range(50):
        inbox.put(Received(None, 1, mid, 1, device="flood"))
    for mid in (100, 101):
        inbox.put(Received(None, 1, mid, 1, device="quiet"))
    inbox.put(Received(None, 1, 200, 1, device="other"))
    assert mids(inbox.take(6, 0, 0)) == [0, 100, 200, 1, 101, 2]
    assert mids(inbox.take(100, 0, 0)) == list(range(3, 50))
    assert len(inbox) == 0
