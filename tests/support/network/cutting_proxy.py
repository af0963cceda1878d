"""A TCP proxy on loopback that cuts connections: after so many bytes in one direction, a given number of times."""

from __future__ import annotations

import select
import socket
import threading

from tests.support.network.odd_tcp import OddTcp


class CuttingProxy(OddTcp):
    """Forwards to `port`; the first `cuts` connections that carry over `after` bytes are ended there.

    Args:
        port: Where the real server listens.
        upstream: Count what the client sends (else what the server sends).
        after: Bytes of one connection that still pass.
        cuts: How often.
    """

    def __init__(self, port: int, *, upstream: bool, after: int, cuts: int) -> None:
        self._far, self._upstream, self._after = port, upstream, after
        self._left = cuts
        self._lock = threading.Lock()
        self.happened = 0
        self.carried = 0
        """Bytes of the counted direction that passed, all connections together."""
        super().__init__(self._forward)
        self.url = f"http://127.0.0.1:{self.port}"

    def _forward(self, client: socket.socket) -> None:
        client.settimeout(None)
        with socket.create_connection(("127.0.0.1", self._far)) as server:
            counted = client if self._upstream else server
            passed = 0
            while not self.stopping.is_set():
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
