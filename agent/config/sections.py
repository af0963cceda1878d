"""The tables of the agent's settings: the registry, the broker, limits, workers, this host's own policy, and the code
that comes with models.
"""

from __future__ import annotations

import sys
from datetime import timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from tzlocal import get_localzone

from agent.backends.catalog import CATALOG
from agent.core.local_policy import MAX_WINDOWS, HostPolicy, parse_window
from registry.certificates import TlsFiles
from registry.contracts.catalogue.entry_points import key_id, parse_key
from registry.contracts.device.messages import Profile
from registry.contracts.topics import DEFAULT_PREFIX, Topics
from registry.contracts.wire import Digest, Name

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _checked(text: str) -> str:
    parse_key(text)
    return text


PublicKey = Annotated[str, AfterValidator(_checked)]
"""`ed25519:<base64 of 32 bytes>`."""


class EntryPointSettings(Section):
    """Code that comes with a checkpoint. It runs as this agent's user, in a worker process, and only when signed."""

    enabled: bool = Field(default=False, description="Run entry points that one of trusted_keys has signed.")
    trusted_keys: tuple[PublicKey, ...] = Field(
        default=(),
        max_length=64,
        description='Public keys as `registry key new` prints them: ["ed25519:..."]. Whoever has the private key '
        "decides what runs here.",
    )

    @model_validator(mode="after")
    def _somebody_is_trusted(self) -> EntryPointSettings:
        if self.enabled and not self.trusted_keys:
            raise ValueError("enabled needs trusted_keys: without one no entry point could run")
        return self

    def keys(self) -> dict[Digest, bytes]:
        """The raw public keys that count, by their ids; empty when switched off."""
        return {key_id(key): key for key in map(parse_key, self.trusted_keys)} if self.enabled else {}


class RegistrySettings(Section):
    """Where models come from. Without a url the agent serves what it has."""

    url: str | None = Field(default=None, pattern=r"^https?://[^\s?#]+$", description="Base address of the registry.")
    token: SecretStr | None = Field(default=None, description="This device's credential. Better: token_file.")
    token_file: Path | None = Field(default=None, description="File with the credential, readable by the agent only.")
    ca_file: Path | None = Field(
        default=None, description="Certificate authority of the registry, when it is a private one."
    )
    poll_interval_s: float = Field(
        default=30,
        ge=0.1,
        le=86400,
        description="How often to ask for the desired state while the broker is away, in seconds.",
    )
    timeout_s: float = Field(
        default=20, ge=1, le=600, description="A registry that is silent for so long has failed, seconds."
    )

    @field_validator("url")
    @classmethod
    def _readable(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://none")  # reading what cannot be read raises ValueError
        if not parts.hostname or parts.port == 0:
            raise ValueError(
                "it has no host, or no port that could be; write it like https://host or http://[::1]:8470"
            )
        return url


class TrustSettings(Section):
    """Whose signatures count. Without a root this agent believes whoever speaks for the registry or the broker."""

    root: Path | None = Field(
        default=None,
        description="File with the roots of signed metadata, as `registry devices add --out` writes it. With it only "
        "what is signed is followed, installed and loaded.",
    )


class LimitSettings(Section):
    """What one request, one model and the disk may take. Beyond them there is an error with a code."""

    max_payload: int = Field(default=64 * _MIB, ge=_KIB, le=256 * _MIB, description="Largest request, bytes.")
    slots: int = Field(
        default=256,
        ge=1,
        le=4096,
        description="Per model: requests of one item and fixed sizes under way, and requests of free size that wait; "
        "more are refused at once.",
    )
    arenas: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Requests of free size per model in shared memory at once; others wait, 64 MiB together.",
    )
    arena_bytes: int = Field(
        default=16 * _MIB,
        ge=64 * _KIB,
        le=512 * _MIB,
        description="Room of one of those, bytes; it is never less than max_payload and the model need.",
    )
    max_batch: int = Field(default=32, ge=1, le=1024, description="Largest batch; the measured best may be smaller.")
    cache_bytes: int = Field(default=20 * _GIB, ge=_MIB, le=1 << 50, description="Disk that artifacts may take, bytes.")
    disk_reserve: int = Field(
        default=256 * _MIB,
        ge=0,
        le=1 << 50,
        description="Disk that a download must leave free, bytes; of a small disk at most a quarter.",
    )
    verify_bytes_per_s: int = Field(
        default=4 * _MIB,
        ge=64 * _KIB,
        le=1 << 40,
        description="How fast the models on the disk are hashed again in the background, bytes a second.",
    )
    verify_interval_s: float = Field(
        default=3600, ge=1, le=1 << 31, description="Seconds from the end of one such check to the next."
    )
    outbox_rows: int = Field(
        default=10_000, ge=1, le=10_000_000, description="Results and events that may wait on disk."
    )
    outbox_bytes: int = Field(default=256 * _MIB, ge=_MIB, le=1 << 40, description="Their bytes.")


PoolName = Annotated[str, Field(pattern=r"^[^/+#$]{1,64}$")]


class MqttSettings(Section):
    """The broker. The topics below the prefix belong to one fleet."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        max_length=253,
        description="Name or address of the broker.",
    )
    port: int = Field(default=1883, ge=1, le=65535, description="1883 is usual, 8883 with TLS.")
    prefix: str = Field(default=DEFAULT_PREFIX, max_length=200, description="First levels of all topics of this fleet.")
    protocol: Literal["5", "3.1.1"] = Field(default="5", description="3.1.1 only for a broker that lacks MQTT 5.")
    client_id: str | None = Field(default=None, max_length=128, description="Default: modelfleet-<device>.")
    username: str | None = Field(default=None, max_length=256, description="User name at the broker.")
    password: SecretStr | None = Field(default=None, description="Password at the broker. Better: password_file.")
    password_file: Path | None = Field(default=None, description="File with the password.")
    tls: bool = Field(default=False, description="Encrypt, and check the broker's certificate.")
    ca_file: Path | None = Field(
        default=None, description="Certificate authority of the broker; default: the system's."
    )
    cert_file: Path | None = Field(
        default=None, description="This device's certificate, where the broker asks for one."
    )
    key_file: Path | None = Field(default=None, description="The key of that certificate.")
    pools: dict[PoolName, tuple[Name, ...]] = Field(
        default_factory=dict, max_length=16, description="Pools to share requests in, and the models: {pool = [model]}."
    )
    home_assistant: str = Field(
        default="",
        max_length=128,
        pattern=r"^[^+#\x00$][^+#\x00]*$|^$",
        description="Home Assistant's discovery prefix, usually homeassistant: a sensor for each model. Empty: none.",
    )
    keepalive_s: int = Field(default=30, ge=5, le=3600, description="Seconds between signs of life.")
    session_expiry_s: int = Field(
        default=3600,
        ge=0,
        le=30 * 86400,
        description="How long the broker keeps requests for an agent that is away, seconds.",
    )

    def tls_files(self) -> TlsFiles | None:
        """None: nothing is encrypted."""
        return TlsFiles(self.ca_file, self.cert_file, self.key_file) if self.tls else None

    @field_validator("host")
    @classmethod
    def _without_brackets(cls, host: str) -> str:
        """`[fd00::1]` is written so in URLs; the name service wants the address itself."""
        return host[1:-1] if host.startswith("[") and host.endswith("]") else host

    @model_validator(mode="after")
    def _consistent(self) -> MqttSettings:
        Topics(self.prefix)
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        if not self.tls and (self.ca_file or self.cert_file):
            raise ValueError("ca_file and cert_file need tls = true")
        return self


class PolicySettings(Section):
    """When this host lets its models be changed. What the registry marks urgent, a rollback say, does not wait."""

    windows: tuple[str, ...] = Field(
        default=(),
        max_length=MAX_WINDOWS,
        description='Maintenance windows for the switch, e.g. ["mon-fri 22:00-05:00", "sat,sun 00:00-24:00"]; '
        "downloads are done before. None: always.",
    )
    timezone: str | None = Field(
        default=None, max_length=64, description="Of the windows, e.g. Europe/Paris; default: this host's."
    )
    metered: Literal["no", "yes", "auto"] = Field(
        default="no",
        description="The network costs by the byte: downloads wait for another one. auto: ask NetworkManager.",
    )
    max_defer_s: float = Field(
        default=86400,
        ge=0,
        le=30 * 86400,
        description="Leases and a metered network hold a deployment up no longer than this, seconds.",
    )

    @model_validator(mode="after")
    def _readable(self) -> PolicySettings:
        self.host_policy()
        return self

    def host_policy(self) -> HostPolicy:
        """As the agent's core takes it. Raises ValueError: a window or the time zone cannot be read."""
        zone: tzinfo | None = None
        if self.timezone is not None:
            try:
                zone = ZoneInfo(self.timezone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(f"timezone {self.timezone!r}: this host knows none of that name") from None
        elif self.windows:
            zone = get_localzone()
        return HostPolicy(tuple(map(parse_window, self.windows)), zone, timedelta(seconds=self.max_defer_s))


class WorkerSettings(Section):
    """The processes that run the models."""

    interpreter: Path | None = Field(
        default=None, description="Python that has the vendor's packages; default: the agent's own. Needs NumPy."
    )
    interpreters: dict[str, Path] = Field(
        default_factory=dict,
        max_length=16,
        description='Python by backend, e.g. {mindspore = "/opt/mindspore/bin/python"}; the others use interpreter.',
    )
    memory_bytes: int = Field(
        default=4 * _GIB,
        ge=64 * _MIB,
        le=1 << 44,
        description="Address space of one worker, bytes; an accelerator's runtime needs far more than it uses.",
    )
    load_timeout_s: float = Field(
        default=120, ge=1, le=3600, description="A model that is not loaded by then has failed, s."
    )
    run_timeout_s: float = Field(
        default=30, ge=0.05, le=3600, description="A run that takes longer kills its worker, seconds."
    )
    drain_timeout_s: float = Field(
        default=10, ge=0.1, le=600, description="What a replaced worker gets to finish, seconds."
    )
    cores: int | None = Field(
        default=None, ge=1, le=1024, description="Processors to use; default: all this process may use."
    )
    profile: Profile | None = Field(
        default=None, description="throughput or latency for every model, whatever the deployment says."
    )
    inline_models: tuple[Name, ...] = Field(
        default=(),
        max_length=256,
        description="Models that run in the agent's own process: faster; a crash takes the agent.",
    )
    one_at_a_time: tuple[Name, ...] = Field(
        default=(),
        max_length=256,
        description="Models whose requests are never joined into one run, whatever their manifests permit.",
    )
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, max_length=16, description="Options by backend, e.g. options.onnxruntime = {}."
    )

    @model_validator(mode="after")
    def _backends_exist(self) -> WorkerSettings:
        unknown = sorted(set(self.interpreters) - set(CATALOG))
        if unknown:
            raise ValueError(f"interpreters: no backend is named {', '.join(unknown)}; there are {', '.join(CATALOG)}")
        return self

    def python(self, backend: str) -> Path:
        """The interpreter to start workers of that backend with."""
        return self.interpreters.get(backend) or self.interpreter or Path(sys.executable)
