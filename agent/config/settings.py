"""The agent's settings: one TOML file, overridden by `MODELFLEET_AGENT_…` variables. Read once, never changed.

A nested key is reached with two underscores: `MODELFLEET_AGENT_MQTT__HOST`. A key that does not exist is refused,
in the file and in the environment. Where the TOML file names another file (`…_file`, `trust.root`) by a relative path,
that is looked up from its own folder. Every value has bounds. Nothing here connects or creates anything. A secret in a
file may be replaced at any time: it is read when it is used.

The example file has every setting with its meaning, bounds and default, printed from the settings themselves. All keys
are commented out, so the file changes nothing; with the marks removed it is still a valid file.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from agent.config.sections import (
    EntryPointSettings,
    LimitSettings,
    MqttSettings,
    PolicySettings,
    RegistrySettings,
    Section,
    TrustSettings,
    WorkerSettings,
)
from agent.errors import PermanentError
from registry.contracts.wire import Name

PREFIX = "MODELFLEET_AGENT_"
DEFAULT_FILE = Path("/etc/modelfleet/agent.toml")
MAX_SECRET_BYTES = 4096
Reader = Callable[[], "str | None"]
"""Reads a secret, each time it is used."""
_HEAD = f"""\
# The agent's settings, each at its default. Printed by `agent config`.
# A variable of the environment wins over this file: {PREFIX}MQTT__HOST=broker for mqtt.host.
# A relative path of a file is looked up from the folder of this file.
"""

_SAMPLE = {
    "device": "edge-1",
    "data_dir": "/var/lib/modelfleet-agent",
    "url": "http://127.0.0.1:8470",
    "token": "paste-it-here",
    "token_file": "/etc/modelfleet/token",
    "ca_file": "/etc/modelfleet/ca.pem",
    "cert_file": "/etc/modelfleet/device.pem",
    "key_file": "/etc/modelfleet/device.key",
    "client_id": "modelfleet-edge-1",
    "username": "edge-1",
    "password": "paste-it-here",
    "password_file": "/etc/modelfleet/mqtt-password",
    "interpreter": "/usr/local/Ascend/python/bin/python3",
    "cores": 2,
    "profile": "throughput",
    "prometheus": "127.0.0.1:9464",
    "timezone": "Europe/Paris",
    "root": "/etc/modelfleet/trust.json",
}
"""What the example shows where the default depends on the host, or there is none."""


class ConfigError(PermanentError):
    """The settings cannot be used; the message names each key and what is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_config", message)


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
    log_format: Literal["text", "json"] = Field(
        default="text", description="json: one object a line, with time, level, logger, message and ids."
    )
    tracing: bool = Field(
        default=False,
        description="Traces over OTLP (OpenTelemetry), as the variables OTEL_... say. Needs the extra otel.",
    )
    registry: RegistrySettings = RegistrySettings()
    trust: TrustSettings = TrustSettings()
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
                values = _beside(file, TomlConfigSettingsSource(AgentConfig, toml_file=file).toml_data)
        _refuse_unknown_variables()
        return AgentConfig(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, file)) from None
    except (OSError, ValueError) as error:  # TOML and settings errors are ValueErrors.
        raise ConfigError(f"{file or 'environment'}: {error}") from None


def _beside(file: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The files that it names (`…_file`, `trust.root`), looked up from its own folder."""

    def placed(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(key, inner) for key, inner in value.items()}
        return (
            str(file.absolute().parent / value)
            if (name.endswith("_file") or name == "root") and isinstance(value, str)
            else value
        )

    return {name: placed(name, value) for name, value in values.items()}


def _refuse_unknown_variables() -> None:
    known = {(PREFIX + name).upper() for name in AgentConfig.model_fields} | {PREFIX + "CONFIG"}
    for variable in os.environ:
        if variable.upper().startswith(PREFIX) and variable.upper().split("__")[0] not in known:
            raise ConfigError(f"environment: {variable} is no setting; see `agent config`")


def _explain(error: ValidationError, file: Path | None) -> str:
    lines = [f"  {'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors()]
    return "\n".join([f"the settings ({file or 'no file'}, {PREFIX}… variables) cannot be used:", *lines])


def secret_reader(value: SecretStr | None, file: Path | None) -> Reader:
    """What reads the secret that the settings hold or name; it answers None when they do neither."""
    if value is None and file is not None:
        return SecretFile(file)
    text = value.get_secret_value() if value is not None else None
    return lambda: text


class SecretFile:
    """A secret in a file. Thread-safe."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last: str | None = None

    def __call__(self) -> str | None:
        """The secret as the file holds it now, or the last one while it cannot be read: it is being replaced.

        Raises:
            ConfigError: the file cannot be read, is empty or too long, and never held a secret.
        """
        try:
            self._last = self._read()
        except ConfigError:
            if self._last is None:
                raise
        return self._last

    def _read(self) -> str:
        try:
            with self._file.open("rb") as stream:
                text = stream.read(MAX_SECRET_BYTES + 1).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the secret in {self._file}: {error}") from None
        if not text or len(text) > MAX_SECRET_BYTES:
            raise ConfigError(f"{self._file} must hold one secret of at most {MAX_SECRET_BYTES} bytes")
        return text


def example_toml() -> str:
    """The whole file."""
    fields = AgentConfig.model_fields
    blocks = [_HEAD, *(_block(name, field) for name, field in fields.items() if _section(field) is None)]
    for name, field in fields.items():
        section = _section(field)
        if section is not None:
            blocks.append(f"# {section.__doc__}\n[{name}]\n")
            blocks += [_block(key, inner) for key, inner in section.model_fields.items()]
    return "\n".join(blocks)


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _block(name: str, field: FieldInfo) -> str:
    bounds = [getattr(rule, end) for end in ("ge", "le") for rule in field.metadata if hasattr(rule, end)]
    span = f" {bounds[0]} to {bounds[1]}." if len(bounds) == 2 else ""
    unset = field.default is None or field.default is PydanticUndefined
    note = " Not set by default." if field.default is None and "default" not in (field.description or "") else ""
    text = "{}" if unset and name not in _SAMPLE else json.dumps(_SAMPLE[name] if unset else field.default)
    return f"## {field.description}{span}{note}\n#{name} = {text}\n"
