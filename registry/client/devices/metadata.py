"""What devices say of themselves and of their models, and what a client remembers of it.

The documents are those of `registry.contracts.device.metadata`. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...contracts.codes import RequestCode
from .answer import Expected
from .errors import BadReplyError, DeviceError, error_of

MAX_REMEMBERED = 4096
REMEMBERED_SECONDS = 300.0
"""So long a description is used before it is asked for again."""
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
UNKNOWN_SECONDS = 60.0
"""So long a device that gave none is not asked for another."""


@dataclass(frozen=True)
class TensorDescription:
    """An input or output of a model."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """With the batch dimension where the model has one; -1: any size."""
    optional: bool = False
    """An input that may be left out."""
    any_rank: bool = False
    """Any number of dimensions; `shape` is empty and says nothing."""


@dataclass(frozen=True)
class ModelDescription:
    """One model on one device."""

    device: str
    model: str
    ready: bool
    """Does it answer requests now? If not, `inputs` and `outputs` are empty."""
    version: str = ""
    """The version that answers; empty: none does."""
    code: str = ""
    """Why it is not ready: a code of docs/codes.md."""
    reason: str = ""
    """The same for a person."""
    inputs: tuple[TensorDescription, ...] = ()
    outputs: tuple[TensorDescription, ...] = ()
    picture_input: str = ""
    """The input that a picture becomes; empty: the model takes no pictures."""
    pools: tuple[str, ...] = ()
    """In which the device takes requests to the model."""
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """All that the device said: docs/wire.md, ModelMetadata."""

    @property
    def datatypes(self) -> dict[str, str]:
        """Of the inputs, by name."""
        return {each.name: each.datatype for each in self.inputs}


@dataclass(frozen=True)
class ServedModelState:
    """A model that is assigned to a device."""

    name: str
    ready: bool
    version: str = ""
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class DeviceDescription:
    """What a device is and serves."""

    device: str
    agent_version: str
    models: tuple[ServedModelState, ...]
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """All that the device said: docs/wire.md, ServerMetadata."""


def read_model(payload: bytes, _header_length: int, expected: Expected) -> ModelDescription:
    """Raises DeviceError: an error result, or no metadata (BadReplyError)."""
    try:
        said = _document(payload, expected)
        parameters = said["parameters"]
        expected.check(said, str(said["name"]), str(parameters["device"]))
        image = parameters.get("image") or {}
        return ModelDescription(
            device=str(parameters["device"]),
            model=str(said["name"]),
            ready=parameters["ready"] is True,
            version=str((said.get("versions") or [""])[0]),
            code=str(parameters.get("code") or ""),
            reason=str(parameters.get("reason") or ""),
            inputs=tuple(_tensor(each) for each in said["inputs"]),
            outputs=tuple(_tensor(each) for each in said["outputs"]),
            picture_input=str(image.get("input") or ""),
            pools=tuple(map(str, parameters.get("pools") or ())),
            document=said,
        )
    except _MALFORMED as error:
        raise _refusal(error, expected.request_id) from None


def read_server(payload: bytes, _header_length: int, expected: Expected) -> DeviceDescription:
    """Raises DeviceError: an error result, or no metadata (BadReplyError)."""
    try:
        said = _document(payload, expected)
        expected.check(said, "", str(said["parameters"]["device"]))
        return DeviceDescription(
            device=str(said["parameters"]["device"]),
            agent_version=str(said["version"]),
            models=tuple(
                ServedModelState(
                    name=str(each["name"]),
                    ready=each["ready"] is True,
                    version=str(each.get("version") or ""),
                    code=str(each.get("code") or ""),
                    reason=str(each.get("reason") or ""),
                )
                for each in said["models"]
            ),
            document=said,
        )
    except _MALFORMED as error:
        raise _refusal(error, expected.request_id) from None


def _document(payload: bytes, expected: Expected) -> dict[str, Any]:
    """Raises what it says where it is an error result."""
    said = json.loads(payload)
    if "error" in said:
        device = str((said.get("parameters") or {}).get("device", ""))
        expected.check(said, "", device)
        raise error_of(str(said.get("code", "")), str(said["error"]), device=device, request_id=expected.request_id)
    found: dict[str, Any] = said
    return found


def _refusal(error: Exception, request_id: str) -> Exception:
    if isinstance(error, DeviceError):
        return error
    text = f"not metadata of the protocol: {str(error)[:200]}"
    return BadReplyError(RequestCode.BAD_REPLY, text, request_id=request_id)


def _tensor(said: Mapping[str, Any]) -> TensorDescription:
    parameters = said.get("parameters") or {}
    shape = tuple(said["shape"])
    if not all(type(size) is int for size in shape):
        raise ValueError(f"{said['name']!r} has no shape")
    return TensorDescription(
        str(said["name"]), str(said["datatype"]), shape, parameters.get("optional") is True,
        parameters.get("any_rank") is True,
    )  # fmt: skip


Key = tuple[str, str]
"""(device, model); the device is empty for a pool."""


class Descriptions:
    """What is remembered of models, for a while. Any thread."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[float, ModelDescription | None]] = {}

    def knows(self, key: Key, now: float) -> bool:
        """It need not be asked for."""
        return now < self._known.get(key, (0.0, None))[0]

    def get(self, key: Key) -> ModelDescription | None:
        """None: the device gave none."""
        return self._known.get(key, (0.0, None))[1]

    def put(self, key: Key, description: ModelDescription | None, now: float) -> None:
        """One that is not ready says nothing that could be used, and is not remembered."""
        if description is not None and not description.ready:
            self._known.pop(key, None)
            return
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[key] = now + (UNKNOWN_SECONDS if description is None else REMEMBERED_SECONDS), description

    def drop(self, key: Key) -> None:
        """The device has refused what went by it."""
        self._known.pop(key, None)
