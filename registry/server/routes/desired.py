"""The desired document over HTTP: what the whole fleet polls, so a plain Starlette endpoint that answers from memory.

FastAPI's own work per request (dependencies, response model) would cost two thirds of the rate.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from registry.contracts.api.answers import Scope
from registry.contracts.device.messages import Desired
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.errors import InvalidError
from registry.server.middleware.auth import caller, caller_of, services_of
from registry.server.middleware.etags import none_match, quoted

PATH = "/devices/{device}/desired"
_NAME: TypeAdapter[str] = TypeAdapter(Name)


async def get_desired(request: Request) -> Response:
    """The canonical bytes of the document with their digest as ETag; 304 when the client has them."""
    services = services_of(request)
    device = _device(request.path_params["device"])
    who = await caller_of(request)
    who.require_device_or(Scope.READ, device)
    if who.device == device:
        services.fleet.presence.polled(device, services.clock())
    documents = services.fleet.documents
    document = documents.remembered(device)
    if document is None:
        document = await run_in_threadpool(documents.load, device)
    headers = {"ETag": quoted(document.digest), "Cache-Control": "no-cache"}
    if none_match(request, document.digest):
        return Response(status_code=304, headers=headers)
    return Response(document.body, media_type="application/json", headers=headers)


def _device(name: str) -> str:
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        raise InvalidError(f"Not the name of a device: {name[:100]!r}.") from error


router = APIRouter(prefix=API, tags=["desired"])
router.add_route(PATH, get_desired, methods=["GET", "HEAD"])  # answers
router.get(  # documents: the route above is first, so this one never answers
    PATH,
    response_model=Desired,
    responses={304: {"description": "The client has it: its If-None-Match named the ETag."}},
    dependencies=[Depends(caller)],
    openapi_extra={"parameters": [{"name": "device", "in": "path", "required": True, "schema": {"type": "string"}}]},
)(get_desired)
