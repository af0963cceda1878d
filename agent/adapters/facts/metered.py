"""Does the network cost by the byte? As the settings say, or as NetworkManager knows of its primary connection.

Source: NetworkManager's D-Bus property `Metered` (NMMetered: 0 unknown, 1 yes, 2 no, 3 guessed yes, 4 guessed no), read
with busctl. Where it cannot be asked the network counts as not metered: a device must not wait for ever for a network
that it has.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Literal

from agent.adapters.facts.vendor_tool import ToolError, run_tool

log = logging.getLogger(__name__)
ASK_EVERY_S = 60.0
TIMEOUT_S = 2.0
_NAME = "org.freedesktop.NetworkManager"
COMMAND = ("busctl", "--system", "get-property", _NAME, "/org/freedesktop/NetworkManager", _NAME, "Metered")
_YES = frozenset({"1", "3"})


class Metered:
    """Never blocks: an answer is at most ASK_EVERY_S and one question old. Thread-safe."""

    def __init__(self, setting: Literal["no", "yes", "auto"], ask: Callable[[], str] | None = None) -> None:
        """`ask` gives what busctl prints; default: asks it."""
        self._setting = setting
        self._ask = ask or _ask_network_manager
        self._known = setting == "yes"
        self._asked_at = float("-inf")
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        """True: it costs by the byte."""
        if self._setting == "auto" and time.monotonic() - self._asked_at >= ASK_EVERY_S and self._lock.acquire(False):
            self._asked_at = time.monotonic()
            threading.Thread(target=self._look, name="metered", daemon=True).start()
        return self._known

    def _look(self) -> None:
        try:
            found = re.fullmatch(r"u ([0-4])\s*", self._ask())
            self._known = found is not None and found[1] in _YES
        except ToolError as error:
            log.info("whether the network is metered is not known: %s", error)
            self._known = False
        finally:
            self._lock.release()


def _ask_network_manager() -> str:
    return run_tool(COMMAND, os.environ, timeout_s=TIMEOUT_S, limit=256)
