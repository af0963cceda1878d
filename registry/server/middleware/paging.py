"""Cursor paging. A cursor is opaque to clients, belongs to one list, and is checked like any other input."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query

from registry.contracts.api.answers import MAX_PAGE, Page
from registry.errors import InvalidError

Item = TypeVar("Item")
Key = TypeVar("Key", str, int)
DEFAULT_PAGE = 100
NEWEST = (1 << 63) - 1
"""Above every id: where a list that runs from new to old begins."""
CURSOR_REFUSED = "The cursor is not one that this list gave out; start without a cursor."


@dataclass(frozen=True)
class Paging:
    """What `?limit=&cursor=` say."""

    limit: int
    cursor: str | None

    def answer(
        self,
        listing: str,
        beginning: Key,
        fetch: Callable[[Key, int], Sequence[Item]],
        key: Callable[[Item], Key],
    ) -> Page[Item]:
        """One page of a list: at most `limit` items, with a cursor when there are more.

        Args:
            listing: Names the list.
            beginning: The key before the first item.
            fetch: Gets so many items that come after a key.
            key: Of an item.

        Raises:
            InvalidError: the cursor is not one of this list.
        """
        start = beginning
        if self.cursor is not None:
            found = decode_cursor(self.cursor, listing)
            if type(found) is not type(beginning):
                raise InvalidError(CURSOR_REFUSED)
            start = found
        items = fetch(start, self.limit + 1)
        shown = tuple(items[: self.limit])
        more = len(items) > self.limit
        return Page[Item](items=shown, next=encode_cursor(listing, key(shown[-1])) if more else None)

    def keyed(
        self,
        listing: str,
        fetch: Callable[[tuple[Any, ...] | None, int], tuple[Sequence[Item], tuple[Any, ...] | None]],
    ) -> Page[Item]:
        """One page of a list whose key is not a part of its items, and whose pages may be short.

        Args:
            listing: Names the list and its order.
            fetch: Gets up to so many items that come after a key (None: from the beginning), and the key of the next
                page; keys consist of texts, whole numbers and times.

        Raises:
            InvalidError: the cursor is not one of this list.
        """
        after = None
        if self.cursor is not None:
            found = decode_cursor(self.cursor, listing)
            after = _parts(found) if isinstance(found, str) else None
            if after is None:
                raise InvalidError(CURSOR_REFUSED)
        items, more = fetch(after, self.limit)
        return Page[Item](items=tuple(items), next=encode_cursor(listing, _text(more)) if more is not None else None)

    def newest(self, listing: str, fetch: Callable[[int, int], Sequence[tuple[int, Item]]]) -> Page[Item]:
        """The same of a list from new to old, whose items `fetch` gives with their numbers."""
        page = self.answer(listing, NEWEST, fetch, lambda numbered: numbered[0])
        return Page[Item](items=tuple(item for _, item in page.items), next=page.next)


def encode_cursor(listing: str, key: str | int) -> str:
    """URL-safe text that `decode_cursor` takes back."""
    return base64.urlsafe_b64encode(json.dumps([listing, key]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, listing: str) -> str | int:
    """The key in a cursor. Raises InvalidError when it is not one, or of another list."""
    try:
        value = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        value = None
    if (
        not isinstance(value, list)
        or len(value) != 2
        or value[0] != listing
        or type(value[1]) not in (str, int)
        or (type(value[1]) is int and not 0 <= value[1] <= NEWEST)
        or (type(value[1]) is str and not is_text(value[1]))
    ):
        raise InvalidError(CURSOR_REFUSED)
    key: str | int = value[1]
    return key


def _text(key: tuple[Any, ...]) -> str:
    return json.dumps([{"t": part.isoformat()} if isinstance(part, datetime) else part for part in key])


def _parts(text: str) -> tuple[Any, ...] | None:
    """The key in a cursor; None: it is none."""
    try:
        parts = json.loads(text)
        key = tuple(datetime.fromisoformat(part["t"]) if isinstance(part, dict) else part for part in parts)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return key if all(_is_key(part) for part in key) else None


def _is_key(part: object) -> bool:
    if isinstance(part, datetime):
        return part.tzinfo is not None
    return (isinstance(part, str) and is_text(part)) or (type(part) is int and 0 <= part <= NEWEST)


def is_text(key: str) -> bool:
    """False for half a surrogate pair, which JSON can say and no database can look up."""
    return not any("\ud800" <= character <= "\udfff" for character in key)


def _paging(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many items at most")] = DEFAULT_PAGE,
    cursor: Annotated[str | None, Query(max_length=512, description="`next` of the page before")] = None,
) -> Paging:
    return Paging(limit, cursor)


PagingDep = Annotated[Paging, Depends(_paging)]
