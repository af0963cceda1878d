"""The tries of a transfer that goes on where it was cut."""

from __future__ import annotations

import time
from collections.abc import Callable

from registry.client.errors import ClientError
from registry.contracts.backoff import Backoff

PAUSES = Backoff(first_s=0.25, cap_s=10.0, limit=8)


def ignore(*_: object) -> None:
    """For a caller who wants to be told nothing."""


class Retries:
    """Counts tries in a row that made no progress, and waits between them.

    Args:
        note: Told of every cut, in a sentence.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._failures = 0

    def wait(self, fault: ClientError, *, curable: bool, advanced: bool) -> None:
        """Sleep before the next try.

        Args:
            fault: What ended this one.
            curable: Could the same succeed later?
            advanced: Did this try make progress?

        Raises:
            ClientError: `fault`, when there is no next try.
        """
        self._failures = 1 if advanced else self._failures + 1
        if not curable or PAUSES.exhausted(self._failures):
            raise fault
        delay = PAUSES.delay(self._failures)
        self._note(f"{fault.what}; going on in {delay:.1f} s")
        time.sleep(delay)
