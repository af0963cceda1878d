"""A TCP proxy on loopback that cuts connections: after so many bytes in one direction, a given number of times."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import ExitStack, suppress


class CuttingProxy:
    """Forwards to `port`; the first `cuts` connections that carry over `after` bytes are ended there.

    Args:
        port: Where the real server listens.
        upstream: Count what the client sends (else what the server sends).
        after: Bytes of one connection that still pass.
        cuts: How often.
    """

    def __init__(self, port: int, *, upstream: bool, after: int, cuts: int) -> None:
        self._port, self._upstream, self._after = port, upstream, after
        self._left = cuts
        self._lock = threading.Lock()
        self.happened = 0
        self.carried = 0
        """Bytes of the counted direction that passed, all connections together."""
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> CuttingProxy:
        """Listens already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Every connection is ended."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            stack.enter_context(client)
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._port)))
            counted = client if self._upstream else server
            passed = 0
            while not self._stopping.is_set():
                for source in select.select((client, server), (), (), 0.05)[0]:
                    sink = server if source is client else client
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is counted:
                        if passed + len(data) > self._after and self._take_cut():
                            sink.sendall(data[: max(0, self._after - passed)])
                            return
                        passed += len(data)
                        self._carry(len(data))
                    sink.sendall(data)

    def _carry(self, count: int) -> None:
        with self._lock:
            self.carried += count

    def _take_cut(self) -> bool:
        with self._lock:
            if self._left == 0:
                return False
            self._left -= 1
            self.happened += 1
            return True
