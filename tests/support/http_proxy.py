"""A forward proxy for HTTP as companies have them: CONNECT and absolute addresses, itself over TLS where asked."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from urllib.parse import urlsplit


class HttpProxy:
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
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{shown}:{self.port}"
        self.seen: list[str] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> HttpProxy:
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
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), client:
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
                    self._relay(near, far)

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        while not self._stopping.is_set():
            ready = select.select((near, far), (), (), 0.05)[0]
            if isinstance(near, ssl.SSLSocket) and near.pending():
                ready = [near]
            for source in ready:
                data = source.recv(1 << 16)
                if not data:
                    return
                (far if source is near else near).sendall(data)
