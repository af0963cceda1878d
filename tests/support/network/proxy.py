"""A TCP relay between agent and broker that cuts the stream into pieces, and can stall or sever it."""

from __future__ import annotations

import contextlib
import random
import socket
import threading


class Proxy:
    """Listens on a free loopback port; every direction of every connection is a thread that ends with it."""

    def __init__(self, target: int, largest: int = 1 << 16, seed: int = 0) -> None:
        self._target = target
        self._largest = largest
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.refusing = False
        """True: new connections end at once."""
        self.flowing = threading.Event()
        self.flowing.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    if self.refusing:
                        raise ConnectionRefusedError
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(self._random.randint(1, self._largest)):
                self.flowing.wait()
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def sever(self) -> None:
        """Ends every connection; new ones are taken."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends everything."""
        self.flowing.set()
        self.sever()
        self._listener.close()
        for each in self._open:
            each.close()
