"""What the data path must be told once. Made by the composition root from the agent's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.contracts.topics import Topics


@dataclass(frozen=True)
class DataPlaneSettings:
    """Names, what is said to the broker, and limits."""

    device: str
    topics: Topics = field(default_factory=Topics)
    agent_version: str = ""
    """Of the agent's package."""
    birth: bytes = b""
    """The presence document of a device that is there; the will (MqttSettings) says the contrary."""
    death: bytes = b""
    """The presence document of a clean stop."""
    pools: tuple[tuple[str, str], ...] = ()
    """(pool, model): shared subscriptions that this device takes part in."""
    fast_path: bool = True
    """False: only paho's public API, whatever the installed paho can do."""
    decode_threads: int = 2
    dedupe_entries: int = 4096
    dedupe_bytes: int = 16 << 20
    dedupe_ttl_s: float = 300.0
