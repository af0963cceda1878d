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
        model="lenet", version="1", requests=requests, errors={}, expired=0, duplicates=0, not_finite=0,
        latency=empty, run=empty, batches={}, queue_depth=0, queue_limit=0,
    )  # fmt: skip


def stats(models: dict[str, ModelSnapshot], withdrawn: dict[str, ModelSnapshot]) -> DataPlaneStats:
    return DataPlaneStats(
        connected=True, data_path="fast", data_path_reason="", connections=1, disconnects={}, replies_dropped=0,
        replies_refused=0, outbox_rows=0, outbox_bytes=0, outbox_dropped=0, unacknowledged=0,
        models=models, withdrawn=withdrawn,
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
