"""A fleet in the database, in bulk: devices of 50 classes that serve version 1, each with a credential and labels.

One in twenty is offline. The label `part` cuts the fleet into parts, so that each measurement of a rollout has devices
that no other one has touched.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import insert, inspect

from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.device.messages import Desired, DesiredModel, Reported, ReportedModel, ServingState
from registry.contracts.fit.platforms import BackendFacts, CudaFacts, Platform
from registry.contracts.wire import digest_of
from registry.db.catalog_rows import TokenRow
from registry.db.engine import Database
from registry.db.fleet_rows import DeploymentRow, DesiredRow, DeviceLabelRow, DeviceRow, DeviceStateRow, RevisionRow
from registry.services.tokens import device_token_name, hash_token

CLASSES = 50
CHUNK = 5000
PARTS = ("offers", "offers", "bridge", "bridge", "rest")
"""Of each five times CLASSES devices."""
FIRST = "1"


def device_name(number: int) -> str:
    """The device of that number, from 0."""
    return f"dev-{number:06d}"


def device_token(number: int) -> str:
    """Its credential: as long as a real one."""
    return f"mf_{number:043d}"


def platform(number: int, *, gpu: bool | None = None) -> Platform:
    """The facts of one of the CLASSES kinds of host; every second one has a GPU, unless `gpu` says otherwise."""
    kind = number % CLASSES
    has_gpu = kind % 2 == 1 if gpu is None else gpu
    targets = (Target.CPU, Target.GPU) if has_gpu else (Target.CPU,)
    backend = BackendFacts(
        name="onnxruntime", usable=True, version="1.20.1", formats=(Format.ONNX,), targets=targets,
        providers=("CPUExecutionProvider",), max_onnx_ir=10, max_onnx_opset=21,
    )  # fmt: skip
    return Platform(
        os="linux", arch="x86_64" if kind % 4 < 2 else "aarch64", cpu_count=2 + kind % 7, memory_bytes=(1 + kind) << 30,
        cuda=CudaFacts(name="simulated", gpus=1, memory_bytes=8 << 30) if has_gpu else None, backends=(backend,),
        agent_version="simulated",
    )  # fmt: skip


def variants(content: bytes) -> list[dict[str, Any]]:
    """Of a version whose two variants share one file."""
    file = {"path": "model.onnx", "digest": digest_of(content), "size": len(content)}
    base = {"entry": "model.onnx", "files": [file], "format": "onnx"}
    return [{**base, "name": "cpu", "target": "cpu"}, {**base, "name": "gpu", "target": "gpu"}]


def seed(database: Database, devices: int, manifests: dict[str, str]) -> None:
    """Write the fleet; documents count as published, since no broker had to see them."""
    now = datetime.fromtimestamp(time.time(), timezone.utc)
    kinds = [platform(number) for number in range(CLASSES)]
    facts = [(kind.canonical().decode(), kind.facts_digest()) for kind in kinds]
    for start in range(0, devices, CHUNK):
        numbers = range(start, min(start + CHUNK, devices))
        with database.write() as session:
            for table, rows in (
                (DeviceRow, [_device(n, *facts[n % CLASSES], now) for n in numbers]),
                (TokenRow, [_token(n, now) for n in numbers]),
                (DeviceLabelRow, [row for n in numbers for row in _labels(n)]),
                (DeviceStateRow, [_state(n, manifests[FIRST], facts[n % CLASSES][1], now) for n in numbers]),
                (DeploymentRow, [_deployment(n, manifests[FIRST], now) for n in numbers]),
                (DesiredRow, [_desired(n, manifests[FIRST], now) for n in numbers]),
            ):
                session.execute(insert(inspect(table).local_table), rows)
            row = session.get(RevisionRow, 1)
            if row is None:
                session.add(RevisionRow(id=1, value=1))
            else:
                row.value += 1
    _analyze(database)


def _analyze(database: Database) -> None:
    """As PostgreSQL's autovacuum does after a minute, and SQLite does not."""
    if not database.is_sqlite:
        with database.write() as session:
            session.connection().exec_driver_sql("ANALYZE")


def _wanted(number: int, manifest: str) -> DesiredModel:
    return DesiredModel(version=FIRST, manifest=manifest, variant="gpu" if number % CLASSES % 2 else "cpu")


def _device(number: int, facts: str, digest: str, now: datetime) -> dict[str, Any]:
    return {"id": number + 1, "name": device_name(number), "created_at": now, "facts": facts, "facts_digest": digest,
            "facts_at": now}  # fmt: skip


def _token(number: int, now: datetime) -> dict[str, Any]:
    device = device_name(number)
    return {"name": device_token_name(device), "scope": "device", "device": device,
            "secret_hash": hash_token(device_token(number)), "created_at": now}  # fmt: skip


def _labels(number: int) -> Iterable[dict[str, Any]]:
    labels = {"site": f"site-{number % 20}", "ring": "canary" if number % 100 == 0 else "all",
              "part": PARTS[number // CLASSES % len(PARTS)]}  # fmt: skip
    return [{"device_id": number + 1, "key": key, "value": value} for key, value in labels.items()]


def _state(number: int, manifest: str, facts: str, now: datetime) -> dict[str, Any]:
    wanted = _wanted(number, manifest)
    serving = ReportedModel(
        state=ServingState.SERVING, version=FIRST, manifest=manifest, variant=wanted.variant, desired_version=FIRST
    )
    reported = Reported(device=device_name(number), session_id="seed", generation=1, at=now, facts_digest=facts,
                        models={"bench": serving})  # fmt: skip
    return {"device_id": number + 1, "online": number % 20 != 7, "last_seen": now, "session_id": "seed",
            "reported": reported.canonical().decode(), "reported_session": "seed", "reported_at": now}  # fmt: skip


def _deployment(number: int, manifest: str, now: datetime) -> dict[str, Any]:
    wanted = _wanted(number, manifest)
    return {"device_id": number + 1, "model": "bench", "version": FIRST, "manifest": manifest, "generation": 1,
            "variant": wanted.variant, "profile": wanted.profile.value, "set_at": now, "set_by": "seed",
            "pinned": False, "record_results": False, "rollout": None, "attempt": 0, "policy": "",
            "note": ""}  # fmt: skip


def _desired(number: int, manifest: str, now: datetime) -> dict[str, Any]:
    models = {"bench": _wanted(number, manifest)}
    document = Desired(device=device_name(number), generation=1, issued_at=now, models=models).canonical()
    return {"device_id": number + 1, "generation": 1, "document": document, "digest": digest_of(document),
            "revision": 1, "published": True}  # fmt: skip


def numbers(count: int, devices: int) -> Sequence[int]:
    """`count` devices, spread over the fleet."""
    return range(0, devices, max(1, devices // count))[:count]
