"""Through which proxy an address is reached, from the variables that other programs read, too. Pure.

`HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY` name a proxy, `NO_PROXY` what is reached without one; the names in small
letters win. Only the variable that applies is looked at: a wrong one for another scheme harms nobody. An entry of
`NO_PROXY` that cannot be read matches nothing. This host's loopback is never reached through a proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

SOCKS = frozenset({"socks5", "socks5h"})
SCHEMES = ("http", "https", "socks5", "socks5h")
_DEFAULT_PORT = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyFault(ValueError):  # noqa: N818 - the environment's, not an Error of ours
    """A variable names a proxy that cannot be used; the message names the variable and says what to do."""


@dataclass(frozen=True)
class Proxy:
    """One proxy."""

    scheme: str
    """One of SCHEMES. Over `https` the proxy itself is spoken to over TLS."""
    host: str
    """Without brackets."""
    port: int
    variable: str
    """Which variable named it."""
    login: tuple[str, str] | None = field(default=None, repr=False)
    """User and password."""


def proxy_for(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way to `url`; None: the way is direct.

    Raises:
        ProxyFault: the variable that applies names no proxy that could be used.
    """
    target = urlsplit(url)
    host = (target.hostname or "").rstrip(".")
    if is_loopback(host) or _excepted(host, _port(target), _value(environment, "no_proxy")[1]):
        return None
    for name in (f"{target.scheme}_proxy", "all_proxy"):
        variable, value = _value(environment, name)
        if value:
            return _parsed(variable, value)
    return None


def is_loopback(host: str) -> bool:
    """Is it this host itself, by name or address?"""
    address = _address(host)
    return address.is_loopback if address is not None else host == "localhost" or host.endswith(".localhost")


def _value(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that is set, and what it says."""
    for variable in (name, name.upper()):
        if variable in environment:
            return variable, environment[variable].strip()
    return name, ""


def _parsed(variable: str, value: str) -> Proxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port, host = parts.port, parts.hostname or ""
        if port == 0 or not host or any(c.isspace() for c in host):
            raise ValueError("it has no host")  # noqa: TRY301 - one message for all
    except ValueError as error:
        raise ProxyFault(
            f"{variable}={_shown(value)} is no proxy's address ({error}): "
            "write it like http://proxy:3128, http://[fd00::1]:3128 or https://proxy, or unset it"
        ) from None
    if parts.scheme not in SCHEMES:
        raise ProxyFault(
            f"{variable}={_shown(value)} names a kind of proxy that is not supported: use one of "
            f"{', '.join(SCHEMES)}, or name the registry in NO_PROXY"
        )
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return Proxy(parts.scheme, host, port or _DEFAULT_PORT[parts.scheme], variable, login)


def _shown(value: str) -> str:
    """Without the password, bounded."""
    scheme, mark, rest = value.rpartition("://")
    text = f"{scheme}{mark}{rest.rpartition('@')[2]}"
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _excepted(host: str, port: int | None, entries: str) -> bool:
    address = _address(host)
    return any(_matches(entry, host, address, port) for entry in entries.replace(",", " ").lower().split())


def _matches(entry: str, host: str, address: _Address | None, port: int | None) -> bool:
    if entry == "*":
        return True
    entry = entry.rpartition("://")[2]
    if address is not None:
        network = _network(entry)
        if network is not None:
            return address in network
    name, wanted = _name_and_port(entry)
    if wanted is not None and wanted != port:
        return False
    if address is not None:
        return _address(name) == address
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _name_and_port(entry: str) -> tuple[str, int | None]:
    """`name`, `name:8470`, `[fd00::1]:8470` apart; a port that is none is part of a name that matches nothing."""
    name, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in name or name.startswith("[")):
        return name, int(port)
    return entry, None


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if entry.startswith("["):
        inside, _, rest = entry[1:].partition("]")
        entry = f"{inside}{rest}" if not rest or rest.startswith("/") else entry
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


def _address(host: str) -> _Address | None:
    """With or without brackets; the zone of a link-local address says nothing here."""
    try:
        found = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def _port(target: SplitResult) -> int | None:
    try:
        return target.port or _DEFAULT_PORT.get(target.scheme)
    except ValueError:
        return None
