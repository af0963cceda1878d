"""What is known of devices by their presence documents: who is there, who is not, and since when. Pure.

An agent publishes `{"online": true, "at": …}` as a retained message, and the broker its will, `{"online": false, …}`,
when it goes. A device without a document has never been there, or the broker does not let this client see it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from datetime import datetime
from typing import NamedTuple

from ...contracts.codes import RequestCode
from ...contracts.enums import StrEnum
from .errors import DeviceError, DeviceOfflineError, error_of

MAX_DEVICES = 65536
"""Devices that are remembered. What is over that is asked again."""


class DevicePresence(NamedTuple):
    """A presence document."""

    online: bool
    at: str = ""
    """When it came up, as it says, ISO 8601; a will does not say."""


class _Known(StrEnum):
    ASKED = "asked"
    ONLINE = "online"
    OFFLINE = "offline"
    ABSENT = "absent"


def read_presence(payload: bytes) -> DevicePresence | None:
    """The document; None: there is none (any more), or it is not one."""
    try:
        said = json.loads(payload)
        online = said["online"]
        return DevicePresence(online, str(said.get("at") or "")) if isinstance(online, bool) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class Presences:
    """Of one connection to the broker: `forget` what is known when it ends.

    With `watched=False` nothing is asked, and every device counts as there.
    """

    def __init__(self, *, watched: bool = True) -> None:
        self._watched = watched
        self._known: OrderedDict[str, tuple[_Known, str]] = OrderedDict()

    def ask(self, device: str) -> bool:
        """Is its document to be asked for? It counts as asked then. False: it was."""
        if device in self._known:
            return False
        while len(self._known) >= MAX_DEVICES:
            self._known.popitem(last=False)
        self._known[device] = _Known.ASKED, ""
        return True

    def learn(self, device: str, said: DevicePresence | None) -> bool:
        """The document has come, or there is none. True: that is news."""
        before = self._known.get(device, (None, ""))[0]
        if said is None:
            now, since = _Known.ABSENT, ""
        else:
            now, since = (_Known.ONLINE, "") if said.online else (_Known.OFFLINE, said.at)
        self._known[device] = now, since
        return before is not now

    def forget(self) -> None:
        """The connection has ended."""
        self._known.clear()

    def clear(self, device: str) -> bool:
        """May requests be sent to it? Not while it was asked, or is offline."""
        if not self._watched:
            return True
        known = self._known.get(device)
        return known is not None and (known[0] is _Known.ONLINE or known[0] is _Known.ABSENT)

    def online(self, device: str) -> bool:
        """It has said that it is there."""
        return self._is(device, _Known.ONLINE)

    def offline(self, device: str) -> bool:
        """It has said that it is not there."""
        return self._is(device, _Known.OFFLINE)

    def absent(self, device: str) -> bool:
        """It has said nothing."""
        return self._is(device, _Known.ABSENT)

    def _is(self, device: str, known: _Known) -> bool:
        return self._known.get(device, (None, ""))[0] is known

    def refusal(self, device: str, *, nobody: bool = False) -> DeviceError:
        """Why no request is sent to it. `nobody`: no one takes the requests under its name."""
        state, since = self._known.get(device, (_Known.ABSENT, ""))
        if state is _Known.OFFLINE:
            told = f" since {since}" if since else ""
            error = DeviceOfflineError(RequestCode.DEVICE_OFFLINE, f"{device} is not connected{told}", device=device)
            error.since = _time(since)
            return error
        if state is _Known.ONLINE and nobody:
            return error_of(RequestCode.DEVICE_OFFLINE, f"{device} said that it is there, but takes no requests now")
        text = (
            f"no agent of the name {device} takes requests at this broker, and none has announced itself to this client"
        )
        return error_of(RequestCode.NO_SUCH_DEVICE, text, device=device)


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
    except ValueError:
        return None
