"""What templates call to show values: times, sizes, digests, commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup
from starlette.datastructures import QueryParams

from registry.contracts.texts import how_many, size_text, visible

_AGES = ((90 * 86400, 86400, "d"), (2 * 86400, 86400, "d"), (2 * 3600, 3600, "h"), (120, 60, "min"), (0, 1, "s"))


def age_text(at: datetime | None, now: datetime) -> str:
    """`3 min ago`; `in 3 min` for what is to come; `never` for None."""
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    size = abs(seconds)
    _, unit, name = next(row for row in _AGES if size >= row[0])
    text = f"{size / unit:.0f} {name}"
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def time_text(at: datetime | None) -> str:
    """`2026-11-28 01:40:12 UTC`; `never` for None."""
    return "never" if at is None else at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def age(now: datetime) -> Callable[[datetime | None], Markup]:
    """A filter: how long ago, with the exact time behind it."""

    def shown(at: datetime | None) -> Markup:
        if at is None:
            return Markup('<span class="quiet">never</span>')
        exact = time_text(at)
        iso = at.astimezone(timezone.utc).isoformat(timespec="seconds")
        return Markup('<time datetime="{}" title="{}">{}</time>').format(iso, exact, age_text(at, now))

    return shown


def when(at: datetime | None) -> Markup:
    """The exact time."""
    if at is None:
        return Markup('<span class="quiet">never</span>')
    iso = at.astimezone(timezone.utc).isoformat(timespec="seconds")
    return Markup('<time datetime="{}">{}</time>').format(iso, time_text(at))


def span_text(seconds: float) -> str:
    """`1.5 h`."""
    _, unit, name = next(row for row in _AGES if seconds >= row[0] or not row[0])
    return f"{seconds / unit:.3g} {name}"


def short_digest(digest: str | None) -> Markup:
    """12 hex digits, all of them behind it."""
    if not digest:
        return Markup('<span class="quiet">none</span>')
    return Markup('<code title="{}">{}</code>').format(digest, digest.partition(":")[2][:12] or digest[:12])


def command_line(*words: object) -> str:
    """The words as a shell takes them; `None` and empty lists are left out, lists are spread."""
    flat: list[str] = []
    for word in words:
        if isinstance(word, (list, tuple)):
            flat += [str(each) for each in word]
        elif word is not None:
            flat.append(str(word))
    return shlex.join(flat)


def query(values: Mapping[str, Any], **changes: Any) -> str:
    """`?a=1&b=2` of these values with some changed; what is None or empty is left out. Lists are repeated."""
    given = {key: values.getlist(key) for key in values} if isinstance(values, QueryParams) else values
    merged = {**given, **changes}
    kept = {key: value for key, value in merged.items() if value not in (None, "", [], ())}
    return "?" + urlencode(kept, doseq=True) if kept else "?"


def segment(name: object) -> str:
    """A name as one segment of a path."""
    return quote(str(name), safe="")


FILTERS: dict[str, Callable[..., Any]] = {
    "when": when,
    "time_text": time_text,
    "size": size_text,
    "span": span_text,
    "digest": short_digest,
    "segment": segment,
    "visible": visible,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {"command_line": command_line, "query": query, "how_many": how_many}
