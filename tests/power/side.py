"""`python -m tests.power.side agent|registry`: writes and checks in processes of its own, each a fork of this one.

Commands on standard input: `write FOLDER SEED SYNC`, `check FOLDER`, `reap`. What a writer has done, and what a
checker has found, is one JSON array a line on standard output; `["pid", number]` says who writes. SYNC 0 is the
control: nothing is synced.
"""

from __future__ import annotations

import functools
import json
import os
import random
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[..., None]


def say(*what: Any) -> None:
    """One line, whole: the writer may be killed at any moment."""
    os.write(1, json.dumps(what).encode() + b"\n")


class _LazyCursor(sqlite3.Cursor):
    def execute(self, statement: str, *values: Any) -> Any:
        return super().execute(statement.replace("synchronous=FULL", "synchronous=OFF"), *values)


class _LazyConnection(sqlite3.Connection):
    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self.cursor().execute(statement, *values)

    def cursor(self, *_: Any) -> sqlite3.Cursor:  # type: ignore[override]
        return super().cursor(_LazyCursor)


def sync_nothing() -> None:
    """The control: every fsync is a lie from here on."""
    os.fsync = lambda _: None  # type: ignore[assignment]
    os.fdatasync = lambda _: None  # type: ignore[assignment]
    lazy = functools.partial(sqlite3.connect, factory=_LazyConnection)
    sqlite3.connect = lazy  # type: ignore[assignment]
    sqlite3.dbapi2.connect = lazy  # type: ignore[assignment]


def main() -> None:
    """Until standard input ends."""
    if sys.argv[1] == "agent":
        from tests.power.agent_side import check, write
    else:
        from tests.power.registry_side import check, write
    for line in sys.stdin:
        name, *arguments = line.split()
        if name == "reap":
            os.wait()
            say("gone")
            continue
        pid = os.fork()
        if pid:
            say("pid", pid)
            continue
        try:
            if name == "write":
                if arguments[2] == "0":
                    sync_nothing()
                write(Path(arguments[0]), random.Random(arguments[1]), say)
            else:
                check(Path(arguments[0]), say)
            say("end")
        except BaseException:  # noqa: BLE001 - told, whatever it is
            say("error", traceback.format_exc()[-1500:])
        os._exit(0)


if __name__ == "__main__":
    main()
