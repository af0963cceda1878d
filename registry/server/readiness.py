"""Can the registry do its work now? Found out by doing it: a committed write to the database, a synced one to the disk.

Looking costs a write, so what was found counts for FRESH_S; a look that hangs is not repeated, it is reported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from registry.errors import RegistryError

FRESH_S = 1.0
PATIENCE_S = 5.0
"""A look that takes longer counts as a failure."""
WORKS = "ok"


class Readiness:
    """Looks when it is asked; for one event loop.

    Args:
        checks: What has to work, each with what tries it: a call that raises when it does not work.
    """

    def __init__(self, checks: Mapping[str, Callable[[], None]]) -> None:
        self._checks = dict(checks)
        # Threads of its own: those of the requests may all wait for the database.
        self._threads = ThreadPoolExecutor(len(self._checks), thread_name_prefix="readiness")
        self._looks: dict[str, asyncio.Future[str]] = {}
        self._found: dict[str, tuple[float, str]] = {}

    async def look(self) -> dict[str, str]:
        """For each check WORKS, or why it does not work, in words that everybody may read."""
        return dict(zip(self._checks, await asyncio.gather(*map(self._one, self._checks)), strict=True))

    async def _one(self, what: str) -> str:
        at, found = self._found.get(what, (0.0, ""))
        if found and time.monotonic() - at < FRESH_S:
            return found
        look = self._looks.get(what)
        if look is None:
            look = asyncio.get_running_loop().run_in_executor(self._threads, _outcome, self._checks[what])
            self._looks[what] = look
            look.add_done_callback(lambda done: self._finished(what, done))
        done, _ = await asyncio.wait({look}, timeout=PATIENCE_S)
        return look.result() if done else f"No answer within {PATIENCE_S:g} s."

    def _finished(self, what: str, look: asyncio.Future[str]) -> None:
        self._looks.pop(what, None)
        if not look.cancelled():
            self._found[what] = (time.monotonic(), look.result())

    def close(self) -> None:
        """Looks no more; does not wait for one that hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except RegistryError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - whatever it is, it does not work
        return f"It fails with {type(error).__name__}."
    return WORKS
