"""The settings of the connection to the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from agent.config.section import Section
from registry.contracts.names import Name
from registry.contracts.topics import DEFAULT_PREFIX, Topics

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
    keepalive_s: int = Field(default=30, ge=5, le=3600, description="Seconds between signs of life.")
    session_expiry_s: int = Field(
        default=3600,
        ge=0,
        le=30 * 86400,
        description="How long the broker keeps requests for an agent that is away, seconds.",
    )

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
