"""A forward proxy for HTTP as companies have them: CONNECT and absolute addresses, itself over TLS where asked."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from urllib.parse import urlsplit

from tests.support.network.odd_tcp import OddTcp


class HttpProxy(OddTcp):
    """Listens on a free port of `host`; use it in `with`. `seen` has the first line of every request.

    Args:
        tls: The proxy's own certificate; None: it is spoken to in the clear.
        host: Where it listens.
        leads_to: Names and addresses that it alone knows, and what they mean.
    """

    def __init__(
        self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", leads_to: dict[str, str] | None = None
    ) -> None:
        self._tls = tls
        self._leads_to = leads_to or {}
        super().__init__(self._forward, host)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{shown}:{self.port}"
        self.seen: list[str] = []

    def _forward(self, client: socket.socket) -> None:
        with contextlib.suppress(ValueError):
            client.settimeout(10)
            near = self._tls.wrap_socket(client, server_side=True) if self._tls else client
            with near:
                head = b""
                while b"\r\n\r\n" not in head:
                    more = near.recv(1 << 16)
                    if not more:
                        return
                    head += more
                line, _, rest = head.partition(b"\r\n")
                self.seen.append(line.decode("latin-1"))
                method, address, version = line.decode("latin-1").split(" ")
                parts = urlsplit(f"//{address}" if method == "CONNECT" else address)
                name = parts.hostname or ""
                with socket.create_connection((self._leads_to.get(name, name), parts.port or 80), timeout=10) as far:
                    if method == "CONNECT":
                        near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    else:
                        path = parts.path + (f"?{parts.query}" if parts.query else "")
                        far.sendall(f"{method} {path} {version}\r\nConnection: close\r\n".encode() + rest)
                        # Said to the client too, or it would keep a connection that is about to end.
                        answer = far.recv(1 << 16).partition(b"\r\n")
                        near.sendall(answer[0] + b"\r\nConnection: close\r\n" + answer[2])
                    self._relay(near, far)

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        while not self.stopping.is_set():
            ready = select.select((near, far), (), (), 0.05)[0]
            if isinstance(near, ssl.SSLSocket) and near.pending():
                ready = [near]
            for source in ready:
                data = source.recv(1 << 16)
                if not data:
                    return
                (far if source is near else near).sendall(data)
