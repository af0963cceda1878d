"""After its commit a transaction tells this process what it changed.

Whoever writes a row calls `announce` in the same transaction. `Database.write()` calls the listeners when the
transaction is committed, outside of it and of the writers' queue; after a rollback it calls nobody. Another process
hears nothing, so whoever listens looks from time to time as well.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from enum import Enum, auto

from sqlalchemy.orm import Session

log = logging.getLogger(__name__)
_ANNOUNCED = "modelfleet_announced"


class Changed(Enum):
    """What can be announced."""

    DOCUMENTS = auto()
    """Desired documents."""
    EVENTS = auto()
    """The fleet's log has more entries."""
    FLEET = auto()
    """Devices, their labels or facts, or groups: a rollout may have newcomers."""
    ROLLOUTS = auto()
    """A rollout, or a device of one, went on: its next step may be due."""
    TOKEN = auto()
    """The token of this name was replaced or revoked."""


def announce(session: Session, changed: Changed, name: str = "") -> None:
    """Have the listeners called after the commit, once for each name."""
    session.info.setdefault(_ANNOUNCED, {})[changed, name] = None


class Listeners:
    """Who is told. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[tuple[Changed, Callable[[str], object]], ...] = ()

    def add(self, changed: Changed, listener: Callable[[str], object]) -> Callable[[], None]:
        """`listener` is called with the name, in the writer's thread; it must not block. Returns what ends that."""
        entry = (changed, listener)
        with self._lock:
            self._listeners = (*self._listeners, entry)

        def end() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not entry)

        return end

    def tell(self, session: Session) -> None:
        """The session is committed. A listener that raises is logged, and the others are called."""
        for changed, name in session.info.pop(_ANNOUNCED, ()):
            for wanted, listener in self._listeners:
                if wanted is changed:
                    try:
                        listener(name)
                    except Exception:
                        log.exception("a listener of %s failed", changed.name)
