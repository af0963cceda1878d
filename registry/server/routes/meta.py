"""Is it alive, can it work, what does it count."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from registry.server.middleware.auth import Reader, ServicesDep
from registry.server.readiness import WORKS

router = APIRouter(tags=["meta"])


@router.get("/healthz", include_in_schema=False)
async def healthz() -> dict[str, str]:
    """The process answers. Open to everybody: it says nothing else."""
    return {"status": "ok"}


@router.get("/readyz", include_in_schema=False)
async def readyz(services: ServicesDep) -> Response:
    """Whether it can do all of its work now: 503 when the database or the blobs take no writes, and why.

    A broker that is away is said, but stops nobody from using the rest.
    """
    found = await services.readiness.look()
    ready = all(state == WORKS for state in found.values())
    bridge = services.fleet.bridge
    body: dict[str, object] = {
        "status": "ready" if ready else "not ready",
        **found,
        "damaged_blobs": services.checks.known_damaged,
        "mqtt": "off" if bridge is None else bridge.problem or "connected",
    }
    headers = {"Cache-Control": "no-store", **({} if ready else {"Retry-After": "5"})}
    return JSONResponse(body, 200 if ready else 503, headers)


@router.get("/metrics", include_in_schema=False)
def metrics(_who: Reader) -> Response:
    """Prometheus text."""
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
