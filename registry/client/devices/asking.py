"""From what a caller gives to a request that can be sent, for both clients. The only I/O is to read a picture."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from ...contracts.codes import InferenceCode, RequestCode
from ...contracts.tensors import MAX_TENSORS
from ...inference.packets import text
from .answer import Expected
from .arrays import WireTensor, is_loose, to_wire
from .detections import Asked, parameters_of
from .encoding import Options, ReplyAddress, RequestEncoder, picture_tensor, picture_type
from .errors import BadRequestError, DeviceError, NotConnectedError
from .metadata import Descriptions, ModelDescription
from .requests import PendingRequest
from .settings import ClientSettings, check_count, check_name, check_seconds
from .traces import RequestTracer

MAX_ID = 256
DESCRIPTION_SECONDS = 2.0
"""So long a device may take to say what a model takes, at most half of the time that is left."""
_NO_DEVICE = frozenset(map(str, (RequestCode.NO_SUCH_DEVICE, RequestCode.DEVICE_OFFLINE,
                                 RequestCode.NOT_CONNECTED, RequestCode.CLIENT_CLOSED)))  # fmt: skip
_OUTDATED = frozenset(map(str, (InferenceCode.WRONG_DATATYPE, InferenceCode.UNKNOWN_INPUT,
                                InferenceCode.MISSING_INPUT, InferenceCode.NO_IMAGE_INPUT)))  # fmt: skip
Picture = Union[str, "os.PathLike[str]", bytes]
"""A JPEG or PNG file: its path, or its bytes."""
Inputs = Mapping[str, Any]
Reader = Callable[[bytes, int, Expected], Any]
Done = Callable[[PendingRequest], None]


@dataclass(frozen=True)
class InferenceRequest:
    """One request for `infer_many`: to a device, or to any agent of a pool; tensors, or a picture."""

    device: str | None = None
    model: str = ""
    inputs: Inputs | None = None
    pool: str | None = None
    picture: Picture | None = None
    outputs: Sequence[str] | None = None
    version: str | None = None
    request_id: str | None = None
    detections: Asked = None

    def __post_init__(self) -> None:
        if self.inputs is not None and not isinstance(self.inputs, (dict, Mapping)):
            raise TypeError(
                f"inputs is a {type(self.inputs).__name__}: give a dict of arrays by the names of the model's inputs, "
                'for instance {"x": array}'
            )
        if self.picture is not None and not isinstance(self.picture, (str, bytes, os.PathLike)):
            raise TypeError(
                f"picture is a {type(self.picture).__name__}: give the path of a JPEG or PNG file, or its bytes"
            )
        parameters_of(self.detections)


@dataclass(frozen=True)
class How:
    """How requests are sent: what `infer` and its relatives are told beside the request itself."""

    timeout: float = 10.0
    qos: int = 1
    binary: bool = True
    retries: int | None = None

    def __post_init__(self) -> None:
        check_seconds("timeout", self.timeout)
        check_count("qos", self.qos, 0, 1)
        if self.retries is not None:
            check_count("retries", self.retries, 0)


def as_request(item: Any, device: str | None, model: str | None, pool: str | None) -> InferenceRequest:
    """An item of `infer_many`: an InferenceRequest, the inputs by name, or a picture."""
    if isinstance(item, InferenceRequest):
        return item
    named = {"device": device, "model": model or "", "pool": pool}
    if isinstance(item, Mapping):
        return InferenceRequest(inputs=item, **named)  # type: ignore[arg-type]
    if not isinstance(item, (str, bytes, os.PathLike)):
        raise TypeError(
            f"an item of requests is a {type(item).__name__}: give an InferenceRequest, a dict of arrays by the names "
            "of the model's inputs, or a picture as a path or bytes"
        )
    return InferenceRequest(picture=item, **named)  # type: ignore[arg-type]


def check_window(window: int, max_bytes: int, errors: str) -> None:
    """Arguments of `infer_many`. Raises TypeError, ValueError."""
    check_count("window", window, 1)
    check_count("max_bytes", max_bytes, 1)
    if errors not in ("raise", "return"):
        raise ValueError(f"errors={errors!r}: give 'raise' or 'return'")


FAULTS_OF_AN_ITEM = (OSError, ValueError, TypeError)
"""What is raised for an item of `infer_many` that cannot be sent: an unreadable picture, a name that there is not."""


def in_its_place(error: Exception) -> DeviceError:
    """What stands among answers for an item that could not be sent, or was not answered."""
    if isinstance(error, DeviceError):
        return error
    found = BadRequestError(InferenceCode.BAD_PAYLOAD, f"the item cannot be sent: {error}")
    found.__cause__ = error
    return found


def read_picture(picture: Picture) -> bytes:
    """Its bytes. Raises BadRequestError for what is no JPEG or PNG, OSError where the file cannot be read."""
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    picture_type(data)
    return data


def ends_request(error: DeviceError) -> bool:
    """There will be no answer to the request either: the device, or the connection, was waited for as long as may be.
    Else it is sent without a description: its own answer says more."""
    return error.code in _NO_DEVICE


class Asking:
    """Makes the requests of one client. Any thread."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.encoder = RequestEncoder(settings.reply_topic.encode())
        self.descriptions = Descriptions()
        self._numbers = itertools.count(1)
        self._start = secrets.token_hex(4)
        self._secret = secrets.token_bytes(32)
        self._pid = os.getpid()
        self._topics: dict[tuple[str, str], bytes] = {}
        self._tracer = RequestTracer() if settings.tracing else None

    def check_process(self) -> None:
        """Raises NotConnectedError in a process that was forked after the client was made."""
        if os.getpid() != self._pid:
            raise NotConnectedError(
                RequestCode.CLIENT_CLOSED, "the client was made in the process that forked this one"
            )

    def needs_description(self, asked: InferenceRequest, now: float) -> bool:
        """Is it to be asked first what the model takes? For pictures, and for values whose datatype is not their
        own: lists, and what NumPy makes of numbers (float64, int64)."""
        if asked.picture is None and not any(map(is_loose, (asked.inputs or {}).values())):
            return False
        return not self.descriptions.knows((asked.device or "", asked.model), now)

    def learn(self, asked: InferenceRequest, description: ModelDescription | None, now: float) -> None:
        """What it takes; None: nobody says."""
        self.descriptions.put((asked.device or "", asked.model), description, now)

    def refused(self, asked: InferenceRequest, error: DeviceError) -> None:
        """What was remembered may be of an earlier version."""
        if error.code in _OUTDATED:
            self.descriptions.drop((asked.device or "", asked.model))

    def infer(
        self,
        asked: InferenceRequest,
        how: How,
        *,
        now: float,
        read: Reader,
        done: Done,
    ) -> PendingRequest:
        """A request of inference, by what is remembered of the model.

        Raises:
            BadRequestError: it cannot be sent.
            ValueError: a name, or a combination of arguments, that there is not.
        """
        self.check_process()
        topic = self._topic(asked)
        if asked.picture is not None and not how.binary:
            raise ValueError("binary=False is for inputs: a picture is sent as its bytes, and not as JSON")
        request_id = asked.request_id or self.new_id()
        if len(request_id) > MAX_ID or not encodes(request_id):
            raise BadRequestError(
                InferenceCode.BAD_PAYLOAD,
                f"request_id is a text of at most {MAX_ID} characters, without lone surrogates",
            )
        outputs = tuple(asked.outputs) if asked.outputs is not None else None
        said = tuple(parameters_of(asked.detections).items())
        options = Options(outputs, asked.version or "", how.binary, said)
        known = self.descriptions.get((asked.device or "", asked.model))
        if asked.picture is None:
            inputs = _tensors(asked.inputs, known.datatypes if known is not None else None)
        elif known is not None and known.picture_input:
            inputs = {known.picture_input: picture_tensor(read_picture(asked.picture))}
            options = options._replace(binary=True)
        else:
            inputs = None
        if inputs is not None:
            named = asked.request_id and not self.settings.v5
            correlation, reply = self._correlation(
                self._same(topic, asked.request_id or "", inputs, options) if named else ""
            )
            encoded = self.encoder.tensors(inputs, options, request_id, reply)
        else:
            picture = read_picture(asked.picture)  # type: ignore[arg-type]  # `_topic` has seen to it
            self._check_bare(asked)
            correlation, _ = self._correlation()
            encoded = self.encoder.picture(picture)
        properties = encoded.properties
        if self._tracer is not None:
            trace, done = self._tracer.begin(asked.model, asked.device or "", request_id, done)
            properties += trace if self.settings.v5 else b""
        wait = self.settings.wait_when_offline
        target = f"{asked.device}/{asked.model}" if asked.device else f"model {asked.model} of pool {asked.pool}"
        return PendingRequest(
            key=b"\x09" + text(correlation.encode()), request_id=request_id, topic=topic, device=asked.device or "",
            target=target, properties=properties, pieces=encoded.pieces,
            qos=how.qos, started=now, deadline=now + how.timeout, retries=how.retries, wait=wait,
            expected=Expected(request_id, asked.model, asked.device or "", inputs is not None), read=read, done=done,
        )  # fmt: skip

    def metadata(
        self, device: str | None, model: str | None, *, timeout: float, now: float, read: Reader, done: Done
    ) -> PendingRequest:
        """A request for metadata: of a device, of a model on it, or of a model to all agents of a pool with it.

        Raises:
            ValueError: a name that there is not.
        """
        self.check_process()
        check_seconds("wait" if device is None else "timeout", timeout)
        if model is not None:
            check_name("model", model)
        if device is not None:
            topic, target = (
                self.settings.topics.metadata(check_name("device", device), model),
                f"{device}/{model}" if model else device,
            )
        else:
            topic, target = self.settings.topics.pool_metadata(model or ""), f"the pools with {model}"
        request_id = self.new_id()
        correlation, reply = self._correlation()
        encoded = self.encoder.empty(request_id, reply)
        request = PendingRequest(
            key=b"\x09" + text(correlation.encode()), request_id=request_id, topic=text(topic.encode()),
            device=device or "", target=f"{target} (metadata)", properties=encoded.properties, pieces=encoded.pieces,
            qos=1, started=now, deadline=now + timeout, retries=None, wait=self.settings.wait_when_offline,
            expected=Expected(request_id, model or "", device or ""), read=read, done=done,
        )  # fmt: skip
        request.probe = True
        return request

    def description(self, asked: InferenceRequest, how: How, *, now: float, read: Reader, done: Done) -> PendingRequest:
        """A request for what the model takes, before the one for inference: it waits for connection and device as long
        as that one may, and for its answer no longer than DESCRIPTION_SECONDS. Raises ValueError."""
        request = self.metadata(asked.device, asked.model, timeout=how.timeout, now=now, read=read, done=done)
        request.answer_within = DESCRIPTION_SECONDS
        return request

    def _same(self, topic: bytes, request_id: str, inputs: Mapping[str, WireTensor], options: Options) -> str:
        """The correlation id of a request that was given its id, for MQTT 3.1.1: there it is part of the payload, and
        of what makes two requests the same to a device. It is the same for the same request only: a late answer is
        never taken for that of a request with other content. The client's secret keeps others from knowing it."""
        said = hashlib.blake2b(key=self._secret, digest_size=16)
        shown = [(name, each.datatype, each.shape, len(each.data)) for name, each in inputs.items()]
        said.update(repr((topic, request_id, options, shown)).encode())
        for each in inputs.values():
            said.update(each.data)
        return said.hexdigest()

    def _correlation(self, given: str = "") -> tuple[str, ReplyAddress | None]:
        """Of a new request, which nobody can guess; how its payload says so where there are no properties."""
        correlation = given or secrets.token_hex(12)
        return correlation, None if self.settings.v5 else ReplyAddress(self.settings.reply_topic, correlation)

    def new_id(self) -> str:
        """Of a request that was given none: no other request of this client has it."""
        return f"{self._start}-{next(self._numbers):x}"

    def _topic(self, asked: InferenceRequest) -> bytes:
        """With its u16 length."""
        key = (asked.device or "", asked.model)
        found = self._topics.get(key)
        if found is None or (asked.pool is not None and asked.device is not None):
            if (asked.device is None) == (asked.pool is None):
                raise ValueError("name either a device or a pool")
            check_name("model", asked.model)
            if asked.device is None:
                topic = self.settings.topics.pool(asked.model)
            else:
                topic = self.settings.topics.infer(check_name("device", asked.device), asked.model)
            found = text(topic.encode())
            if len(self._topics) >= 4096:
                self._topics.clear()
            self._topics[key] = found
        if asked.pool is not None:
            check_name("pool", asked.pool)
        elif asked.device is None:
            raise ValueError("name either a device or a pool")
        if (asked.picture is None) == (asked.inputs is None):
            raise ValueError("give either inputs or a picture")
        return found

    def _check_bare(self, asked: InferenceRequest) -> None:
        """A picture whose input is not known goes as it is: nothing else can be said with it."""
        if not self.settings.v5:
            raise BadRequestError(
                InferenceCode.NO_IMAGE_INPUT,
                f"over MQTT 3.1.1 a picture is sent with the name of its input, and {asked.device or 'no device'} does "
                f"not say how {asked.model} takes pictures",
            )
        if asked.outputs is not None or asked.version or asked.detections is not None:
            raise BadRequestError(
                InferenceCode.NO_IMAGE_INPUT,
                "outputs, version and detections go with the name of the picture's input, and "
                f"{asked.device or 'no device'} does not say how {asked.model} takes pictures",
            )


def encodes(value: str) -> bool:
    """Is it a text that UTF-8 has: one without lone surrogates?"""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tensors(inputs: Inputs | None, datatypes: Mapping[str, str] | None) -> dict[str, WireTensor]:
    if inputs is None or len(inputs) > MAX_TENSORS:
        raise BadRequestError(InferenceCode.BAD_PAYLOAD, f"a request has at most {MAX_TENSORS} inputs")
    if datatypes is None:
        return {name: to_wire(name, value) for name, value in inputs.items()}
    return {name: to_wire(name, value, datatypes.get(name, "")) for name, value in inputs.items()}
