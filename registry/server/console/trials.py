"""Trials: what somebody asked devices from the console, and what they answered.

They are kept in memory, for whoever asked and for nobody else, a short time, bounded in number and bytes: a picture
that somebody tries is no data of the registry. How many are under way at once is bounded, too, for each visitor and
for all: what is over the bound is refused, not queued.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry.errors import BusyError, NotFoundError

KEPT = timedelta(minutes=15)
MAX_TRIALS = 64
MAX_BYTES = 128 << 20
"""Of all pictures and requests that are kept; the oldest trials make room."""
MAX_AT_ONCE = 8
MAX_OF_ONE = 2
"""Under way at once: of all visitors, and of one."""


@dataclass(frozen=True)
class AskedSlot:
    """Who is asked for what."""

    name: str
    """Of a device; of a pool where `pool` is true."""
    pool: bool
    model: str
    version: str = ""
    """Only this version may answer; empty: whichever serves."""

    @property
    def reference(self) -> str:
        """`MODEL` or `MODEL@VERSION`."""
        return f"{self.model}@{self.version}" if self.version else self.model


@dataclass(frozen=True)
class Picture:
    """A JPEG or PNG as it was sent."""

    data: bytes
    media_type: str
    width: int
    height: int
    """Of both: in pixels, as a viewer shows it."""


@dataclass(frozen=True)
class Box:
    """An object that a detector found."""

    left: float
    top: float
    right: float
    bottom: float
    """Edges in pixels of the picture."""
    score: float
    class_id: int
    label: str


@dataclass(frozen=True)
class ShownOutput:
    """An output as a person sees it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    text: str
    """JSON; of a long one the first elements."""
    left_out: int = 0
    """Elements that are not in the text."""


@dataclass(frozen=True)
class Outcome:
    """What came of asking one target: an answer, or an error with code, message and action."""

    target: AskedSlot
    seconds: float = 0.0
    """From the question to the answer."""
    device: str = ""
    """That answered."""
    version: str = ""
    variant: str = ""
    labels: tuple[tuple[tuple[str, float], ...], ...] = ()
    """Of a classifier, for each item: labels with their scores, best first."""
    boxes: tuple[Box, ...] | None = None
    """Of a detector; None: it is none."""
    outputs: tuple[ShownOutput, ...] = ()
    """The others."""
    code: str = ""
    """Empty: there is an answer."""
    message: str = ""
    action: str = ""

    @property
    def best(self) -> str:
        """The label of the first item; empty where there is none."""
        return self.labels[0][0][0] if self.labels and self.labels[0] else ""


@dataclass(frozen=True)
class TrialRequest:
    """One of them."""

    id: str
    owner: int
    """The session of whoever asked."""
    at: datetime
    picture: Picture | None
    request: str
    """JSON; empty: a picture was sent."""
    outcomes: tuple[Outcome, ...]

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        shown = sum(len(output.text) for outcome in self.outcomes for output in outcome.outputs)
        return len(self.request) + shown + (len(self.picture.data) if self.picture is not None else 0)


class Trials:
    """Of one application. Thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[str, TrialRequest] = {}
        self._under_way: Counter[int] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def under_way(self, owner: int) -> Iterator[None]:
        """While somebody is asked. Raises BusyError: too many are."""
        with self._lock:
            if self._under_way[owner] >= MAX_OF_ONE:
                raise BusyError(f"{MAX_OF_ONE} trials of yours are under way; wait for their answers.")
            if self._under_way.total() >= MAX_AT_ONCE:
                raise BusyError(f"{MAX_AT_ONCE} trials are under way, which is the most; try again in a moment.")
            self._under_way[owner] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[owner] -= 1
                self._under_way += Counter()  # forgets whoever has none

    def keep(
        self, owner: int, at: datetime, picture: Picture | None, request: str, outcomes: tuple[Outcome, ...]
    ) -> TrialRequest:
        """A new one; the oldest make room."""
        trial = TrialRequest(secrets.token_urlsafe(12), owner, at, picture, request, outcomes)
        with self._lock:
            self._kept[trial.id] = trial
            held = sum(each.size for each in self._kept.values())
            for old in list(self._kept.values()):
                if old.at + KEPT > at and len(self._kept) <= MAX_TRIALS and held <= MAX_BYTES:
                    break
                held -= old.size
                del self._kept[old.id]
        return trial

    def get(self, name: str, owner: int, now: datetime) -> TrialRequest:
        """Raises NotFoundError: it is over, or of somebody else."""
        with self._lock:
            found = self._kept.get(name)
            if found is not None and found.at + KEPT <= now:
                del self._kept[name]
                found = None
        if found is None or found.owner != owner:
            minutes = KEPT.total_seconds() / 60
            raise NotFoundError(f"There is no such trial any more: one is kept {minutes:.0f} minutes. Ask again.")
        return found
