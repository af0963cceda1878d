"""The one private member of paho that the fast path uses: this fails when paho changes it."""

from __future__ import annotations

import socket

import paho.mqtt.client as mqtt
import pytest

from registry.inference.mqtt.fast import BufferedSocket, FastClient, fast_path_fault


def test_the_installed_paho_works_as_the_fast_path_needs() -> None:
    assert fast_path_fault() == ""


def test_a_paho_without_the_member_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mqtt.Client, "_create_socket")
    assert "no _create_socket" in fast_path_fault()


def test_a_paho_whose_member_takes_arguments_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt.Client, "_create_socket", lambda self, timeout: None)
    assert "other arguments" in fast_path_fault()


def test_a_paho_that_does_not_use_the_returned_socket_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FastClient, "_create_socket", mqtt.Client._create_socket)
    assert fast_path_fault() != ""


def test_everything_queued_arrives_in_order_through_a_small_send_buffer() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    buffered = BufferedSocket(near)
    expected = b""
    for number in range(50):
        packet = bytes((number,)) * (number * 997)
        expected += packet
        if number % 3:
            buffered.put(packet)
        else:
            assert buffered.send(packet) == len(packet)
    received = b""
    done = False
    while not done or len(received) < len(expected):
        done = buffered.flush()
        received += far.recv(65536)
    assert received == expected
    near.close()
    far.close()


def test_paho_reads_what_it_was_given_then_the_end() -> None:
    near, far = socket.socketpair()
    buffered = BufferedSocket(near)
    with pytest.raises(BlockingIOError):
        buffered.recv(1)
    buffered.inbox += b"abc"
    assert (buffered.recv(2), buffered.pending(), buffered.recv(9)) == (b"ab", 1, b"c")
    buffered.ended = True
    assert buffered.recv(1) == b""
    near.close()
    far.close()
