"""The registry's HTTP API: which labels devices have, and changing them on many devices at once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from registry.contracts.rollout.spec import MAX_LISTED_DEVICES, MAX_SELECTOR_CHARS
from registry.contracts.wire import Integer, LabelKey, LabelValue, Name, Wire

MAX_KEYS = 100
MAX_VALUES = 20
MAX_CHANGED = 64
MAX_NAMED = 20


class LabelKeyView(Wire):
    """One key, and the values that it has."""

    key: str
    """The key."""
    devices: Integer
    """So many devices have it."""
    values: dict[str, Integer] = Field(default_factory=dict)
    """The commonest, each with its devices; MAX_VALUES at most."""
    more: Integer = 0
    """Further values."""


class LabelsView(Wire):
    """What labels there are."""

    devices: Integer
    """Devices of the whole registry."""
    keys: tuple[LabelKeyView, ...] = ()
    """The commonest first; MAX_KEYS at most."""
    more: Integer = 0
    """Further keys."""


class LabelsBody(Wire):
    """POST body: which devices, and what changes. Other labels stay as they are."""

    selector: Annotated[str, Field(max_length=MAX_SELECTOR_CHARS)] = ""
    """By labels; `*`: every device. Empty: those in `devices`."""
    devices: Annotated[tuple[Name, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    """By name; all of them have to be there."""
    put: Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_CHANGED)] = Field(default_factory=dict)
    """Labels that they get."""
    remove: Annotated[tuple[LabelKey, ...], Field(max_length=MAX_CHANGED)] = ()
    """Keys that they lose."""
    preview: bool = False
    """Only count."""


class LabelsAnswer(Wire):
    """What was changed, or would be."""

    devices: Integer
    """So many are meant."""
    changed: Integer
    """Those of them that have not all of it yet."""
    first: Annotated[tuple[Name, ...], Field(max_length=MAX_NAMED)] = ()
    """The first that change, by name."""
