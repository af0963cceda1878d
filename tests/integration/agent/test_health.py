"""What a health report says of models that came and went, on the real host."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from agent.app.health import FEW_MODELS, HealthReporter, within_limit
from agent.core.health import Histogram
from agent.dataplane.stats import DataPlaneStats, ModelSnapshot
from registry.contracts.device.messages import MAX_CONTROL_BYTES, DurationTotals, Health, ModelHealth


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


def test_a_report_of_very_many_models_leaves_durations_out_before_it_is_too_long() -> None:
    many = DurationTotals(counts=(1_000_000,) * 16, sum_s=123456.789)
    busy = ModelHealth(version="1.0.0", requests=10**7, latency=many, queue_wait=many, run=many, decode=many)
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    base = Health(device="edge-1", session_id="s", seq=1, at=at, window_s=1, uptime_s=1)
    for count in (FEW_MODELS, 256):
        models = {f"model-{number}": busy for number in range(count)}
        whole = base.model_copy(update={"models": models})
        sent = within_limit(whole)
        assert len(sent.canonical()) <= MAX_CONTROL_BYTES
        assert (sent == whole) == (len(whole.canonical()) <= MAX_CONTROL_BYTES)
        assert sent.models.keys() == models.keys()
        assert all(model.requests == busy.requests and model.latency == many for model in sent.models.values())
    assert all(model.latency.counts == () for model in within_limit(whole, 1000).models.values())
