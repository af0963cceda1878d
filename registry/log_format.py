"""How both programs write their log: lines for people, or one JSON object a line (`log_format = "json"`).

Every time carries its zone. A line says which ids it belongs to: `device`, `model`, `version`, `request`, `rollout`,
`trace` and `span`, as far as they are known. They come from `ids(...)` around the work, and from `extra=` of one line.
A line for people has them at its end, `[rollout=… trace=…]`; a JSON line has a member for each.

Where stderr is the journal (systemd sets JOURNAL_STREAM), a line begins with its priority, `<3>` for an error, as
sd-daemon(3) says: `journalctl -p err` then finds it. The journal takes that prefix off.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal, TextIO

from registry.contracts.texts import visible
from registry.log_limit import limit_logs

LogFormat = Literal["text", "json"]
IDS = ("device", "model", "version", "request", "rollout", "trace", "span")
"""What a line may belong to, in the order in which it is written."""
MAX_ID = 128
"""Characters of one."""
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog(3)."""
_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default={})  # noqa: B039 - never changed, only replaced
Known = Callable[[], Mapping[str, str]]
"""Ids that something else knows of the moment."""
_known: list[Known] = []


@contextmanager
def ids(**known: str | None) -> Iterator[None]:
    """Lines that are written within belong to these; None: it is not known."""
    token = _ids.set({**_ids.get(), **{name: value for name, value in known.items() if value}})
    try:
        yield
    finally:
        _ids.reset(token)


def belongs_to(**known: str | None) -> None:
    """As `ids`, until the `ids` around it end, or the task or thread does."""
    _ids.set({**_ids.get(), **{name: value for name, value in known.items() if value}})


def also_known(known: Known) -> None:
    """From now on each line asks `known` as well."""
    _known.append(known)


def ids_of(record: logging.LogRecord) -> dict[str, str]:
    """What this line belongs to, by the names of IDS."""
    found: dict[str, Any] = {}
    for known in _known:
        found.update(known())
    found.update(_ids.get())
    found.update({name: value for name in IDS if (value := record.__dict__.get(name))})
    return {name: str(found[name])[:MAX_ID] for name in IDS if found.get(name)}


def written_at(record: logging.LogRecord) -> str:
    """ISO 8601 with milliseconds and the host's zone."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, ids; a traceback follows on lines of its own.

    A message may hold what came from outside: what would begin a line or steer a terminal is escaped, as in Python.
    """

    def __init__(self, own: Mapping[str, str]) -> None:
        """`own`: ids that every line would have, and that are therefore not repeated."""
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s%(ids)s")
        self._own = own

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """See `written_at`."""
        return written_at(record)

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback."""
        found = {name: value for name, value in ids_of(record).items() if self._own.get(name) != value}
        record.ids = f" [{' '.join(f'{name}={value}' for name, value in found.items())}]" if found else ""
        return visible(super().format(record), _escaped)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line, without the traceback."""
        return super().formatMessage(record).replace("\n", r"\n")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class JsonFormatter(logging.Formatter):
    """One JSON object on one line: `time`, `level`, `logger`, `message`, ids, and `exception` with a traceback."""

    def __init__(self, own: Mapping[str, str]) -> None:
        """`own`: ids that every line has."""
        super().__init__()
        self._own = own

    def format(self, record: logging.LogRecord) -> str:
        """One line, in ASCII."""
        line = {
            "time": written_at(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._own,
            **ids_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Prioritized(logging.Formatter):
    """Puts the priority before a line."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        number = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{number}>{line}" for line in self._inner.format(record).split("\n"))


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Does what is written there go to systemd's journal? See systemd.exec(5), JOURNAL_STREAM."""
    named = environment.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a descriptor
        return False
    return bool(named) and named == f"{status.st_dev}:{status.st_ino}"


def set_up_logs(level: str, form: LogFormat, **own: str) -> None:
    """Log to stderr from now on, limited as `registry.log_limit` says.

    Args:
        level: The least level that is written.
        form: For people or for programs.
        own: Ids that belong to every line of this process.
    """
    formatter: logging.Formatter = JsonFormatter(own) if form == "json" else TextFormatter(own)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Prioritized(formatter) if is_journal(sys.stderr, os.environ) else formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    limit_logs()
