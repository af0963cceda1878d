"""Lists: the line that sums them up, their orders, and what a limit says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry.cli import listing
from registry.cli.listing import Listing, show_list
from registry.cli.output import CliError
from registry.cli.session import GlobalOptions, Session
from registry.client.errors import UsageFault
from registry.contracts.wire import Wire


class Thing(Wire):
    name: str
    size: int | None = 0


THINGS = Listing(
    of=Thing,
    noun="box",
    nouns="boxes",
    columns=("NAME", ">SIZE"),
    row=lambda thing: (thing.name, thing.size),
    empty="No boxes.",
    orders={"name": lambda thing: thing.name, "size": lambda thing: thing.size},
)
NEWEST = Listing(
    of=Thing, noun="job", columns=("NAME",), row=lambda thing: (thing.name,), empty="No jobs.", newest_first=True
)
FOUR = [Thing(name="d", size=1), Thing(name="a", size=None), Thing(name="c", size=30), Thing(name="b", size=200)]


class Client:
    """Answers a list of any path, as `ApiClient.items` does."""

    def __init__(self, things: list[Thing]) -> None:
        self._things = things

    def items(self, path: str, of: type[Thing], limit: int, **query: Any) -> list[Thing]:
        assert (path, of) == ("/things", Thing)
        return self._things[:limit]


def session_with(things: list[Thing], *, as_json: bool = False) -> Session:
    session = Session(GlobalOptions(as_json=as_json))
    session._client = Client(things)  # type: ignore[assignment]
    return session


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_whole_list_says_how_many_there_are_first(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(session_with(FOUR), THINGS, "/things")
    assert lines(capsys) == ["4 boxes.", "NAME SIZE", "d 1", "a None", "c 30", "b 200"]
    show_list(session_with(FOUR[:1]), THINGS, "/things", limit=1)
    assert lines(capsys)[0] == "1 box."


def test_an_empty_list_says_so_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(session_with([]), THINGS, "/things")
    assert lines(capsys) == ["No boxes."]


@pytest.mark.parametrize(
    ("sort", "names"),
    [("name", "abcd"), ("-name", "dcba"), ("size", "bcda"), ("-size", "dcba")],
)
def test_names_come_from_a_and_numbers_from_the_largest_and_what_has_none_last(
    capsys: pytest.CaptureFixture[str], sort: str, names: str
) -> None:
    assert "".join(thing.name for thing in show_list(session_with(FOUR), THINGS, "/things", sort=sort)) == names
    assert lines(capsys)[0] == "4 boxes."


def test_a_limit_cuts_the_sorted_list_and_not_a_page_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(session_with(FOUR), THINGS, "/things", sort="size", limit=1)
    assert lines(capsys) == ["The first 1 of 4 boxes by size: --limit 4 shows all.", "NAME SIZE", "b 200"]


def test_a_list_that_a_limit_cut_says_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(session_with(FOUR), NEWEST, "/things", default=3)
    assert lines(capsys)[0] == "The newest 3 jobs; there are more: --limit 6 shows more."
    show_list(session_with(FOUR), NEWEST, "/things", limit=1)
    assert lines(capsys)[0] == "The newest job; there are more: --limit 2 shows more."
    show_list(session_with(FOUR), NEWEST, "/things", limit=4)
    assert lines(capsys)[0] == "4 jobs."


def test_a_program_gets_the_documents_and_is_warned_of_a_limit_it_did_not_ask_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_list(session_with(FOUR, as_json=True), NEWEST, "/things", default=3)
    said = capsys.readouterr()
    assert [thing["name"] for thing in json.loads(said.out)] == ["d", "a", "c"]
    assert "there are more: --limit 6" in said.err
    show_list(session_with(FOUR, as_json=True), NEWEST, "/things", limit=3)
    assert capsys.readouterr().err == ""


def test_more_than_can_be_sorted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_SORTED", 3)
    with pytest.raises(CliError, match="too many to sort"):
        show_list(session_with(FOUR), THINGS, "/things", sort="name", limit=1)


def test_an_unknown_order_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageFault) as failed:
        show_list(session_with(FOUR), THINGS, "/things", sort="colour")
    assert "name, size" in failed.value.hint
