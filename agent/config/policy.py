"""The settings of this host's own policy: maintenance windows, metered networks, how long leases may hold."""

from __future__ import annotations

from datetime import timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, model_validator
from tzlocal import get_localzone

from agent.config.section import Section
from agent.core.local_policy import HostPolicy
from agent.core.windows import MAX_WINDOWS, parse_window


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
        windows = tuple(parse_window(text) for text in self.windows)
        return HostPolicy(windows, zone, timedelta(seconds=self.max_defer_s))
