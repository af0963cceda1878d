"""Groups: named sets of devices."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.names import Name
from registry.contracts.rollout.spec import MAX_LISTED_DEVICES, SelectorText
from registry.contracts.wire import Wire


class GroupBody(Wire):
    """PUT body: devices by name, by selector, or both."""

    selector: SelectorText = ""
    """Over labels. Empty: none by label."""
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    """Names of devices."""
    note: Annotated[str, Field(max_length=2048)] = ""
    """For people."""


class GroupView(Wire):
    """A named set of devices."""

    name: Name
    """Unique."""
    selector: str = ""
    """Over labels. Empty: none by label."""
    devices: tuple[Name, ...] = ()
    """Those that are named."""
    note: str = ""
    """For people."""
    count: int = 0
    """Devices in it now."""
    changed_at: AwareDatetime
    """UTC."""
