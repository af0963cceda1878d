"""A proxy with TLS before an HTTP server, as nginx of docs/console.md: it passes on `Host` and says from where."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

CLIENT = "203.0.113.9"
"""From there it says that its requests come."""
_BEFORE_HEADERS = b" HTTP/1.1\r\n"


class TlsProxy:
    """Listens on a free loopback port; one request a connection."""

    def __init__(self, target: int, context: ssl.SSLContext) -> None:
        self._target = target
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            plain.settimeout(60)
            with (
                self._context.wrap_socket(plain, server_side=True) as near,
                socket.create_connection(("127.0.0.1", self._target), timeout=60) as far,
            ):
                head = bytearray()
                while b"\r\n\r\n" not in head:
                    more = near.recv(1 << 16)
                    if not more:
                        return
                    head += more
                said = f"X-Forwarded-For: {CLIENT}\r\nConnection: close\r\n".encode()
                sent = bytes(head).replace(b"\r\nConnection: keep-alive", b"")
                far.sendall(sent.replace(_BEFORE_HEADERS, _BEFORE_HEADERS + said, 1))
                length = _length(bytes(head)) - (len(head) - head.index(b"\r\n\r\n") - 4)
                while length > 0:
                    more = near.recv(1 << 16)
                    far.sendall(more)
                    length -= len(more) or length
                while data := far.recv(1 << 16):
                    near.sendall(data)

    def close(self) -> None:
        """Takes no more."""
        self._listener.close()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
