"""The agent's settings: one TOML file, overridden by `MODELFLEET_AGENT_…` variables. Read once, never changed.

A nested key is reached with two underscores: `MODELFLEET_AGENT_MQTT__HOST`. A key that does not exist is refused,
in the file and in the environment. Every value has bounds. Nothing here connects or creates anything.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from agent.backends.catalog import CATALOG
from agent.config.entry_points import EntryPointSettings
from agent.config.policy import PolicySettings
from agent.config.section import Section
from agent.errors import PermanentError
from registry.contracts.messages import Profile
from registry.contracts.names import Name
from registry.contracts.topics import DEFAULT_PREFIX, Topics

PREFIX = "MODELFLEET_AGENT_"
DEFAULT_FILE = Path("/etc/modelfleet/agent.toml")
MAX_SECRET_BYTES = 4096
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


PoolName = Annotated[str, Field(pattern=r"^[^/+#$]{1,64}$")]


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


class MqttSettings(Section):
    """The broker. The topics below the prefix belong to one fleet."""

    host: str = Field(
        default="127.0.0.1", min_length=1, max_length=253, description="Host name or address of the broker."
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
    keepalive_s: int = Field(default=30, ge=5, le=3600, description="Seconds between signs of life.")
    session_expiry_s: int = Field(
        default=3600,
        ge=0,
        le=30 * 86400,
        description="How long the broker keeps requests for an agent that is away, seconds.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> MqttSettings:
        Topics(self.prefix)
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        if not self.tls and (self.ca_file or self.cert_file):
            raise ValueError("ca_file and cert_file need tls = true")
        return self


class LimitSettings(Section):
    """What one request, one model and the disk may take. Beyond them there is an error with a code."""

    max_payload: int = Field(default=64 * _MIB, ge=_KIB, le=256 * _MIB, description="Largest request, bytes.")
    slots: int = Field(
        default=256, ge=1, le=4096, description="Requests per model that may be under way; more are refused at once."
    )
    arenas: int = Field(default=4, ge=1, le=64, description="Requests of free size per model in shared memory at once.")
    arena_bytes: int = Field(default=16 * _MIB, ge=64 * _KIB, le=512 * _MIB, description="Room of one of those, bytes.")
    max_batch: int = Field(default=32, ge=1, le=1024, description="Largest batch; the measured best may be smaller.")
    cache_bytes: int = Field(default=20 * _GIB, ge=_MIB, le=1 << 50, description="Disk that artifacts may take, bytes.")
    disk_reserve: int = Field(
        default=256 * _MIB, ge=0, le=1 << 50, description="Disk that a download must leave free, bytes."
    )
    outbox_rows: int = Field(
        default=10_000, ge=1, le=10_000_000, description="Results and events that may wait on disk."
    )
    outbox_bytes: int = Field(default=256 * _MIB, ge=_MIB, le=1 << 40, description="Their bytes.")


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
        pattern=r"^[^\s:]+:\d{1,5}$",
        description="Address where Prometheus may scrape; it has no password: keep it on loopback.",
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
    """The file to read: the option, `MODELFLEET_AGENT_CONFIG`, or the usual place when it is there."""
    if option is not None:
        return option
    named = os.environ.get(PREFIX + "CONFIG")
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


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
