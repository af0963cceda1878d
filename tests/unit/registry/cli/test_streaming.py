"""Tables whose rows come one after another, and the JSON array of the same answer."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from registry.cli import tables
from registry.cli.output import Output
from registry.cli.streaming import stream
from registry.contracts.wire import Wire

COLUMNS = ("DEVICE", ">LEFT", "SERVES", "LABELS")


class Thing(Wire):
    name: str
    serves: str = "lenet@1.0.0"
    labels: str = "site=paris"


def show(items: Iterator[Thing] | list[Thing], *, as_json: bool = False) -> int:
    def row(thing: Thing) -> tuple[object, ...]:
        return thing.name, len(thing.name), thing.serves, thing.labels

    return stream(Output(as_json=as_json), items, COLUMNS, row, empty="none", optional=("LABELS", "LEFT"))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(tables, "terminal_width", lambda: request.param)


def test_in_a_pipe_every_row_is_one_line_with_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    assert show([Thing(name="a", serves="m@1 " * 100), Thing(name="edge-10")]) == 2
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["DEVICE", "LEFT", "SERVES", "LABELS"]
    assert first.count("m@1") == 100
    assert first.endswith("site=paris")
    assert second.split() == ["edge-10", "7", "lenet@1.0.0", "site=paris"]


@pytest.mark.parametrize("terminal", [24], indirect=True)
def test_a_narrow_terminal_gets_fewer_columns_and_is_told_which(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    show([Thing(name="edge-1")])
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["DEVICE  SERVES", "edge-1  lenet@1.0.0"]
    assert "LABELS, LEFT" in captured.err


@pytest.mark.parametrize("terminal", [30], indirect=True)
def test_the_last_column_that_is_needed_folds_at_words(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    show([Thing(name="edge-1", serves="lenet@1.0.0 iris@2.0.0 resnet@3.0.0")])
    assert capsys.readouterr().out.splitlines() == [
        "DEVICE  SERVES",
        "edge-1  lenet@1.0.0 iris@2.0.0",
        "        resnet@3.0.0",
    ]


def test_rows_are_printed_before_the_last_has_come(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def items() -> Iterator[Thing]:
        for number in range(tables.FIRST + 10):
            if number == tables.FIRST + 1:
                seen.append(len(capsys.readouterr().out.splitlines()))
            yield Thing(name=f"d-{number}")

    assert show(items()) == tables.FIRST + 10
    assert seen == [1 + tables.FIRST + 1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_for_programs_it_is_one_json_array(capsys: pytest.CaptureFixture[str], count: int) -> None:
    assert show([Thing(name=f"d-{number}") for number in range(count)], as_json=True) == count
    found = json.loads(capsys.readouterr().out)
    assert [thing["name"] for thing in found] == [f"d-{number}" for number in range(count)]


def test_an_answer_that_breaks_off_is_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    def items() -> Iterator[Thing]:
        yield Thing(name="d-0")
        raise ValueError("the registry went away")

    with pytest.raises(ValueError, match="went away"):
        show(items(), as_json=True)
    with pytest.raises(json.JSONDecodeError):
        json.loads(capsys.readouterr().out)


def test_an_empty_answer_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert show([]) == 0
    assert capsys.readouterr().out == "none\n"


@pytest.mark.parametrize("terminal", [30], indirect=True)
@pytest.mark.usefixtures("terminal")
def test_a_narrow_column_stays_where_leaving_out_a_wide_one_made_room(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    rows = [("worse", "25 min ago", "every device serves what it served before")]
    out.table(("ROLLOUT", "SINCE", "REASON"), rows, "none", optional=("SINCE", "REASON"))
    heading, first = capsys.readouterr().out.splitlines()[:2]
    assert heading.split() == ["ROLLOUT", "SINCE"]
    assert first == "worse    25 min ago"
