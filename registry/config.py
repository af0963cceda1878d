"""What an operator may set: a TOML file, then `MODELFLEET_REGISTRY_*` in the environment, which wins.

Nested values use two underscores: `MODELFLEET_REGISTRY_MQTT__HOST=broker`. Unknown keys in the file are
refused, so that a typing error is heard. Imports no server package.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from registry.client.address import default_data_dir
from registry.contracts.topics import DEFAULT_PREFIX
from registry.contracts.wire import Name

ENV_PREFIX = "MODELFLEET_REGISTRY_"

Seconds = Annotated[float, Field(gt=0, le=86400 * 365)]
Bytes = Annotated[int, Field(gt=0, le=1 << 50)]
Positive = Annotated[int, Field(gt=0, le=1_000_000)]
Port = Annotated[int, Field(ge=0, le=65535)]


def bare_address(host: str) -> str:
    """An IPv6 address without the brackets that it has in URLs; anything else as it is.

    Raises:
        ValueError: there is something in brackets that is no IPv6 address, or a port behind it.
    """
    if not host.startswith("["):
        return host
    if not host.endswith("]"):
        raise ValueError(f"{host!r} is no address: write [::1], and the port by itself")
    ipaddress.IPv6Address(host[1:-1].partition("%")[0])
    return host[1:-1]


Host = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(bare_address)]
"""A name or an address; one of IPv6 with or without brackets, which are taken away."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Section):
    """Bounds on what one client, or all of them, may ask of the registry."""

    blob_bytes: Bytes = 64 << 30
    """The largest blob, in bytes."""
    json_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 28)] = 4 << 20
    """The longest body, in bytes, of any request but an upload's."""
    held_body_bytes: Bytes = 256 << 20
    """Bytes of all such bodies that are being received or answered, together. The next one is answered 503."""
    json_depth: Annotated[int, Field(ge=8, le=200)] = 32
    """How deep brackets may nest in a JSON body."""
    header_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 64 << 10
    """Bytes of the request line and the headers together."""
    connections: Positive = 4096
    """Open connections, fewer where the process may open fewer files. The next one is answered 503."""
    share_of_caller: Annotated[float, Field(gt=0, le=1)] = 0.25
    """The part of each of these bounds that one caller (a token, a device; of connections an address) may have: of
    connections, bodies, upload sessions, uploads at the same moment and event streams. It is answered 429 beyond it."""
    open_uploads: Positive = 256
    """Upload sessions of all clients together."""
    concurrent_uploads: Positive = 16
    """Uploads that send bytes at the same moment."""
    upload_ttl_s: Seconds = 86400.0
    """An upload session that received no byte for so many seconds is removed."""
    blob_grace_s: Seconds = 86400.0
    """A blob that no version names is removed after so many seconds."""
    verify_every_s: Seconds = 86400.0 * 7
    """Every blob is read and compared with its digest once in so many seconds."""
    verify_bytes_per_s: Bytes = 32 << 20
    """Bytes per second that this reads at most."""
    disk_reserve_bytes: Annotated[int, Field(ge=0, le=1 << 50)] = 256 << 20
    """Bytes that uploads leave free on the disk."""
    header_timeout_s: Seconds = 20.0
    """Seconds from the first byte of a request to the end of its headers."""
    body_timeout_s: Seconds = 60.0
    """Seconds between two pieces of a request's body; the whole body, but an upload's, must arrive in five times that.
    An upload must bring 32 KiB in each such time, or it is cut off: what arrived is kept, and the client resumes."""
    send_timeout_s: Seconds = 300.0
    """Seconds in which a client must take one MiB of an answer, or the rest of it."""
    keep_alive_s: Annotated[int, Field(ge=1, le=3600)] = 75
    """An idle connection is closed after so many seconds."""


class Mqtt(_Section):
    """The broker of the fleet. Without a host the registry runs without MQTT: devices then poll over HTTP."""

    host: Host | None = None
    """The broker's name or address. Default: no MQTT."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Default: 1883, with TLS 8883."""
    prefix: Annotated[str, Field(max_length=200)] = DEFAULT_PREFIX
    """The levels before all topics of this fleet. The agents must have the same."""
    client_id: Annotated[str, Field(min_length=1, max_length=64)] = "modelfleet-registry"
    """The name of this registry's session at the broker; no other client may have it."""
    username: str | None = None
    """For the broker. Default: anonymous."""
    password: SecretStr | None = None
    """For the broker; or `password_file`."""
    password_file: Path | None = None
    """A file with the password; read again when it changes."""
    tls: bool = False
    """Speak TLS with the broker."""
    ca_file: Path | None = None
    """Certificates of the authorities that the broker's certificate may be from, PEM. Default: the system's."""
    cert_file: Path | None = None
    """This registry's client certificate, PEM; with `key_file`. Default: none is shown."""
    key_file: Path | None = None
    """Its private key, PEM."""
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    """Seconds of silence after which the broker is asked whether it is there."""

    @property
    def enabled(self) -> bool:
        """A host is given."""
        return self.host is not None

    @property
    def effective_port(self) -> int:
        """The port, or the default of the protocol."""
        return self.port or (8883 if self.tls else 1883)

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Mqtt:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file come together")
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        return self

    def read_password(self) -> str | None:
        """The password, from wherever it is kept. Raises OSError when its file cannot be read."""
        if self.password_file is not None:
            return self.password_file.read_text(encoding="utf-8").strip()
        return self.password.get_secret_value() if self.password else None

    def client_arguments(self) -> dict[str, Any]:
        """Of a client of devices (`registry.client.devices.Client`) on this host: the same broker, as the same user,
        in a session of its own. Raises OSError when the password's file cannot be read."""
        host = f"[{self.host}]" if self.host is not None and ":" in self.host else self.host
        found: dict[str, Any] = {
            "url": f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.effective_port}",
            "prefix": self.prefix,
            "username": self.username,
            "password": self.read_password(),
        }
        if self.tls:
            found["ca_file"] = self.ca_file
            found["identity"] = (self.cert_file, self.key_file) if self.cert_file is not None else None
        return found


class PublicSettings(_Section):
    """How devices reach the registry and the broker, where it is not as this host does: for the settings of agents."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$", max_length=500)] | None = None
    """Base address of the registry. Default: the address that the command or the browser uses."""
    broker_host: Host | None = None
    """Default: `mqtt.host`; where that is loopback, the host of the registry's address."""
    broker_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Default: the port of `mqtt`."""
    broker_tls: bool | None = None
    """Devices speak TLS with the broker. Default: as `mqtt.tls`."""
    broker_ca_file: Path | None = None
    """Certificates of the authorities that the broker's certificate may be from, PEM. Default: `mqtt.ca_file`."""


class RetentionSettings(_Section):
    """How long what devices send is kept. Results have a retention of their own per model."""

    health_hours: Annotated[int, Field(ge=1, le=24 * 365)] = 48
    """Hours that health reports are kept in full."""
    events_hours: Annotated[int, Field(ge=1, le=24 * 365)] = 24 * 30
    """Hours that events of devices, and finished jobs, are kept."""
    max_results: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    """Recorded results of all models together. The oldest are removed first."""


class PresenceSettings(_Section):
    """When a device counts as offline."""

    expiry_s: Annotated[float, Field(ge=1, le=7 * 86400)] = 600.0
    """Seconds without a sign of life; where a device says how often it reports, twice that time if it is longer."""


class RolloutSettings(_Section):
    """What this registry asks of every rollout, whatever its spec says."""

    two_person: bool = False
    """What changes what devices run, or who speaks for one, needs two people: plans of rollouts, single deployments,
    new credentials of devices. People are counted, not tokens."""


def _network(text: str) -> str:
    ipaddress.ip_network(text)  # ValueError: it has bits beside its network, or is none
    return text


class AccessSettings(_Section):
    """Who gets in, and what is believed of where a request comes from."""

    open_reading: bool = False
    """Let everybody who can send the registry a request read everything without a token: also users of this host, and
    web pages in a browser on it. `registry doctor` and `registry status` say that it is on."""
    proxies: Annotated[
        tuple[Annotated[str, Field(max_length=50), AfterValidator(_network)], ...], Field(max_length=100)
    ] = ()
    """Addresses or networks of proxies before the registry, as "127.0.0.1" or "10.0.0.0/24". Of these alone
    `X-Forwarded-For` and `X-Forwarded-Proto` are believed: for limits by address, secure cookies and logs. They grant
    nothing. Default: none."""

    @property
    def proxy_networks(self) -> list[str]:
        """`proxies`, and those of IPv4 also as a socket of both families shows them."""
        mapped = (ipaddress.ip_network(each) for each in self.proxies)
        v4 = [f"::ffff:{each.network_address}/{96 + each.prefixlen}" for each in mapped if each.version == 4]
        return [*self.proxies, *v4]


class WebhookSettings(_Section):
    """Where events may be POSTed."""

    allow_private: bool = False
    """Allow loopback, private and link-local addresses, too."""


class SigningSettings(_Section):
    """Signed metadata: docs/trust.md."""

    keys: Path | None = None
    """The folder with the private keys that sign; several registries of one database share it. Default: `keys` in the
    data folder."""


class ConsoleSettings(_Section):
    """The pages for people, at `/console`."""

    enabled: bool = True
    """Serve them."""
    allow_http: bool = False
    """Let people sign in over plain HTTP from other hosts, too. Whoever is on the way then reads their tokens and
    cookies. Without it they come over HTTPS (a proxy with TLS before the registry) or through a tunnel to loopback."""


class RegistryConfig(BaseSettings):
    """All settings of `registry serve`; frozen."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", env_ignore_empty=True
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    """Everything the registry keeps, where `database_url` and `blobs_url` say nothing else."""
    host: Host = "127.0.0.1"
    """The address to listen at. Beyond loopback an administrator's token has to be set."""
    port: Port = 8470
    """The TCP port; 0: a free one, printed at start."""
    database_url: SecretStr | None = None
    """`postgresql://user:password@host/database` (needs the extra `postgresql`), or `sqlite:////folder/file.db`;
    default: SQLite in the data folder."""
    blobs_url: str | None = None
    """`file:///folder`, for this registry alone; default: `blobs` in the data folder."""
    admin_token: SecretStr | None = None
    """The administrator's token; made at the first start when none is given."""
    admin_token_file: Path | None = None
    """A file with the administrator's token; give this or `admin_token`."""
    use_existing_admin_token: bool = False
    """Listen beyond loopback with the token that an earlier start wrote to `<data_dir>/admin.token`."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """`debug`, `info`, `warning` or `error`; taken again at SIGHUP."""
    log_format: Literal["text", "json"] = "text"
    """`json`: one object a line, with time, level, logger, message and ids."""
    tracing: bool = False
    """Traces over OTLP (OpenTelemetry), as the variables OTEL_... say. Needs the extra otel."""
    access_log: bool = False
    """Log every request."""
    instance: Name = "registry"
    """The name of this registry in its metrics."""
    limits: Limits = Limits()
    mqtt: Mqtt = Mqtt()
    public: PublicSettings = PublicSettings()
    access: AccessSettings = AccessSettings()
    presence: PresenceSettings = PresenceSettings()
    retention: RetentionSettings = RetentionSettings()
    rollouts: RolloutSettings = RolloutSettings()
    webhooks: WebhookSettings = WebhookSettings()
    console: ConsoleSettings = ConsoleSettings()
    trust: SigningSettings = SigningSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line, environment, file: the first that says something wins."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def listens_on_loopback(self) -> bool:
        """Only programs on this host reach it."""
        return is_loopback(self.host)

    @property
    def effective_database_url(self) -> str:
        """The URL with its default."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'registry.db'}"

    @property
    def effective_blobs_url(self) -> str:
        """The URL with its default."""
        return self.blobs_url or (self.data_dir.absolute() / "blobs").as_uri()


def load_config(file: Path | None = None, **overrides: Any) -> RegistryConfig:
    """The settings from `file` (or `MODELFLEET_REGISTRY_CONFIG`), the environment and the command line.

    Raises:
        FileNotFoundError: the file that was named is not there.
        pydantic.ValidationError: a value or a key is not allowed; it says which.
    """
    named = file or (Path(value) if (value := os.environ.get(ENV_PREFIX + "CONFIG")) else None)
    if named is not None and not named.is_file():
        raise FileNotFoundError(f"no configuration file at {named}")

    class FromFile(RegistryConfig):
        """The settings with this file as their last source."""

        model_config = SettingsConfigDict(toml_file=named)

    return FromFile(**{key: value for key, value in overrides.items() if value is not None})


def is_loopback(host: str) -> bool:
    """Is this a name or an address of this host only?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
