"""Tables that go into a pipe lose nothing: every row is one line, every cell is whole."""

from __future__ import annotations

import pytest

from registry.cli.output import Output


@pytest.mark.parametrize("wide", [10, 300, 3000])
def test_a_row_in_a_pipe_is_one_line_with_every_cell(capsys: pytest.CaptureFixture[str], wide: int) -> None:
    serves = ", ".join(f"model-{number}@1.0.0" for number in range(wide // 10))
    rows = [("edge-1", "online", serves, "site=paris"), ("edge-2", "offline", "-", "x" * wide)]
    Output().table(("DEVICE", "STATE", "SERVES", "LABELS"), rows, empty="none")
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["DEVICE", "STATE", "SERVES", "LABELS"]
    assert first.startswith("edge-1 ")
    assert serves in first
    assert first.rstrip().endswith("site=paris")
    assert second.split() == ["edge-2", "offline", "-", "x" * wide]
