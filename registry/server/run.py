"""Runs the server: refuses what is not safe, listens, says when it is ready, stops in order.

At SIGHUP it reads again what can change while the registry runs, or, when a terminal hung up, ends in order. The
handler writes one byte: it may interrupt any line, with any lock held. A thread does the work.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from registry import tracing
from registry.client.address import ADMIN_TOKEN_FILE
from registry.config import RegistryConfig
from registry.errors import InvalidError, RegistryError, StartError
from registry.log_format import set_up_logs
from registry.server.app import create_app
from registry.server.composition import Services, build_services, given_admin_token
from registry.server.connections import Connections, connections_for, raise_open_files
from registry.server.fleet_metrics import own_version
from registry.server.middleware.protocol import bounded_http
from registry.services.tokens import ADMIN_NAME, read_token
from registry.systemd import notify

log = logging.getLogger(__name__)
Load = Callable[[], RegistryConfig]
TAKEN = frozenset({"log_level", "admin_token", "admin_token_file", "mqtt"})
"""Settings that `reload` takes; of `mqtt` the credentials."""
JOIN_S = 10.0


class Hangups:
    """What SIGHUP asks for; asked before `serve`, it is done then."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._worker: threading.Thread | None = None

    def ask(self, *_: object) -> None:
        """In a signal handler: a terminal that hung up ends the registry, anything else is to be read again."""
        if sys.stdin is not None and sys.stdin.isatty():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        with suppress(BlockingIOError):  # many of them wait already
            os.write(self._write_end, b"h")

    def serve(self, services: Services, load: Load) -> None:
        """From now on."""

        def work() -> None:
            while os.read(self._read_end, 4096).startswith(b"h"):
                reload(services, load)

        self._worker = threading.Thread(target=work, name="reload", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """No more."""
        os.close(self._write_end)
        if self._worker is not None:
            self._worker.join(JOIN_S)


@contextmanager
def hangups() -> Iterator[Hangups]:
    """SIGHUP is handled as long as this lasts, and kills nothing after it; where it is ignored (nohup) it stays so."""
    asked = Hangups()
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, asked.ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        asked.close()


def reload(services: Services, load: Load) -> None:
    """Take settings and credentials as they are on the disk now. What is wrong with them is logged and not taken."""
    try:
        config = load()
    except (OSError, ValueError) as error:  # ValidationError is a ValueError; it may quote a secret
        log.error("SIGHUP: the settings cannot be read (%s); those of before stay", type(error).__name__)  # noqa: TRY400
        return
    logging.getLogger().setLevel(config.log_level.upper())
    try:
        given = given_admin_token(config)
        if given is not None:
            services.tokens.ensure_admin(given, services.config.data_dir / ADMIN_TOKEN_FILE, services.clock())
    except (RegistryError, OSError) as error:
        log.error("SIGHUP: the administrator's token of before stays: %s", error)  # noqa: TRY400 - the text says all
    if services.fleet.bridge is not None:
        services.fleet.bridge.renew(config.mqtt)
    before = services.config
    later = [name for name in type(config).model_fields if getattr(config, name) != getattr(before, name)]
    untaken = ", ".join(name for name in later if name not in TAKEN)
    more = f"; taken only at a start: {untaken}" if untaken else ""
    log.info("SIGHUP: log level, administrator's token and the broker's credentials are those of now%s", more)


BACKLOG = 1024
SWITCH_S = 0.001
"""A thread that computes gives others their turn after so long: else one caller's long requests hold up all others."""
GRACE_S = 10
"""For open requests, when it is told to stop."""


def run(config: RegistryConfig, ready: Callable[[str, str], None], load: Callable[[], RegistryConfig]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        config: The settings.
        ready: Called with the registry's URL, and the path of a link that signs in at the console once (empty: none),
            as soon as requests are answered.
        load: Reads the settings again, at SIGHUP.

    Raises:
        RegistryError: the settings are not safe, or it cannot start with what it finds; see `StartError`.
        OSError: something else failed, as a file of the settings that cannot be read.
    """
    sys.setswitchinterval(SWITCH_S)
    set_up_logs(config.log_level, config.log_format)
    for chatty in ("alembic", "apscheduler"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    require_safe_address(config)
    if config.tracing:
        _begin_tracing(config)
    with hangups() as asked:
        files = raise_open_files()
        services = build_services(config)
        try:
            with _listen(config.host, config.port) as listener:
                server = _Server(
                    _uvicorn_config(config, services, files),
                    lambda: ready(url_of(config.host, listener), first_link(services)),
                )
                asked.serve(services, load)
                server.run(sockets=[listener])
        finally:
            services.close()
            tracing.shut_down()


def _begin_tracing(config: RegistryConfig) -> None:
    try:
        tracing.set_up("modelfleet-registry", own_version(), {"service.instance.id": config.instance})
    except tracing.TracingError as error:
        raise StartError("tracing", str(error)) from error


def require_safe_address(config: RegistryConfig) -> None:
    """Beyond loopback only with an administrator's token that somebody chose or acknowledged. Raises InvalidError."""
    if config.listens_on_loopback or given_admin_token(config) is not None:
        return
    existing = config.data_dir / ADMIN_TOKEN_FILE
    if config.use_existing_admin_token and read_token(existing) is not None:
        return
    raise InvalidError(
        f"{config.host} is reached from other hosts, so the registry needs an administrator's token: set "
        "MODELFLEET_REGISTRY_ADMIN_TOKEN or admin_token_file, or use_existing_admin_token = true with the one in "
        f"{existing}. Or listen on 127.0.0.1."
    )


def first_link(services: Services) -> str:
    """The path of a link for whoever started this registry: at its first start, and on a terminal at each. Else empty:
    a journal keeps what is printed, and others may read it."""
    if not services.config.console.enabled or not (services.is_new or sys.stdout.isatty()):
        return ""
    try:
        return services.sessions.link(ADMIN_NAME, services.clock()).path
    except RegistryError:  # there is no token of that name, or the database takes no writes, which it has said
        return ""


def url_of(host: str, listener: socket.socket) -> str:
    """The address for people and clients."""
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            notify("READY=1")
            self._on_started()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no address"
        raise StartError("address", f"The registry cannot listen on {host}, port {port}: {why}.") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    listener.setblocking(False)
    return listener


def _uvicorn_config(config: RegistryConfig, services: Services, files: int) -> uvicorn.Config:
    total, share = connections_for(config.limits, files), config.limits.share_of_caller
    places = Connections(total, share, config.access.proxy_networks, services.shares)
    services.places.append(places)
    say = log.warning if total < config.limits.connections else log.info
    text = "serves up to %d connections at once, up to %d of one address: this process may open %d files"
    say(text, total, places.each, files)
    return uvicorn.Config(
        create_app(services),
        http=bounded_http(config.limits, places),
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=config.access_log,
        proxy_headers=bool(config.access.proxies),  # what anybody else says of its address is not believed
        forwarded_allow_ips=config.access.proxy_networks,
        server_header=False,
        timeout_keep_alive=config.limits.keep_alive_s,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
