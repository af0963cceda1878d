"""What can go wrong with a request to a device: one class for each thing that a program does about it."""

from __future__ import annotations

from datetime import datetime

from ...contracts.codes import InferenceCode, RequestCode, known

_TABLES = (RequestCode, InferenceCode)


class DeviceError(Exception):
    """A request that got no answer, or an error for one.

    `code` is stable and of docs/codes.md; `message` says what happened and why; `action` what to do about it.
    `device` and `request_id` say whose it is, each empty where nobody knows.
    """

    def __init__(self, code: str, message: str, *, device: str = "", request_id: str = "") -> None:
        super().__init__(code, message)
        self.code = str(code)
        self.message = message
        self.device = device
        self.request_id = request_id
        row = known(self.code, _TABLES)
        self.action = row.action if row is not None else ""

    def __str__(self) -> str:
        """All of it, in one or two sentences."""
        where = f" ({self.device})" if self.device and self.device not in self.message else ""
        return f"{self.code}{where}: {self.message}" + (f". {self.action}" if self.action else "")


class OverloadedError(DeviceError):
    """The device has no room for another request now. The client has tried again until the time-out or `retries`."""


class NotReadyError(DeviceError):
    """The model is assigned to the device, and nothing serves it yet."""


class DeadlineError(DeviceError, TimeoutError):
    """No answer within the time-out. The request may have been run, or may still be run within a second."""


class NotConnectedError(DeviceError, ConnectionError):
    """No connection to the broker, or it was lost before the answer came, or the client is closed."""


class BadRequestError(DeviceError, ValueError):
    """The request is at fault: the same one is refused again."""


class UnknownModelError(BadRequestError):
    """The device does not serve that model, or not that version."""


class UnknownDeviceError(DeviceError, LookupError):
    """No such device, or nobody of a pool takes requests to the model."""


class DeviceOfflineError(DeviceError):
    """The device is known and not connected. `since` is when it went, where that is known."""

    since: datetime | None = None


class ModelFailedError(DeviceError):
    """The device took the request and could not answer it: the runtime, its memory, or its time."""


class BadReplyError(DeviceError):
    """What came on the reply topic is not an answer of the protocol."""


_CLASSES: dict[str, type[DeviceError]] = {
    InferenceCode.OVERLOADED: OverloadedError,
    InferenceCode.MODEL_NOT_READY: NotReadyError,
    InferenceCode.UNKNOWN_MODEL: UnknownModelError,
    InferenceCode.UNKNOWN_VERSION: UnknownModelError,
    InferenceCode.DEADLINE_EXCEEDED: DeadlineError,
    RequestCode.NO_ANSWER: DeadlineError,
    **dict.fromkeys(
        (RequestCode.NOT_CONNECTED, RequestCode.CONNECTION_REFUSED, RequestCode.CONNECTION_LOST,
         RequestCode.CLIENT_CLOSED), NotConnectedError),
    **dict.fromkeys((RequestCode.NO_SUCH_DEVICE, RequestCode.NO_POOL_MEMBER), UnknownDeviceError),
    RequestCode.DEVICE_OFFLINE: DeviceOfflineError,
    RequestCode.BAD_REPLY: BadReplyError,
    **dict.fromkeys(
        (InferenceCode.RUN_FAILED, InferenceCode.OUT_OF_MEMORY, InferenceCode.RUN_TIMEOUT,
         InferenceCode.WORKER_CRASHED, InferenceCode.RESULT_TOO_LARGE), ModelFailedError),
    **dict.fromkeys(
        (InferenceCode.BAD_PAYLOAD, InferenceCode.UNSUPPORTED_CONTENT_TYPE, InferenceCode.TOO_LARGE,
         InferenceCode.UNKNOWN_INPUT, InferenceCode.MISSING_INPUT, InferenceCode.UNKNOWN_OUTPUT,
         InferenceCode.UNSUPPORTED_PARAMETER, InferenceCode.WRONG_DATATYPE, InferenceCode.WRONG_SHAPE,
         InferenceCode.SIZE_MISMATCH, InferenceCode.BAD_IMAGE, InferenceCode.NO_IMAGE_INPUT,
         InferenceCode.BAD_RESPONSE_TOPIC, RequestCode.OUT_OF_RANGE), BadRequestError),
}  # fmt: skip


def error_of(code: str, message: str, *, device: str = "", request_id: str = "") -> DeviceError:
    """The error of the class that goes with the code; a code that this version does not know is a DeviceError."""
    return _CLASSES.get(code, DeviceError)(code, message, device=device, request_id=request_id)
