"""How a client reaches its broker, and as whom."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypedDict, Union
from urllib.parse import unquote, urlsplit

from ...certificates import TlsFiles
from ...contracts.topics import DEFAULT_PREFIX, NAME, REPLIES, Topics

PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
"""Schemes of a broker's address, and their usual ports."""
PathLike = Union[str, "os.PathLike[str]"]
Identity = Union[PathLike, Sequence[PathLike]]
"""A PEM file with a certificate and its key, or the two files."""
EXAMPLE_URL = "mqtt://127.0.0.1"
MAX_SECONDS = (1 << 32) - 1
"""Of a time-out: the longest expiry of a message (MQTT 5.0, section 3.3.2.3.3)."""
_NAME = re.compile(NAME)


@dataclass(frozen=True)
class Broker:
    """Where it is, as an address says it."""

    host: str
    port: int
    tls: bool = False
    websocket_path: str = ""
    """Empty: MQTT over TCP."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Without the password."""
        return f"{self.host}:{self.port}"


class ClientOptions(TypedDict, total=False):
    """What the constructors of both clients take by name; `Client` describes it."""

    prefix: str
    username: str | None
    password: str | None
    ca_file: PathLike | None
    identity: Identity | None
    client_id: str | None
    reply_prefix: str
    protocol: Literal["5", "3.1.1"]
    keepalive: int
    connect_timeout: float
    when_offline: Literal["fail", "wait"]
    presence: bool
    max_in_flight: int
    max_bytes_in_flight: int
    tracing: bool


@dataclass(frozen=True)
class ClientSettings:
    """Everything that a client is told once."""

    broker: Broker
    topics: Topics
    client_id: str
    reply_topic: str
    v5: bool = True
    tls: TlsFiles | None = None
    keepalive_s: int = 30
    connect_timeout_s: float = 10.0
    wait_when_offline: bool = False
    watch_presence: bool = True
    max_in_flight: int = 1024
    max_bytes_in_flight: int = 256 << 20
    tracing: bool = False


def parse_broker(url: str, username: str | None = None, password: str | None = None) -> Broker:
    """`mqtt://`, `mqtts://`, `ws://` or `wss://` with a host. Raises ValueError, TypeError."""
    if not isinstance(url, str):
        raise TypeError(f"the broker's address is a {type(url).__name__}: give a str, for instance {EXAMPLE_URL!r}")
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(
            f"the broker's address {url.rpartition('@')[2]!r} must begin with one of {', '.join(PORTS)} and name a "
            f"host: SCHEME://HOST[:PORT], for instance {EXAMPLE_URL}"
        )
    web = parts.scheme in ("ws", "wss")
    if not web and parts.path.strip("/"):
        raise ValueError(f"the broker's address has the path {parts.path!r}: give the fleet's topics with prefix=")
    return Broker(
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        tls=parts.scheme in ("mqtts", "wss"),
        websocket_path=(parts.path if len(parts.path) > 1 else "/mqtt") if web else "",
        username=username if username is not None else unquote(parts.username) if parts.username else None,
        password=password if password is not None else unquote(parts.password) if parts.password else None,
    )


def make_settings(
    url: str,
    *,
    prefix: str = DEFAULT_PREFIX,
    username: str | None = None,
    password: str | None = None,
    ca_file: PathLike | None = None,
    identity: Identity | None = None,
    client_id: str | None = None,
    reply_prefix: str = REPLIES,
    protocol: str = "5",
    keepalive: int = 30,
    connect_timeout: float = 10.0,
    when_offline: str = "fail",
    presence: bool = True,
    max_in_flight: int = 1024,
    max_bytes_in_flight: int = 256 << 20,
    tracing: bool = False,
) -> ClientSettings:
    """Checks what a client's constructor was given. Raises ValueError, TypeError."""
    broker = parse_broker(url, username, password)
    if not broker.tls and (ca_file is not None or identity is not None):
        raise ValueError("ca_file and identity are for TLS: give an address that begins with mqtts:// or wss://")
    for name, value, allowed in (
        ("protocol", protocol, ("5", "3.1.1")),
        ("when_offline", when_offline, ("fail", "wait")),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: one of {', '.join(allowed)}")
    check_seconds("connect_timeout", connect_timeout)
    check_count("keepalive", keepalive, 1, 65535)
    check_count("max_in_flight", max_in_flight, 1)
    check_count("max_bytes_in_flight", max_bytes_in_flight, 1)
    topics = Topics(prefix)
    name = client_id if client_id is not None else f"modelfleet-{secrets.token_hex(8)}"
    reply_topic = f"{reply_prefix}/{name}/{secrets.token_hex(8)}"
    if not topics.allows_reply(reply_topic):
        raise ValueError(
            f"reply topic {reply_topic!r}: reply_prefix must lie outside of {prefix!r}, and neither it nor client_id "
            "may contain wildcards or control characters"
        )
    return ClientSettings(
        broker=broker,
        topics=topics,
        client_id=name,
        reply_topic=reply_topic,
        v5=protocol == "5",
        tls=TlsFiles(Path(ca_file) if ca_file else None, *_identity(identity)) if broker.tls else None,
        keepalive_s=keepalive,
        connect_timeout_s=connect_timeout,
        wait_when_offline=when_offline == "wait",
        watch_presence=presence,
        max_in_flight=max_in_flight,
        max_bytes_in_flight=max_bytes_in_flight,
        tracing=tracing,
    )


def _identity(identity: Identity | None) -> tuple[Path | None, Path | None]:
    """(certificate, key)."""
    if identity is None:
        return None, None
    if isinstance(identity, (str, os.PathLike)):
        return Path(identity), Path(identity)
    certificate, key = identity
    return Path(certificate), Path(key)


def check_name(kind: str, name: Any) -> str:
    """A device, model or pool as one level of a topic. Raises ValueError."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(f"{kind} {name!r}: 1 to 64 of a-z 0-9 . _ -, beginning and ending with a letter or digit")
    found: str = name
    return found


def check_seconds(name: str, value: Any) -> None:
    """A time-out, given as the argument `name`. Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise TypeError(f"{name}={value!r}: give a number of seconds")
    if not 0 < float(value) <= MAX_SECONDS:
        raise ValueError(f"{name}={value!r}: give a number of seconds over 0, at most {MAX_SECONDS}")


def check_count(name: str, value: Any, least: int, most: int | None = None) -> None:
    """A whole number, given as the argument `name`. Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise TypeError(f"{name}={value!r}: give a whole number")
    if int(value) < least or (most is not None and int(value) > most):
        raise ValueError(f"{name}={value!r}: give {f'at least {least}' if most is None else f'{least} to {most}'}")
