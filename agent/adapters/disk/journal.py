"""What the agent knows across a power cut, every write on disk before the call returns.

It holds the last desired document byte for byte, one record per slot, what was measured of variants, and small facts
(counters, digests), in an `EntryFile`: a corrupted row is restored from its second copy, and a file that cannot be read
is set aside and made again from what was whole in it. What could not be kept comes back, too: the desired state from
the registry, the files from the cache.

INVARIANT: used by the control thread only.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from agent.adapters.disk.damage import Damage
from agent.adapters.disk.rows.entries import FACT, MEASURE, SLOT
from agent.adapters.disk.rows.file import EntryFile
from agent.core.slots import SlotRecord
from agent.worker.measure import Measurement

MAX_MEASURES = 256


class SqliteJournal:
    """The file `journal.db` below the data directory."""

    def __init__(self, folder: Path, damage: Damage | None = None) -> None:
        self._file = EntryFile(folder / "journal.db", "journal", damage or Damage())

    @property
    def put_aside(self) -> Path | None:
        """Where an unreadable journal went, if there was one."""
        return self._file.put_aside

    @property
    def read_only(self) -> str:
        """Why nothing is written down now; empty: it is."""
        return self._file.read_only

    def open(self) -> None:
        """Raises PermanentError for the file of a newer agent, TransientError when its folder is not there."""
        self._file.open()

    def close(self) -> None:
        """Safe to call twice."""
        self._file.close()

    def slots(self) -> dict[str, SlotRecord]:
        """All slots. A record that this version cannot read is left out: the desired state brings it again."""
        records = {entry.key: _record(entry.value) for entry in self._file.entries(SLOT)}
        return {model: record for model, record in records.items() if record is not None}

    def save(self, record: SlotRecord) -> None:
        """On disk when this returns."""
        self._file.put(SLOT, record.model, record.canonical())

    def forget(self, model: str) -> None:
        """The slot is empty and not desired."""
        self._file.remove(SLOT, model)

    def get(self, key: str) -> bytes | None:
        """A small fact."""
        return next((entry.value for entry in self._file.entries(FACT, key)), None)

    def put(self, key: str, value: bytes) -> None:
        """Keeps a small fact."""
        self._file.put(FACT, key, value)

    def next_number(self, key: str) -> int:
        """1, 2, 3, ... across restarts; never the same one twice."""
        number = int(self.get(key) or b"0") + 1
        self.put(key, str(number).encode())
        return number

    def measured(self, variant: str, facts: str) -> Measurement | None:
        """What warming up found of a variant on a host with these facts, when it was measured before."""
        found = next((entry.value for entry in self._file.entries(MEASURE, f"{variant} {facts}")), None)
        try:
            return None if found is None else Measurement(*json.loads(found))
        except (TypeError, ValueError):
            return None  # of an agent that measured something else

    def keep_measure(self, variant: str, facts: str, found: Measurement) -> None:
        """Remembers a measurement; the table is emptied when it has grown to MAX_MEASURES."""
        if len(self._file.entries(MEASURE)) >= MAX_MEASURES:
            self._file.remove(MEASURE)
        self._file.put(MEASURE, f"{variant} {facts}", json.dumps(found).encode())


def _record(data: bytes) -> SlotRecord | None:
    try:
        return SlotRecord.model_validate_json(data)
    except ValidationError:
        return None
