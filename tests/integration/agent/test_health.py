"""What a health report says of models that came and went, on the real host."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from agent.app.health import HealthReporter
from agent.core.health import Histogram
from agent.dataplane.stats import DataPlaneStats, ModelSnapshot


def model(requests: int) -> ModelSnapshot:
    empty = Histogram().view()
    return ModelSnapshot(
        version="1", requests=requests, errors={}, expired=0, duplicates=0, not_finite=0,
        latency=empty, run=empty, batches={}, queue_depth=0, queue_limit=0,
    )  # fmt: skip


def stats(models: dict[str, ModelSnapshot], withdrawn: dict[str, ModelSnapshot]) -> DataPlaneStats:
    return DataPlaneStats(
        connected=True, data_path="fast", models=models, withdrawn=withdrawn,
        figures={
            "mqtt_disconnects": {("Keep alive timeout",): 2}, "control_messages_dropped": {(): 1},
            "repeats_joined": {(): 0}, "outbox_dropped": {(): 4},
        },
    )  # fmt: skip


def test_a_withdrawn_models_last_requests_are_told_once(tmp_path: Path) -> None:
    turns = iter(
        [
            stats({"lenet": model(2)}, {}),
            stats({}, {"lenet": model(5)}),
            stats({}, {"lenet": model(5)}),
        ]
    )
    report = HealthReporter(
        device="edge-1", session_id="s", cores=1, data_dir=tmp_path,
        snapshot=lambda: next(turns), now=lambda: datetime(2026, 1, 1, tzinfo=timezone.utc),
    )  # fmt: skip
    told = [{name: (m.requests, m.version) for name, m in report({}).models.items()} for _ in range(3)]
    assert told == [{"lenet": (2, "1")}, {"lenet": (5, "1")}, {}]


def test_what_is_counted_and_has_no_field_of_its_own_is_told_by_its_name(tmp_path: Path) -> None:
    report = HealthReporter(
        device="edge-1", session_id="s", cores=1, data_dir=tmp_path,
        snapshot=lambda: stats({}, {}), now=lambda: datetime(2026, 1, 1, tzinfo=timezone.utc),
    )  # fmt: skip
    told = report({})
    assert told.counts == {"mqtt_disconnects:Keep alive timeout": 2, "control_messages_dropped": 1}
    assert told.outbox_dropped == 4
