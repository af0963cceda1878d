"""Lists of one kind: a line that sums them up, then a row for each, in an order, at most so many.

RULE: an order is an order of the whole list. The registry's own order comes page by page; any other is made of
everything, and refused where that is more than MAX_SORTED. A list that a limit cut says so and how to see more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import typer

from registry.cli.output import CliError, Output
from registry.cli.session import Session
from registry.client.errors import UsageFault
from registry.contracts.wire import Wire

MAX_SORTED = 100_000
"""Rows that are sorted here, and the largest limit."""
Item = TypeVar("Item", bound=Wire)
Asked = str | int | list[str] | None
LimitOption = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, max=MAX_SORTED, help="Show at most so many.", show_default=False)
]


def first_option(default: int, which: str = "first") -> Any:
    """--limit of a list that is not shown whole."""
    text = f"Show at most so many, the {which}.  [default: {default}]"
    return typer.Option("--limit", "-n", min=1, max=MAX_SORTED, help=text, show_default=False)


def newest_option(default: int) -> Any:
    """The same of a list that comes newest first."""
    return first_option(default, "newest")


def sort_option(orders: Mapping[str, Callable[[Any], object]], own: str) -> Any:
    """--sort of a list with these orders; `own` says which one it has without."""
    text = f"By {', '.join(orders)}: largest and newest first, names from a. With - before it the other way round."
    return typer.Option("--sort", metavar="ORDER", help=f"{text}  [default: {own}]", show_default=False)


@dataclass(frozen=True)
class Listing(Generic[Item]):
    """How a list looks."""

    of: type[Item]
    """Of the documents."""
    noun: str
    """What there is one of; its plural ends in s, or it is `nouns`."""
    columns: Sequence[str]
    """Headings; `>x` is a number."""
    row: Callable[[Item], Sequence[object]]
    """The cells of an item."""
    empty: str
    """Said where there is none."""
    optional: Sequence[str] = ()
    """Columns that a narrow terminal may do without, the first to go first."""
    orders: Mapping[str, Callable[[Item], Any]] = field(default_factory=dict)
    """Name to key. Text is sorted upwards, numbers and times downwards."""
    newest_first: bool = False
    """The registry's own order."""
    nouns: str = ""

    @property
    def plural(self) -> str:
        """`models`."""
        return self.nouns or f"{self.noun}s"

    def many(self, number: int) -> str:
        """`1 model`, `1,204 models`."""
        return f"{number:,} {self.noun if number == 1 else self.plural}"


@dataclass(frozen=True)
class ListPart(Generic[Item]):
    """What of a list is shown."""

    shown: list[Item]
    summary: str
    """The line above it: how many there are, or that there are more and how to see them."""
    is_cut: bool
    """There are more."""


def show_list(
    session: Session,
    listing: Listing[Item],
    path: str,
    *,
    limit: int | None = None,
    default: int = MAX_SORTED,
    sort: str | None = None,
    query: Mapping[str, Asked] | None = None,
) -> list[Item]:
    """Print a list, as a table or as JSON, and return what was shown. Arguments and errors: `fetch_list`."""
    part = fetch_list(session, listing, path, limit=limit, default=default, sort=sort, query=query)
    if session.out.as_json:
        session.out.document(part.shown)
        if part.is_cut and limit is None:
            session.out.warn(part.summary)
    else:
        print_list(session.out, listing, part)
    return part.shown


def fetch_list(
    session: Session,
    listing: Listing[Item],
    path: str,
    *,
    limit: int | None = None,
    default: int = MAX_SORTED,
    sort: str | None = None,
    query: Mapping[str, Asked] | None = None,
) -> ListPart[Item]:
    """What of a list is to be shown.

    Args:
        session: Of the command.
        listing: How it looks.
        path: Of the API.
        limit: What was asked for; None: `default`.
        default: A limit that nobody asked for; a program is warned when it cuts.
        sort: One of `listing.orders`, or `-` and one. None: the registry's order.
        query: Which of them the registry is asked for.

    Raises:
        CliError: there is more than can be sorted.
        UsageFault: there is no such order.
    """
    most = limit or default
    order = None if sort is None else _Order.named(listing.orders, sort)
    asked = (most if order is None else MAX_SORTED) + 1  # the one more says whether there are more
    found = session.client.items(path, listing.of, asked, **(query or {}))
    if order is not None:
        if len(found) > MAX_SORTED:
            raise CliError(
                f"There are more than {MAX_SORTED:,} {listing.plural}, too many to sort here",
                code="invalid",
                hint="Leave --sort out, or choose fewer by the command's other options.",
            )
        order.sort(found)
    shown = found[:most]
    return ListPart(shown, _summary(listing, len(shown), len(found), order), len(shown) < len(found))


def print_list(out: Output, listing: Listing[Item], part: ListPart[Item]) -> None:
    """The line that sums it up, and the table."""
    if part.shown:
        out.say(part.summary)
    out.table(listing.columns, map(listing.row, part.shown), listing.empty, optional=listing.optional)


def no_order(text: str, orders: Iterable[str]) -> UsageFault:
    """What a list says that has other orders than this one."""
    return UsageFault(f"There is no order {text!r}", hint=f"There are: {', '.join(orders)}; with - before it too")


@dataclass(frozen=True)
class _Order:
    name: str
    key: Callable[[Any], Any]
    turned: bool

    @classmethod
    def named(cls, orders: Mapping[str, Callable[[Any], Any]], text: str) -> _Order:
        name = text.removeprefix("-").replace("-", "_")
        if name not in orders:
            raise no_order(text, orders)
        return cls(name, orders[name], text.startswith("-"))

    def sort(self, items: list[Any]) -> None:
        """Upwards for text, downwards for numbers and times; what has no value comes last."""
        known = [item for item in items if self.key(item) is not None]
        rest = [item for item in items if self.key(item) is None]
        is_text = bool(known) and isinstance(self.key(known[0]), str)
        known.sort(key=self.key, reverse=is_text is self.turned)
        items[:] = known + rest


def _summary(listing: Listing[Any], shown: int, total: int, order: _Order | None) -> str:
    if shown == total:
        return f"{listing.many(total)}."
    if order is not None:
        by = f"by {order.name}" + (", the other way round" if order.turned else "")
        return f"The first {shown:,} of {listing.many(total)} {by}: --limit {total} shows all."
    which = "newest" if listing.newest_first else "first"
    number = listing.noun if shown == 1 else listing.many(shown)
    return f"The {which} {number}; there are more: --limit {min(2 * shown, MAX_SORTED)} shows more."
