"""Answers: what a device computed, and the reading of what it sent. Pure: bytes in, an `Answer` or a DeviceError out.

The form of an answer is in `registry.inference.reply`. It is checked before it is used: what is not of that form is a
BadReplyError, never a wrong array. Devices repeat the header of their answers with only the id changed, so what was
read of a header is kept under all its other bytes.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...contracts.codes import RequestCode
from ...contracts.tensors import BINARY_MAGIC, MAX_HEADER_BYTES, Datatype
from ...inference.header import MAGIC_BYTES, header_end
from .arrays import bits_of, from_numbers, shape_of, values_of
from .detections import DetectedObject, objects_of
from .errors import BadReplyError, DeviceError, error_of

MAX_KEPT_HEADERS = 64
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading raises where a payload is not of the form that it should have. DeviceErrors are among them, too."""
LABEL, SCORE = "label", "score"
"""The outputs of a classification: `label` BYTES [N, k] and `score` FP32 [N, k], best first."""


class Answer:
    """What a device computed for one request.

    `answer["y"]` is the output `y` as a NumPy array; `outputs` has all of them. The arrays are read-only.
    """

    __slots__ = ("_bits", "_head", "request_id", "seconds")

    def __init__(self, head: AnswerHead, bits: tuple[NDArray[Any], ...], request_id: str) -> None:
        self._head = head
        self._bits = bits
        self.request_id = request_id
        """The id that the request had."""
        self.seconds = 0.0
        """From the call to the answer, with everything that was waited for and tried again."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The output of that name. BF16 and 8-bit floats come as float32 with the same values."""
        index = self._index(name)
        return values_of(self._head.outputs[index].datatype, self._bits[index])

    def __repr__(self) -> str:
        shown = ", ".join(f"{each.name} {each.datatype}{list(each.shape)}" for each in self._head.outputs)
        return f"<Answer of {self.device} {self.model_name}@{self.model_version}: {shown}>"

    @property
    def outputs(self) -> dict[str, NDArray[Any]]:
        """All outputs by name, as `answer[name]` gives them."""
        return {each.name: self[each.name] for each in self._head.outputs}

    @property
    def datatypes(self) -> dict[str, str]:
        """The protocol's datatype of each output."""
        return {each.name: str(each.datatype) for each in self._head.outputs}

    def raw(self, name: str) -> NDArray[Any]:
        """The output as it came: BF16 as its 16 bits (uint16), 8-bit floats as their byte (uint8)."""
        return self._bits[self._index(name)]

    def strings(self, name: str) -> NDArray[Any]:
        """A BYTES output as an object array of `str`. Raises UnicodeDecodeError where it is not UTF-8."""
        found = self.raw(name)
        texts = np.empty(found.size, dtype=object)
        texts[:] = [item.decode() for item in found.ravel().tolist()]
        return texts.reshape(found.shape)

    @property
    def label(self) -> str:
        """The best label of the first item. Raises LookupError where the answer has no labels."""
        return str(self.labels[0][0])

    @property
    def score(self) -> float:
        """The score of `label`."""
        return float(self._classes(SCORE).reshape(-1)[0])

    @property
    def labels(self) -> list[list[str]]:
        """The labels of each item, best first."""
        found = self._classes(LABEL)
        rows: list[list[str]] = [[item.decode() for item in row] for row in found.tolist()]
        return rows

    @property
    def scores(self) -> NDArray[Any]:
        """The scores that belong to `labels`, FP32 of shape [items, labels]."""
        return self._classes(SCORE)

    @property
    def detections(self) -> list[DetectedObject]:
        """The objects that were found, the best first. Raises LookupError where the answer has no detections."""
        names = [each.name for each in self._head.outputs]
        return objects_of(self.datatypes, dict(zip(names, self._bits)))

    @property
    def model_name(self) -> str:
        """The model that answered."""
        return self._head.model_name

    @property
    def model_version(self) -> str:
        """The version that answered."""
        return self._head.model_version

    @property
    def device(self) -> str:
        """The device that answered; of a pool, which one."""
        return self._head.device

    @property
    def variant(self) -> str:
        """The variant of the version that answered."""
        return self._head.variant

    @property
    def variant_digest(self) -> str:
        """Names exactly what answered: the digest of the variant."""
        return self._head.variant_digest

    def _index(self, name: str) -> int:
        for index, each in enumerate(self._head.outputs):
            if each.name == name:
                return index
        raise KeyError(f"{name}: the answer has {', '.join(each.name for each in self._head.outputs) or 'no outputs'}")

    def _classes(self, name: str) -> NDArray[Any]:
        index = next((i for i, each in enumerate(self._head.outputs) if each.name == name), None)
        wanted = Datatype.BYTES if name == LABEL else Datatype.FP32
        if index is None or self._head.outputs[index].datatype is not wanted or self._bits[index].ndim != 2:
            raise LookupError(
                f"the answer has no output {name!r} of a classification: send a picture, or ask with "
                f"outputs=[{LABEL!r}, {SCORE!r}], to a model that has a classification"
            )
        return self._bits[index]


class OutputHead(NamedTuple):
    """One output as a header describes it."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    size: int | None
    """Bytes behind the header; None: it is in the JSON."""


class AnswerHead(NamedTuple):
    """What the header of an answer says, but for its id and correlation id."""

    model_name: str
    model_version: str
    device: str
    variant: str
    variant_digest: str
    outputs: tuple[OutputHead, ...]


class Expected(NamedTuple):
    """What the answer to a request must say of itself."""

    request_id: str
    model: str
    """Its name; empty: it is about no model."""
    device: str
    """Its name; empty: of a pool, whoever answers."""
    has_id: bool = True
    """The request carried its id, so the answer does. An error may lack it: of a request that cannot be read, the
    device knows the correlation data only."""

    def check(self, document: dict[str, Any], model: str, device: str) -> None:
        """Raises ValueError where a document, of that model and device, is not the answer."""
        error = "error" in document
        found = document.get("id")
        if found != self.request_id and (found is not None or (self.has_id and not error)):
            said = "no request: it has no id" if found is None else f"another request, id {str(found)[:64]!r}"
            raise ValueError(f"it is for {said}")
        if not error:
            self.check_origin(model, device)
        elif device:
            self.check_origin(self.model, device)

    def check_origin(self, model: str, device: str) -> None:
        """Raises ValueError where another model or device has answered."""
        if model != self.model:
            raise ValueError(f"{self.model} was asked, and {model[:64]!r} answers")
        if self.device and device != self.device:
            raise ValueError(f"{self.device} was asked, and {device[:64]!r} answers")


class AnswerReader:
    """Reads what comes on the reply topic. One thread."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bytes], AnswerHead] = {}

    def read(self, payload: bytes, header_length: int, expected: Expected) -> Answer:
        """The answer that is expected; `header_length` is negative where the message names none.

        Raises:
            DeviceError: it is an error result, or not an answer (BadReplyError).
        """
        request_id = expected.request_id
        try:
            if header_length < 0 and payload[: len(BINARY_MAGIC)] != BINARY_MAGIC:
                return self._from_json(json.loads(payload), expected)
            start, end = _header_at(payload, header_length)
            header = payload[start:end]
            mark = b'"id":"' + request_id.encode() + b'"'
            at = header.find(mark)
            key = (at, header[:at] + header[at + len(mark) :]) if at >= 0 else (at, header)
            head = self._kept.get(key)
            if head is None:
                document = json.loads(header)
                head = _head_of(document, expected)
                if any(each.size is None for each in head.outputs):
                    return Answer(head, _arrays(head, document, memoryview(payload)[end:]), request_id)
                if header.count(mark) == 1:
                    if len(self._kept) >= MAX_KEPT_HEADERS:
                        self._kept.clear()
                    self._kept[key] = head
            expected.check_origin(head.model_name, head.device)
            return Answer(head, _tensors(head, memoryview(payload)[end:]), request_id)
        except _MALFORMED as error:
            if isinstance(error, DeviceError):
                raise
            raise _not_an_answer(error, request_id) from None

    @staticmethod
    def _from_json(document: Any, expected: Expected) -> Answer:
        head = _head_of(document, expected)
        return Answer(head, _arrays(head, document, memoryview(b"")), expected.request_id)


def _header_at(payload: bytes, header_length: int) -> tuple[int, int]:
    start, end = (0, header_length) if header_length >= 0 else (MAGIC_BYTES, header_end(payload))
    if not start < end <= min(len(payload), start + MAX_HEADER_BYTES):
        raise ValueError(f"a header of {end - start} bytes in {len(payload)}")
    return start, end


def _not_an_answer(why: Exception, request_id: str) -> BadReplyError:
    return BadReplyError(
        RequestCode.BAD_REPLY, f"not an answer of the protocol: {str(why)[:200]}", request_id=request_id
    )


def _head_of(document: Any, expected: Expected) -> AnswerHead:
    """Raises DeviceError for an error result; ValueError, KeyError or TypeError for what is no answer."""
    if not isinstance(document, dict):
        raise TypeError("it is not a JSON object")
    parameters = document.get("parameters") or {}
    device = str(parameters.get("device", ""))
    expected.check(document, str(document.get("model_name", "")), device)
    if "error" in document:
        code, message = str(document.get("code", "")), str(document["error"])
        raise error_of(code or RequestCode.BAD_REPLY, message, device=device, request_id=expected.request_id)
    outputs = tuple(_output_of(each) for each in document["outputs"])
    if len({each.name for each in outputs}) < len(outputs):
        raise ValueError("it has two outputs of one name")
    return AnswerHead(
        str(document["model_name"]),
        str(document.get("model_version", "")),
        device,
        str(parameters.get("variant", "")),
        str(parameters.get("variant_digest", "")),
        outputs,
    )


def _output_of(output: dict[str, Any]) -> OutputHead:
    shape = shape_of(output["shape"])
    if shape is None:
        raise ValueError(f"output {output['name']!r} has no shape")
    size = (output.get("parameters") or {}).get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError(f"output {output['name']!r} has a binary_data_size of {size!r}")
    return OutputHead(str(output["name"]), Datatype(output["datatype"]), shape, size)


def _tensors(head: AnswerHead, body: memoryview) -> tuple[NDArray[Any], ...]:
    found = []
    at = 0
    for _name, datatype, shape, size in head.outputs:
        following = at + size  # type: ignore[operator]  # a header with data in it goes through `_arrays`
        if following > len(body):
            raise ValueError("it ends before its tensors do")
        found.append(bits_of(datatype, shape, body[at:following]))
        at = following
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes more than its tensors have")
    return tuple(found)


def _arrays(head: AnswerHead, document: dict[str, Any], body: memoryview) -> tuple[NDArray[Any], ...]:
    """Outputs of which some have their data in the JSON."""
    binary = iter(_tensors(head._replace(outputs=tuple(each for each in head.outputs if each.size is not None)), body))
    return tuple(
        next(binary) if each.size is not None else from_numbers(each.datatype, each.shape, said["data"])
        for each, said in zip(head.outputs, document["outputs"])
    )
