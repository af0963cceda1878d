"""The HTTP connections to the registry: through which proxy, under which authority, with which credential.

The token's file is read for every exchange, and a certificate authority's file that has changed on the disk makes new
connections: who renews one needs no restart. A file that is not there for a moment, while it is being replaced, leaves
what was read last.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from agent.adapters.network.registry_answers import UnreachableError
from agent.errors import PermanentError
from registry.certificates import Fingerprint, fingerprint

if TYPE_CHECKING:
    import httpx  # It takes 0.15 s to import: an agent that has all it needs starts without it.

DEADLINE_FACTOR = 1.5
"""A short exchange may take so many times what the registry may be silent for, all in all."""


class _Shared:
    """A client and how many exchanges use it; `retired`: the last one closes it."""

    def __init__(self, client: httpx.Client, made_of: Fingerprint) -> None:
        self.client = client
        self.made_of = made_of
        self.users = 0
        self.retired = False


class RegistryConnection:
    """Thread-safe. Connects at the first exchange."""

    def __init__(self, url: str, *, token: Callable[[], str | None], ca_file: str | None, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._shared: _Shared | None = None

    def close(self) -> None:
        """Ends open connections, and with them downloads under way."""
        with self._lock:
            if self._shared is not None:
                self._shared.client.close()

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        content: bytes | Iterator[bytes] | None = None,
        *,
        limit_s: float | None = None,
        body_read: int = 0,
    ) -> Iterator[httpx.Response]:
        """One exchange; its answer's body is read by the caller, inside `translated`.

        Args:
            method: HTTP's.
            path: Below the registry's address.
            headers: Besides those that every request has.
            content: The request's body.
            limit_s: As `registry.httpclient.transport.Limit`; None: that of short exchanges.
            body_read: As there.

        Raises:
            UnreachableError: it cannot even be tried: the token, the authority or the proxy cannot be used.
        """
        from registry.httpclient.transport import LIMIT, Limit  # noqa: PLC0415 - see above

        credential = self._credential()
        limit = Limit(self._timeout_s * DEADLINE_FACTOR if limit_s is None else limit_s, body_read=body_read)
        shared = self._take()
        try:
            with shared.client.stream(
                method, path, headers={**headers, **credential}, content=content, extensions={LIMIT: limit}
            ) as answer:
                yield answer
        finally:
            self._give_back(shared)

    def _credential(self) -> dict[str, str]:
        try:
            token = self._token()
        except PermanentError as error:
            raise UnreachableError(error.message) from None
        if not token:
            return {}
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise UnreachableError("the registry's token has characters that no token has; is it the right file?")
        return {"Authorization": f"Bearer {token}"}

    def _take(self) -> _Shared:
        with self._lock:
            made_of = fingerprint(self._ca_file)
            shared = self._shared
            if shared is None or (made_of is not None and shared.made_of != made_of):
                try:
                    fresh = _Shared(self._make(), made_of)
                except UnreachableError:
                    if shared is None:
                        raise
                    fresh = shared  # half written: the next exchange looks again
                if shared is not None and fresh is not shared:
                    shared.retired = True
                    self._close_unused(shared)
                self._shared = shared = fresh
            shared.users += 1
            return shared

    def _give_back(self, shared: _Shared) -> None:
        with self._lock:
            shared.users -= 1
            self._close_unused(shared)

    @staticmethod
    def _close_unused(shared: _Shared) -> None:
        if shared.retired and shared.users == 0:
            shared.client.close()

    def _make(self) -> httpx.Client:
        import httpx  # noqa: PLC0415 - see above

        from registry.httpclient.proxies import ProxyFault, proxy_for  # noqa: PLC0415 - with httpx
        from registry.httpclient.transport import HttpTransport  # noqa: PLC0415 - with httpx

        try:
            proxy = proxy_for(self.url, os.environ)
            secure = proxy is not None and proxy.scheme == "https"
            transport = HttpTransport(
                self._authorities(alone=True) if self.url.startswith("https:") else None,
                proxy,
                self._authorities(alone=False) if secure else None,
            )
            return httpx.Client(
                transport=transport,
                base_url=self.url,
                headers={"Accept-Encoding": "identity", "User-Agent": "modelfleet-agent"},
                timeout=self._timeout_s,
                follow_redirects=False,
                trust_env=False,
            )
        except OSError as error:  # ssl.SSLError is one, too
            file = f"registry.ca_file {self._ca_file}" if self._ca_file else "the system's list of authorities"
            raise UnreachableError(f"{file} cannot be used: {error}") from None
        except (ProxyFault, httpx.InvalidURL) as error:
            raise UnreachableError(str(error)) from None

    def _authorities(self, *, alone: bool) -> ssl.SSLContext:
        """Whom certificates have to be from: with a file of its own from that, for a proxy from the usual ones, too."""
        import httpx  # noqa: PLC0415 - see above

        if self._ca_file and alone:
            return ssl.create_default_context(cafile=self._ca_file)
        context = httpx.create_ssl_context()
        if self._ca_file:
            context.load_verify_locations(self._ca_file)
        return context
