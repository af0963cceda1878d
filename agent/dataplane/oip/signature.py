"""Does a request fit the model? The signature, compiled for fast checks of what a header says.

Numbers from outside are checked before they are used: dimensions 0..2^31, rank <= MAX_RANK, elements <=
MAX_ELEMENTS, tensors <= MAX_TENSORS, bytes <= the model's payload limit. Python's integers do not overflow.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from agent.dataplane.oip.binding import Binding
from agent.dataplane.oip.plan import InputTensor, RequestedOutput
from agent.worker.channel import Layout
from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import ITEM_BYTES, MAX_BYTES_ELEMENTS, MAX_ELEMENTS, MAX_RANK, Datatype
from registry.inference.errors import RequestError, quote
from registry.inference.packets import Buffer

_LENGTH = struct.Struct("<I")
LABEL = "label"
SCORE = "score"
"""The outputs that a model with a classification has besides its own."""


@dataclass(frozen=True)
class _Input:
    """One input of the model, with what its usual form looks like."""

    index: int
    spec: TensorSpec
    fixed_shape: tuple[int, ...] | None
    """The shape of one fixed item; None when the model has no fixed slots, or this input none in them."""
    fixed_bytes: int


@dataclass(frozen=True)
class Selection:
    """What a reply carries, and what the worker must give for it."""

    outputs: tuple[RequestedOutput, ...]
    run_outputs: tuple[str, ...] | None
    classify: frozenset[str]


class Signature:
    """The inputs and outputs of one active worker."""

    def __init__(self, binding: Binding, layout: Layout) -> None:
        fixed = layout.slots > 0
        if fixed and [t.name for t in layout.inputs] != [t.name for t in binding.inputs]:
            raise ValueError("the worker's layout and the binding disagree in their inputs")
        self._max_payload = binding.max_payload
        self._has_fixed = fixed
        self._required = len(binding.inputs)
        self.inputs = {
            spec.name: _Input(
                index,
                spec,
                layout.request_shape(layout.inputs[index]) if fixed and index < self._required else None,
                layout.inputs[index].item_bytes if fixed and index < self._required else 0,
            )
            for index, spec in enumerate((*binding.inputs, *binding.optional_inputs))
        }
        self._outputs = tuple(spec.name for spec in binding.outputs)
        self._classified = binding.classification.output if binding.classification else None
        self.image_input = binding.image.input if binding.image else None

    def find(self, name: str) -> _Input:
        """The input of that name, or `unknown_input`."""
        known = self.inputs.get(name)
        if known is None:
            raise RequestError(
                InferenceCode.UNKNOWN_INPUT, f"no input {quote(name)}: the model has {_names(self.inputs)}"
            )
        return known

    def is_picture(self, known: _Input, datatype: str) -> bool:
        """Is this a picture in place of the image input's tensor?"""
        return datatype == "BYTES" and known.spec.name == self.image_input and known.spec.datatype != Datatype.BYTES

    def check(self, known: _Input, datatype: str, shape: tuple[int, ...]) -> int:
        """The bytes that the tensor must have; -1 for BYTES, where any size may be. Refuses what does not fit."""
        spec = known.spec
        if datatype != spec.datatype:
            raise RequestError(
                InferenceCode.WRONG_DATATYPE,
                f"input {quote(spec.name)}: expected datatype {spec.datatype}, got {quote(datatype)}",
            )
        if shape == known.fixed_shape:
            return known.fixed_bytes
        if spec.any_rank:
            fits = len(shape) <= MAX_RANK and min(shape, default=0) >= 0
        else:
            fits = len(shape) == len(spec.shape) and all(
                got >= 0 and want in (got, -1) for got, want in zip(shape, spec.shape, strict=True)
            )
        if not fits:
            wanted = f"at most {MAX_RANK} dimensions" if spec.any_rank else f"shape {list(spec.shape)} (-1: any size)"
            raise RequestError(
                InferenceCode.WRONG_SHAPE, f"input {quote(spec.name)}: expected {wanted}, got {_shape(shape)}"
            )
        return self._bytes_of(spec, shape)

    def _bytes_of(self, spec: TensorSpec, shape: tuple[int, ...]) -> int:
        elements = prod(shape)
        limit = MAX_BYTES_ELEMENTS if spec.datatype == Datatype.BYTES else MAX_ELEMENTS
        if elements > limit or max(shape, default=0) > MAX_ELEMENTS:
            raise RequestError(
                InferenceCode.TOO_LARGE,
                f"input {quote(spec.name)}: at most {limit} elements, shape {_shape(shape)} has {elements}",
            )
        if spec.datatype == Datatype.BYTES:
            return -1
        size = elements * ITEM_BYTES[spec.datatype]
        if size > self._max_payload:
            raise RequestError(
                InferenceCode.TOO_LARGE,
                f"input {quote(spec.name)}: {size} bytes, over the limit of {self._max_payload} for a request",
            )
        return size

    def complete(self, tensors: list[InputTensor]) -> tuple[InputTensor, ...]:
        """The tensors in the model's order; refuses an input that is missing or there twice."""
        if len(tensors) == 1 == len(self.inputs):
            return (tensors[0],)
        got = {tensor.place: tensor for tensor in tensors}
        if len(got) != len(tensors):
            raise RequestError(
                InferenceCode.BAD_PAYLOAD, f"an input is there twice: {_names([t.name for t in tensors])}"
            )
        missing = [
            name for name, known in self.inputs.items() if known.index < self._required and known.index not in got
        ]
        if missing:
            raise RequestError(InferenceCode.MISSING_INPUT, f"missing input {_names(missing)}")
        return tuple(got[index] for index in sorted(got))

    def fits_fixed(self, tensors: Sequence[InputTensor]) -> bool:
        """Is the request one item for a fixed slot?"""
        return (
            self._has_fixed
            and len(tensors) == self._required
            and all(t.shape == self.inputs[t.name].fixed_shape for t in tensors)
        )

    def select(self, requested: Sequence[tuple[str, bool | None]] | None, binary: bool, picture: bool) -> Selection:
        """Which outputs a reply carries: those named, else `label` and `score` for a picture, else all."""
        classified = self._classified
        if not requested:
            names = (LABEL, SCORE) if picture and classified is not None else self._outputs
            requested = [(name, None) for name in names]
        if len({name for name, _ in requested}) != len(requested):
            raise RequestError(
                InferenceCode.BAD_PAYLOAD, f"an output is asked for twice: {_names([n for n, _ in requested])}"
            )
        run: list[str] = []
        classified_as: list[str] = []
        for name, _ in requested:
            made = classified is not None and name in (LABEL, SCORE) and (picture or name not in self._outputs)
            if not made and name not in self._outputs:
                raise RequestError(
                    InferenceCode.UNKNOWN_OUTPUT, f"no output {quote(name)}: the model has {_names(self._outputs)}"
                )
            classified_as += [name] if made else []
            source = classified if made and classified is not None else name
            if source not in run:
                run.append(source)
        outputs = tuple(RequestedOutput(name, binary if asked is None else asked) for name, asked in requested)
        return Selection(outputs, None if tuple(run) == self._outputs else tuple(run), frozenset(classified_as))


def check_values(tensor: InputTensor, data: Buffer) -> None:
    """Refuses BYTES whose lengths do not add up to shape and size, and BOOL bytes other than 0 and 1."""
    if tensor.datatype == Datatype.BYTES:
        _check_lengths(tensor.name, data, prod(tensor.shape))
    elif tensor.datatype == Datatype.BOOL and tensor.size and int(np.frombuffer(data, np.uint8).max()) > 1:
        raise RequestError(
            InferenceCode.WRONG_DATATYPE, f"input {quote(tensor.name)}: expected BOOL bytes of 0 or 1, got another"
        )


def _check_lengths(name: str, data: Buffer, elements: int) -> None:
    at, end = 0, len(data)
    for index in range(elements):
        at += 4 + (_LENGTH.unpack_from(data, at)[0] if at + 4 <= end else end)
        if at > end:
            raise RequestError(
                InferenceCode.SIZE_MISMATCH,
                f"input {quote(name)}: element {index} of {elements} ends behind the tensor's {end} bytes",
            )
    if at != end:
        raise RequestError(
            InferenceCode.SIZE_MISMATCH,
            f"input {quote(name)}: {elements} elements take {at} bytes, got {end}",
        )


def _names(names: Sequence[str] | dict[str, _Input]) -> str:
    listed = list(names)
    return ", ".join(quote(name) for name in listed[:4]) + (", …" if len(listed) > 4 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return quote(list(shape[: MAX_RANK + 1]))
