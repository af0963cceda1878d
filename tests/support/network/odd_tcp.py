"""A TCP server on loopback whose every connection is handled by one function, which a test may change at any time."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from typing_extensions import Self

Speak = Callable[[socket.socket], None]


class OddTcp:
    """Use it in `with`. `stopping` is set at its end."""

    def __init__(self, speak: Speak, host: str = "127.0.0.1") -> None:
        self.speak = speak
        self.connections = 0
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self.stopping = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        """Listens already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody is spoken to any more."""
        self.stopping.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._listener.close()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(5)
            self.speak(connection)


def reset(connection: socket.socket) -> None:
    """Ends it with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answer(data: bytes, *, ask_first: bool = True, by_reset: bool = False) -> Speak:
    """Waits for the first bytes of the other side, says `data`, and waits for the other side to end; or resets."""

    def speak(connection: socket.socket) -> None:
        if ask_first:
            connection.recv(1 << 16)
        connection.sendall(data)
        if by_reset:
            reset(connection)
            return
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            continue

    return speak
