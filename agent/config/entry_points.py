"""The settings of code that comes with models: off, unless this host's owner names whose signature counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from agent.config.section import Section
from registry.contracts.catalogue.entry_points import key_id, parse_key
from registry.contracts.digest import Digest


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
        raw = [parse_key(text) for text in self.trusted_keys] if self.enabled else []
        return {key_id(key): key for key in raw}
