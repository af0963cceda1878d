"""What an administrator has said about the broker, as it is kept: applications, devices that are shut out, settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.authority.folder import AuthorityFolder, AuthorityFolderError, naming
from registry.contracts.wire import Name
from registry.private_files import write_whole

ANY = "*"
"""Every device, or every model."""
Named = Name | Literal["*"]
"""One device or model, or every one."""
FILE = "access.json"
"""In the folder of the authorities."""
Port = Annotated[int, Field(ge=1, le=65535)]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Application(_Kept):
    """What one application may ask. Nothing is granted that is not said here."""

    models: Annotated[tuple[Named, ...], Field(min_length=1, max_length=256)]
    """Names of models; `*`: every one."""
    devices: Annotated[tuple[Named, ...], Field(max_length=256)] = ()
    """Devices that it may ask by name, and whose presence it may read; `*`: every one. Empty: only pools."""
    pools: bool = False
    """It may ask the pools that serve these models."""
    results: bool = False
    """It may read the results of these models that devices record, of the same devices."""


class BrokerSettings(_Kept):
    """Of `registry broker config`, so that the files can be made again without a question."""

    kind: Literal["mosquitto"]
    """Which broker."""
    folder: str
    """Where its files are, an absolute path."""
    hosts: Annotated[tuple[str, ...], Field(min_length=1, max_length=32)]
    """Names and addresses under which it is reached; they stand in its certificate."""
    prefix: str
    """The levels before all topics of the fleet."""
    devices_port: Port = 8883
    """For devices."""
    services_port: Port = 8884
    """For the registry and applications."""
    pools: bool = True
    """Devices take part in pools."""
    home_assistant: bool = False
    """Devices may announce sensors to Home Assistant."""
    reload: str = ""
    """A shell command that makes the broker read its files again. Empty: somebody does it by hand."""


class BrokerAccess(_Kept):
    """All of it."""

    applications: dict[Name, Application] = Field(default_factory=dict)
    """By name."""
    denied: tuple[Name, ...] = ()
    """Devices that may neither read nor write, although their certificates are still valid."""
    settings: BrokerSettings | None = None
    """None: `registry broker config` was not run yet."""


def read_access(folder: AuthorityFolder) -> BrokerAccess:
    """What was kept last; nothing where nothing was. Raises AuthorityFolderError."""
    file = folder.path / FILE
    with naming(file):
        try:
            return BrokerAccess.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return BrokerAccess()
        except ValidationError as error:
            raise AuthorityFolderError(f"{file} is damaged: {error.errors()[0]['msg']}") from error


def keep_access(folder: AuthorityFolder, access: BrokerAccess) -> None:
    """In place of what was kept; the caller holds the folder's lock. Raises AuthorityFolderError."""
    file = folder.path / FILE
    with naming(file):
        write_whole(file, access.model_dump_json(indent=2).encode() + b"\n")
