"""Asks devices over MQTT. See docs/client-devices.md.

`Client` is for threads, `AsyncClient` for asyncio. Both answer with an `Answer` or raise a `DeviceError`.
"""

from .answer import Answer
from .arrays import TypedTensor
from .asking import InferenceRequest
from .async_client import AsyncClient
from .client import Client
from .detections import DetectedObject, DetectionOptions
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
from .metadata import DeviceDescription, ModelDescription, TensorDescription

__all__ = [
    "Answer",
    "AsyncClient",
    "BadReplyError",
    "BadRequestError",
    "Client",
    "DeadlineError",
    "DetectedObject",
    "DetectionOptions",
    "DeviceDescription",
    "DeviceError",
    "DeviceOfflineError",
    "InferenceRequest",
    "ModelDescription",
    "ModelFailedError",
    "NotConnectedError",
    "NotReadyError",
    "OverloadedError",
    "Statistics",
    "TensorDescription",
    "TypedTensor",
    "UnknownDeviceError",
    "UnknownModelError",
]
