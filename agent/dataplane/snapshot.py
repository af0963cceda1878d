"""Freezes what the data path counts. Called on the data thread, so that the numbers belong together."""

from __future__ import annotations

from agent.dataplane.mqtt.connection import Connection
from agent.dataplane.mqtt.outbound import Outbound
from agent.dataplane.mqtt.spooling import Spooling
from agent.dataplane.router import Router
from agent.dataplane.slot import ModelSlot
from agent.dataplane.stats import DataPlaneStats, ModelSnapshot, ModelStats


def take_snapshot(
    connection: Connection, outbound: Outbound, spooling: Spooling, router: Router, not_fast: str
) -> DataPlaneStats:
    """`not_fast`: why the fast path is not used; empty when it is."""
    outbox = spooling.outbox
    return DataPlaneStats(
        connected=connection.open,
        data_path="public" if not_fast else "fast",
        data_path_reason=not_fast,
        connections=connection.connections,
        disconnects=dict(connection.disconnects),
        replies_dropped=outbound.dropped,
        replies_refused=outbound.refused,
        subscriptions_refused=connection.subscriptions_refused,
        outbox_rows=outbox.rows,
        outbox_bytes=outbox.bytes,
        outbox_dropped=outbox.dropped + spooling.lost,
        results_unwritten=spooling.unwritten(),
        unacknowledged=len(outbound.unacknowledged) + outbound.waiting(),
        other_errors=router.oddities(),
        models={name: _model(slot) for name, slot in router.slots.items()},
        withdrawn={name: _totals(name, stats, stats.version) for name, stats in router.counted.items()},
    )


def _model(slot: ModelSlot) -> ModelSnapshot:
    active = slot.active
    return _totals(
        slot.model,
        slot.stats,
        active.binding.version if active is not None else None,
        rollout=active.binding.rollout if active is not None else None,
        queue_depth=sum(serving.in_flight() for serving in slot.servings()),
        queue_limit=active.layout.ids if active is not None else 0,
        batching=active.worker.batching if active is not None else "",
    )


def _totals(
    model: str,
    stats: ModelStats,
    version: str | None,
    *,
    rollout: str | None = None,
    queue_depth: int = 0,
    queue_limit: int = 0,
    batching: str = "",
) -> ModelSnapshot:
    return ModelSnapshot(
        model=model,
        version=version,
        rollout=rollout,
        requests=stats.requests,
        errors=dict(stats.errors),
        expired=stats.expired,
        duplicates=stats.duplicates,
        not_finite=stats.not_finite,
        latency=stats.latency.view(),
        run=stats.run.view(),
        batches=dict(stats.batches),
        queue_depth=queue_depth,
        queue_limit=queue_limit,
        batching=batching,
    )
