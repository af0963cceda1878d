"""The agent's settings: one TOML file, overridden by `MODELFLEET_AGENT_…` variables. Read once, never changed.

A nested key is reached with two underscores: `MODELFLEET_AGENT_MQTT__HOST`. A key that does not exist is refused,
in the file and in the environment. Every value has bounds. Nothing here connects or creates anything.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from agent.config.entry_points import EntryPointSettings
from agent.config.mqtt import MqttSettings
from agent.config.policy import PolicySettings
from agent.config.section import Section
from agent.config.worker import WorkerSettings
from agent.errors import PermanentError
from registry.contracts.names import Name

PREFIX = "MODELFLEET_AGENT_"
DEFAULT_FILE = Path("/etc/modelfleet/agent.toml")
MAX_SECRET_BYTES = 4096
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


class ConfigError(PermanentError):
    """The settings cannot be used; the message names each key and what is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_config", message)


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
        ge=1,
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


class LimitSettings(Section):
    """What one request, one model and the disk may take. Beyond them there is an error with a code."""

    max_payload: int = Field(default=64 * _MIB, ge=_KIB, le=256 * _MIB, description="Largest request, bytes.")
    slots: int = Field(
        default=256, ge=1, le=4096, description="Requests per model that may be under way; more are refused at once."
    )
    arenas: int = Field(
        default=4, ge=1, le=64, description="Requests of free size per model in shared memory at once; others wait."
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


def _default_data_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "modelfleet-agent"


def _default_device() -> str:
    return socket.gethostname().split(".")[0].lower()


class AgentConfig(BaseSettings):
    """All settings of one agent."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    device: Name = Field(
        default_factory=_default_device,
        validate_default=True,
        description="This device's name; default: the host name.",
    )
    data_dir: Path = Field(
        default_factory=_default_data_dir,
        description="What survives a restart: journal, outbox, models. Created with mode 0700.",
    )
    health_interval_s: float = Field(default=30, ge=1, le=86400, description="Seconds between health reports.")
    prometheus: str | None = Field(
        default=None,
        pattern=r"^([^\s:]+|\[[0-9A-Fa-f:.]+(%\w+)?\]):\d{1,5}$",
        description="Address where Prometheus may scrape, like 127.0.0.1:9464 or [::1]:9464; it has no password: "
        "keep it on loopback.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="How much goes to stderr."
    )
    registry: RegistrySettings = RegistrySettings()
    mqtt: MqttSettings = MqttSettings()
    limits: LimitSettings = LimitSettings()
    worker: WorkerSettings = WorkerSettings()
    policy: PolicySettings = PolicySettings()
    entry_points: EntryPointSettings = EntryPointSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which comes as constructor arguments from `load_config`."""
        return env_settings, init_settings

    @property
    def cores(self) -> int:
        """Processors that workers may use."""
        return self.worker.cores or len(os.sched_getaffinity(0))

    @property
    def client_id(self) -> str:
        """The MQTT client id."""
        return self.mqtt.client_id or f"modelfleet-{self.device}"


def config_file(option: Path | None) -> Path | None:
    """The file to read: the option, `MODELFLEET_AGENT_CONFIG`, or the usual place unless nothing is there.

    A usual place that may not be looked at is not one where nothing is: to read the file says so.
    """
    if option is not None:
        return option
    named = os.environ.get(PREFIX + "CONFIG")
    if named:
        return Path(named)
    try:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    except OSError:
        return DEFAULT_FILE


def load_config(file: Path | None) -> AgentConfig:
    """Reads file and environment.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key or a value out of bounds.
    """
    values: dict[str, Any] = {}
    try:
        if file is not None:
            with file.open("rb"):  # The TOML source passes over a file that is not there.
                values = TomlConfigSettingsSource(AgentConfig, toml_file=file).toml_data
        _refuse_unknown_variables()
        return AgentConfig(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, file)) from None
    except (OSError, ValueError) as error:  # TOML and settings errors are ValueErrors.
        raise ConfigError(f"{file or 'environment'}: {error}") from None


def read_secret(value: SecretStr | None, file: Path | None) -> str | None:
    """The secret from the settings or from its file; None when neither is set.

    Raises:
        ConfigError: the file cannot be read, is empty or too long.
    """
    if value is not None:
        return value.get_secret_value()
    if file is None:
        return None
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_SECRET_BYTES + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the secret in {file}: {error}") from None
    if not text or len(text) > MAX_SECRET_BYTES:
        raise ConfigError(f"{file} must hold one secret of at most {MAX_SECRET_BYTES} bytes")
    return text


def _refuse_unknown_variables() -> None:
    known = {(PREFIX + name).upper() for name in AgentConfig.model_fields} | {PREFIX + "CONFIG"}
    for variable in os.environ:
        if variable.upper().startswith(PREFIX) and variable.upper().split("__")[0] not in known:
            raise ConfigError(f"environment: {variable} is no setting; see `agent config`")


def _explain(error: ValidationError, file: Path | None) -> str:
    lines = [f"  {'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors()]
    return "\n".join([f"the settings ({file or 'no file'}, {PREFIX}… variables) cannot be used:", *lines])
