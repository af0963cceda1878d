"""Hashes what lies in the cache again, in the background and slowly: corruption is found before a worker needs the
file.

What is active and what there is to go back to is read once in a while, at a bounded rate; what is damaged is set aside
and pulled again. What is being installed is left alone: it is hashed anyway before it is loaded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.core.slots import Choice, SlotRecord
from agent.errors import AgentError, StepCancelledError

log = logging.getLogger(__name__)


class Inspector:
    """A thread of its own, that sleeps nearly always."""

    def __init__(
        self,
        cache: ArtifactCache,
        records: Callable[[], Iterable[SlotRecord]],
        damaged: Callable[[Choice], None],
        *,
        bytes_per_s: int,
        every_s: float,
    ) -> None:
        """`damaged` is called, in this thread, with what has to be pulled again. `every_s` is from end to begin."""
        self._cache = cache
        self._records = records
        self._damaged = damaged
        self._bytes_per_s = bytes_per_s
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inspect", daemon=True)

    def start(self) -> None:
        """The first look is after the first pause: what serves was hashed when it was loaded."""
        self._thread.start()

    def stop(self) -> None:
        """Soon; nothing waits for it."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._try_to_look()

    def _try_to_look(self) -> None:
        try:
            self.look()
        except StepCancelledError:
            return
        except Exception:
            log.exception("the check of the cache goes on after a fault of its own")

    def look(self) -> None:
        """Everything once. Raises StepCancelledError after `stop`."""
        places = [place for record in self._records() for place in (record.active, record.previous) if place]
        for choice in {place.variant_digest: place for place in reversed(places)}.values():
            self._check(choice)

    def _check(self, choice: Choice) -> None:
        try:
            self._cache.verify(choice.variant, choice.variant_digest, self._stop, self._pace)
            if choice.golden is not None and self._cache.has_golden(choice.variant_digest, choice.golden.file):
                self._cache.checked_golden(choice.variant_digest, choice.golden.file, self._stop)
        except AgentError as error:
            log.warning("in the background: %s", error)
            self._damaged(choice)

    def _pace(self, count: int) -> None:
        """After each read: as long as it may take at the bounded rate, whatever it took."""
        self._stop.wait(count / self._bytes_per_s)
