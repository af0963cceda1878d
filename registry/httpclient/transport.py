"""httpx over connections on which every exchange has an end.

httpx bounds each read and write, not their sum: a peer that sends a byte a second keeps a thread for hours. Here each
exchange carries a `Limit`, and every connect, handshake, read and write on its connection gets only what is left of
it. This goes through the public extension points: a transport of httpx, a network backend of httpcore.

Not bounded is the look-up of a name: the system's resolver has its own time-outs.
"""

from __future__ import annotations

import importlib.util
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpcore
import httpx

from registry import tracing
from registry.httpclient.proxies import SOCKS, Proxy, ProxyFault

LIMIT = "modelfleet.limit"
"""The extension of a request that holds its Limit."""
PIECE = 64 << 10
"""Bytes that count as progress."""
MAX_CONNECTIONS = 16


class Limit:
    """How long one exchange may take: `seconds`, and as long again after every PIECE bytes that were carried.

    So a short exchange has a total deadline, and a long one has to make progress. For one exchange, in one thread.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic, *, body_read: int = 0) -> None:
        """`body_read`: bytes that one read of the answer's body may bring, where httpcore asks for less."""
        self.body_read = body_read
        self._seconds = seconds
        self._clock = clock
        self._until = clock() + seconds
        self._carried = 0

    def left(self, timeout: float | None, fault: type[httpcore.TimeoutException]) -> float:
        """Seconds that the next step may take, at most `timeout`. Raises `fault` when the time is over."""
        left = self._until - self._clock()
        if left <= 0:
            raise fault(f"the exchange did not make {PIECE >> 10} KiB or its end in {self._seconds:g} s")
        return left if timeout is None else min(left, timeout)

    def carried(self, count: int) -> None:
        """So many bytes came or went."""
        self._carried += count
        if self._carried >= PIECE:
            self._carried = 0
            self._until = self._clock() + self._seconds


class _Current(threading.local):
    """The limit of the exchange that this thread does."""

    limit: Limit | None = None
    in_body = False

    def left(self, timeout: float | None, fault: type[httpcore.TimeoutException]) -> float | None:
        return timeout if self.limit is None else self.limit.left(timeout, fault)

    def carried(self, count: int) -> None:
        if self.limit is not None:
            self.limit.carried(count)

    @contextmanager
    def under(self, limit: Limit | None) -> Iterator[None]:
        before, self.limit = self.limit, limit
        try:
            yield
        finally:
            self.limit = before


class _Stream(httpcore.NetworkStream):
    """A connection, plain or with TLS."""

    def __init__(self, inner: httpcore.NetworkStream, current: _Current) -> None:
        self._inner = inner
        self._current = current

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        current = self._current
        if current.in_body and current.limit is not None:
            # httpcore asks for 64 KiB and hands whatever comes to h11, which takes any amount: longer pieces
            # cost less of the processor.
            max_bytes = max(max_bytes, current.limit.body_read)
        data = self._inner.read(max_bytes, current.left(timeout, httpcore.ReadTimeout))
        current.carried(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), PIECE):
            piece = buffer[start : start + PIECE]
            self._inner.write(piece, self._current.left(timeout, httpcore.WriteTimeout))
            self._current.carried(len(piece))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._current.left(timeout, httpcore.ConnectTimeout)
        name = server_hostname.strip("[]") if server_hostname else server_hostname
        try:
            return _Stream(self._inner.start_tls(ssl_context, name, left), self._current)
        except ValueError as error:  # a name that no certificate could have
            raise httpcore.ConnectError(f"{name}: {error}") from error

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Opens connections. An IPv6 address stands in brackets until here, or a proxy would be asked for nonsense."""

    def __init__(self, current: _Current, proxy: Proxy | None) -> None:
        """`proxy`: with whom the connections are, for messages; None: with the registry."""
        self._sockets = httpcore.SyncBackend()
        self._current = current
        self._with = f"the proxy {proxy.host}:{proxy.port} that {proxy.variable} names: " if proxy is not None else ""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._current.left(timeout, httpcore.ConnectTimeout)
        try:
            inner = self._sockets.connect_tcp(host.strip("[]"), port, left, local_address, socket_options)
        except (ValueError, OverflowError) as error:  # a name that the system's resolver cannot even be asked for
            raise httpcore.ConnectError(f"{self._with}{host}: {error}") from error
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise type(error)(f"{self._with}{error}") from error
        return _Stream(inner, self._current)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class HttpTransport(httpx.BaseTransport):
    """Connections to one registry, direct or through `proxy`. Thread-safe.

    Args:
        verify: Whom the registry's certificate has to be from; None: the address is not https.
        proxy: As `proxy_for` says; None: the way is direct.
        proxy_verify: Whom the certificate of a proxy that is spoken to over TLS has to be from.

    Raises:
        ProxyFault: what this kind of proxy needs is not installed.
    """

    def __init__(
        self, verify: ssl.SSLContext | None, proxy: Proxy | None, proxy_verify: ssl.SSLContext | None = None
    ) -> None:
        self._current = _Current()
        self._pool = _pool(verify, proxy, proxy_verify, _Backend(self._current, proxy))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx says."""
        limit = request.extensions.get(LIMIT)
        if tracing.is_on():
            request.headers.update(tracing.headers())
        with self._current.under(limit), _as_httpx():
            answer = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=_bracketed(request.url.raw_host),
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=cast("Iterable[bytes]", request.stream),
                    extensions=request.extensions,
                )
            )
        body = _Body(cast("Iterable[bytes]", answer.stream), self._current, limit)
        return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)

    def close(self) -> None:
        """Ends the connections."""
        with _as_httpx():
            self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, pieces: Iterable[bytes], current: _Current, limit: Limit | None) -> None:
        self._pieces = pieces
        self._current = current
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        """Thousands of pieces a second come through here: no context managers."""
        current, limit = self._current, self._limit
        pieces = iter(self._pieces)
        while True:
            before, current.limit = current.limit, limit
            current.in_body = True
            try:
                piece = next(pieces, None)
            except FAULTS as error:
                raise _of_httpx(error) from error
            finally:
                current.limit, current.in_body = before, False
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            with self._current.under(self._limit), _as_httpx():
                close()


def _pool(
    verify: ssl.SSLContext | None,
    proxy: Proxy | None,
    proxy_verify: ssl.SSLContext | None,
    backend: httpcore.NetworkBackend,
) -> httpcore.ConnectionPool:
    common: dict[str, Any] = {
        "ssl_context": verify,
        "max_connections": MAX_CONNECTIONS,
        "keepalive_expiry": 5.0,
        "network_backend": backend,
    }
    if proxy is None:
        return httpcore.ConnectionPool(**common)
    login = (proxy.login[0].encode(), proxy.login[1].encode()) if proxy.login is not None else None
    url = httpcore.URL(scheme=proxy.scheme, host=_bracketed(proxy.host.encode()), port=proxy.port, target="/")
    if proxy.scheme not in SOCKS:
        own = proxy_verify if proxy.scheme == "https" else None
        return httpcore.HTTPProxy(proxy_url=url, proxy_auth=login, proxy_ssl_context=own, **common)
    if importlib.util.find_spec("socksio") is None:
        raise ProxyFault(
            f"{proxy.variable} names a SOCKS proxy, for which the package socksio is missing: "
            "pip install 'httpx[socks]', or name the registry in NO_PROXY"
        )
    return httpcore.SOCKSProxy(proxy_url=url, proxy_auth=login, **common)


def _bracketed(host: bytes) -> bytes:
    return b"[" + host + b"]" if b":" in host and not host.startswith(b"[") else host


FAULTS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


def _of_httpx(error: Exception) -> httpx.TransportError:
    """httpx has each of httpcore's errors under the same name."""
    fault = cast("type[httpx.TransportError]", getattr(httpx, type(error).__name__))
    return fault(str(error))


@contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except FAULTS as error:
        raise _of_httpx(error) from error
