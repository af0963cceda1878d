"""Is it alive, can it work, what does it count."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text

from registry.server.auth import Reader, ServicesDep

router = APIRouter(tags=["meta"])


@router.get("/healthz", include_in_schema=False)
async def healthz() -> dict[str, str]:
    """The process answers. Open to everybody: it says nothing else."""
    return {"status": "ok"}


@router.get("/readyz", include_in_schema=False)
def readyz(services: ServicesDep) -> dict[str, str]:
    """The database answers too. A broker that is away is said, but stops nobody from using the rest."""
    with services.database.read() as session:
        session.execute(text("SELECT 1"))
    bridge = services.fleet.bridge
    return {"status": "ready", "mqtt": "off" if bridge is None else bridge.problem or "connected"}


@router.get("/metrics", include_in_schema=False)
def metrics(_who: Reader) -> Response:
    """Prometheus text."""
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
