"""Asks the devices of a Modelfleet fleet over MQTT.

`Client` is for threads, `AsyncClient` for asyncio. Both answer with an `Answer` or raise a `DeviceError`.
"""

from .client.devices import *  # noqa: F403
from .client.devices import __all__ as __all__
