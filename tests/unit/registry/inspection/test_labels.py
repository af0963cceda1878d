"""A labels file says class n on line n, and nothing about it is tidied."""

from __future__ import annotations

import pytest

from registry.inspection.labels import split_labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat\n\ndog\nfish\n", ("cat", "", "dog", "fish")),
        ("cat\n\ndog\nfish", ("cat", "", "dog", "fish")),
        ("cat\r\n\r\ndog\r\n", ("cat", "", "dog")),
        ("cat\rdog\r", ("cat", "dog")),
        ("\ncat\n", ("", "cat")),
        ("cat\n\n", ("cat", "")),
        ("\n", ("",)),
        (" cat \n\tdog\n", (" cat ", "\tdog")),
        ("a\u2028b\nc\u0085d\ne\u2029f\ng\x0bh\x0ci\n", ("a\u2028b", "c\u0085d", "e\u2029f", "g\x0bh\x0ci")),
        ("crane\ncrane\n", ("crane", "crane")),
        ("cat\r\ndog\n", ("cat", "dog")),
    ],
)
def test_every_line_is_a_class(text: str, labels: tuple[str, ...]) -> None:
    assert split_labels(text) == labels


@pytest.mark.parametrize("text", ["", "a\rb\nc\n", "a\0b\n"])
def test_what_could_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="label"):
        split_labels(text)
