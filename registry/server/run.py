"""Runs the server: refuses what is not safe, listens, says when it is ready, stops in order."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn

from registry.client.address import ADMIN_TOKEN_FILE
from registry.config import RegistryConfig
from registry.errors import InvalidError, StartError
from registry.log_limit import limit_logs
from registry.server.app import create_app
from registry.server.composition import Services, build_services, given_admin_token
from registry.server.middleware.protocol import bounded_http
from registry.server.reloading import hangups
from registry.server.systemd_notify import notify
from registry.services.tokens import read_token

BACKLOG = 1024
GRACE_S = 10
"""For open requests, when it is told to stop."""


def run(config: RegistryConfig, ready: Callable[[str], None], load: Callable[[], RegistryConfig]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        config: The settings.
        ready: Called with the registry's URL as soon as requests are answered.
        load: Reads the settings again, at SIGHUP.

    Raises:
        RegistryError: the settings are not safe, or it cannot start with what it finds; see `StartError`.
        OSError: something else failed, as a file of the settings that cannot be read.
    """
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    limit_logs()
    for chatty in ("alembic", "apscheduler"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    require_safe_address(config)
    with hangups() as asked:
        services = build_services(config)
        try:
            with _listen(config.host, config.port) as listener:
                server = _Server(_uvicorn_config(config, services), lambda: ready(url_of(config.host, listener)))
                asked.serve(services, load)
                server.run(sockets=[listener])
        finally:
            services.close()


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


def _uvicorn_config(config: RegistryConfig, services: Services) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(services),
        http=bounded_http(config.limits),
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=config.access_log,
        proxy_headers=False,  # what a client says of its address is not believed
        server_header=False,
        timeout_keep_alive=config.limits.keep_alive_s,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
