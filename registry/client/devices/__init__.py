"""Asks devices over MQTT. See docs/client-devices.md.

`Client` is for threads, `AsyncClient` for asyncio. Both answer with an `Answer` or raise a `DeviceError`.
"""

from .answer import Answer
from .arrays import TypedTensor
from .asking import InferenceRequest
from .client import Client
from .errors import (
    BadReplyError,
    BadRequestError,
    DeadlineError,
    DeviceError,
    DeviceOfflineError,
    ModelFailedError,
    NotConnectedError,
    NotReadyError,
    OverloadedError,
    UnknownDeviceError,
    UnknownModelError,
)
from .figures import Statistics

__all__ = [
    "Answer",
    "BadReplyError",
    "BadRequestError",
    "Client",
    "DeadlineError",
    "DeviceError",
    "DeviceOfflineError",
    "InferenceRequest",
    "ModelFailedError",
    "NotConnectedError",
    "NotReadyError",
    "OverloadedError",
    "Statistics",
    "TypedTensor",
    "UnknownDeviceError",
    "UnknownModelError",
]
