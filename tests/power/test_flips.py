"""A flipped bit gives no wrong answer and takes nothing good away; see `tests.power.flips`.

120 flips in all; `--flips N` for more. The control without the checks must give out something wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.adapters.disk import checked_files, journal, outbox
from registry.services.catalogue.blob_upkeep import BlobChecks
from tests.power.flips import DETECTED, HARMLESS, HEALED, KINDS, LOST, SILENT, WRONG, flip_all

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_gives_out_nothing_wrong_and_loses_nothing_good(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    count = int(request.config.getoption("--flips")) // len(KINDS)
    found = flip_all(KINDS[name], tmp_path / name, count, seed=count)
    for outcome in (HARMLESS, HEALED, DETECTED, SILENT):
        record_property(outcome, found[outcome])
    print(f"{name}: {dict(found)}")  # noqa: T201 - shown with -s, for the figures
    assert found[WRONG] == found[LOST] == 0, found
    assert found.total() == count
    assert found[SILENT] == 0 or name in ("database", "messages"), "these have no checksums of their own"


@pytest.mark.parametrize("name", ["cache", "journal", "outbox", "blobs"])
def test_without_the_checks_the_same_flips_give_out_something_wrong(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_files, "is_hashed", lambda *_: True)
    monkeypatch.setattr(journal, "row_sum", lambda *_: b"")
    monkeypatch.setattr(outbox, "row_sum", lambda *_: b"")
    monkeypatch.setattr(BlobChecks, "is_whole", lambda *_: True)
    found = flip_all(KINDS[name], tmp_path / name, 60, seed=1)
    assert found[WRONG] + found[LOST] > 0, found
