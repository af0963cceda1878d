"""Which page offers which operation of the API, and to whom; docs/console-operations.md is made from it.

A test compares this table with the API's routes and with the console's: a page offers every operation for people. What
only programs and devices use stands in FOR_PROGRAMS, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.contracts.api.answers import Scope


@dataclass(frozen=True)
class Offer:
    """Where a person does the same as an operation of the API."""

    page: str
    """Method and path of the route below the console's address."""
    scope: Scope
    """What the visitor's token must allow."""


R, P, D, A = Scope.READ, Scope.PUBLISH, Scope.DEPLOY, Scope.ADMIN
OFFERED: dict[str, tuple[Offer, ...]] = {
    "GET /v1/devices": (Offer("GET /fleet", R),),
    "GET /v1/fleet": (Offer("GET /fleet", R),),
    "GET /v1/labels": (
        Offer("GET /fleet", R),
        Offer("POST /fleet/label", D),
    ),
    "POST /v1/labels": (Offer("POST /fleet/label", D),),
    "GET /v1/devices/{device}": (Offer("GET /devices/{device}", R),),
    "GET /v1/events": (Offer("GET /events", R), Offer("GET /events/download", R)),
    "GET /v1/groups": (Offer("GET /groups", R),),
    "GET /v1/groups/{group}": (Offer("GET /groups/{group}", R),),
    "PUT /v1/groups/{group}": (Offer("POST /groups", D),),
    "DELETE /v1/groups/{group}": (Offer("POST /groups/{group}/remove", D),),
    "GET /v1/jobs": (Offer("GET /jobs", R),),
    "GET /v1/jobs/{job}": (Offer("GET /jobs/{job}", R),),
    "DELETE /v1/jobs/{job}": (Offer("POST /jobs/{job}/cancel", D),),
    "GET /v1/results": (Offer("GET /results", R),),
    "GET /v1/datasets": (Offer("GET /datasets", R),),
    "GET /v1/datasets/{name}": (Offer("GET /datasets/{name}", R),),
    "DELETE /v1/datasets/{name}": (Offer("POST /datasets/{name}/remove", P),),
    "GET /v1/webhooks": (Offer("GET /settings/webhooks", D),),
    "GET /v1/webhooks/{name}": (Offer("GET /settings/webhooks/{name}", D),),
    "PUT /v1/webhooks/{name}": (Offer("POST /settings/webhooks", D),),
    "DELETE /v1/webhooks/{name}": (Offer("POST /settings/webhooks/{name}/remove", D),),
    "GET /v1/tokens": (Offer("GET /settings/tokens", A),),
    "POST /v1/tokens": (Offer("POST /settings/tokens", A),),
    "DELETE /v1/tokens/{name}": (Offer("POST /settings/tokens/{name}/revoke", A),),
    "GET /v1/diagnosis": (Offer("GET /settings/checks", A),),
    "GET /v1/disk": (Offer("GET /settings/storage", R),),
    "GET /v1/about": (Offer("GET /settings", R),),
    "GET /v1/models": (Offer("GET /models", R),),
    "GET /v1/models/{model}": (Offer("GET /models/{model}", R),),
    "GET /v1/models/{model}/adoption": (Offer("GET /models/{model}", R),),
    "PATCH /v1/models/{model}": (Offer("POST /models/{model}/settings", P),),
    "DELETE /v1/models/{model}": (Offer("POST /models/{model}/delete", P),),
    "GET /v1/models/{model}/aliases": (Offer("GET /models/{model}", R),),
    "GET /v1/models/{model}/aliases/{alias}": (Offer("GET /models/{model}/aliases/{alias}", R),),
    "GET /v1/models/{model}/aliases/{alias}/history": (Offer("GET /models/{model}/aliases/{alias}", R),),
    "PUT /v1/models/{model}/aliases/{alias}": (Offer("POST /models/{model}/aliases", P),),
    "DELETE /v1/models/{model}/aliases/{alias}": (Offer("POST /models/{model}/aliases/{alias}/remove", P),),
    "GET /v1/models/{model}/versions": (Offer("GET /models/{model}", R),),
    "GET /v1/models/{model}/versions/{version}": (Offer("GET /models/{model}/versions/{version}", R),),
    "DELETE /v1/models/{model}/versions/{version}": (Offer("POST /models/{model}/versions/{version}/delete", P),),
    "GET /v1/models/{model}/versions/{version}/coverage": (
        Offer("GET /models/{model}/versions/{version}/coverage", R),
    ),
    "GET /v1/models/{model}/versions/{version}/evaluations": (
        Offer("GET /models/{model}/versions/{version}/evaluations", R),
    ),
    "GET /v1/models/{model}/versions/{version}/parity": (Offer("GET /models/{model}/versions/{version}", R),),
    "PUT /v1/models/{model}/versions/{version}/yank": (Offer("POST /models/{model}/versions/{version}/yank", P),),
    "DELETE /v1/models/{model}/versions/{version}/yank": (Offer("POST /models/{model}/versions/{version}/unyank", P),),
    "GET /v1/manifests/{digest}": (Offer("GET /manifests/{digest}", R),),
    "GET /v1/rollouts": (Offer("GET /rollouts", R),),
    "POST /v1/rollouts": (Offer("POST /rollouts", D),),
    "POST /v1/rollout-plans": (Offer("POST /rollouts/plan", R),),
    "GET /v1/rollouts/{rollout}": (Offer("GET /rollouts/{rollout}", R),),
    "GET /v1/rollouts/{rollout}/plan": (Offer("GET /rollouts/{rollout}/plan", R),),
    "GET /v1/rollouts/{rollout}/devices": (Offer("GET /rollouts/{rollout}/devices", R),),
    "GET /v1/rollouts/{rollout}/devices/{device}": (Offer("GET /rollouts/{rollout}/devices/{device}", R),),
    "GET /v1/rollouts/{rollout}/history": (Offer("GET /rollouts/{rollout}/history", R),),
    "POST /v1/rollouts/{rollout}/commands": (Offer("POST /rollouts/{rollout}/commands", D),),
    "POST /v1/rollouts/{rollout}/approval": (Offer("POST /rollouts/{rollout}/approval", D),),
    "PUT /v1/devices/{device}": (
        Offer("POST /devices/new", D),
        Offer("POST /devices/{device}/labels", D),
    ),
    "DELETE /v1/devices/{device}": (Offer("POST /devices/{device}/delete", D),),
    "POST /v1/devices/{device}/credential": (Offer("POST /devices/{device}/credential", D),),
    "GET /v1/devices/{device}/deployments": (Offer("GET /devices/{device}", R),),
    "PUT /v1/devices/{device}/deployments/{model}": (Offer("POST /fleet/deploy", D),),
    "DELETE /v1/devices/{device}/deployments/{model}": (Offer("POST /devices/{device}/undeploy", D),),
    "GET /v1/devices/{device}/desired": (Offer("GET /devices/{device}/desired", R),),
    "GET /v1/devices/{device}/events": (Offer("GET /devices/{device}", R),),
    "GET /v1/devices/{device}/health": (Offer("GET /devices/{device}/health", R),),
    "GET /v1/devices/{device}/health/hours": (Offer("GET /devices/{device}/health", R),),
    "GET /v1/devices/{device}/resolution": (Offer("GET /devices/{device}/explain", R),),
    "POST /v1/resolve": (Offer("GET /devices/{device}/explain", R),),
    "GET /v1/counts": (Offer("GET /health/counts", R), Offer("GET /devices/{device}/health", R)),
    "GET /v1/health/series": (Offer("GET /health", R),),
    "POST /v1/jobs": (Offer("POST /devices/{device}/jobs/new", D),),
}
"""Operation of the API to pages."""

_DEVICE = "A device's own, with its credential."
_UPLOAD = "A part of publishing, which `registry publish` does from the files: it inspects, runs and hashes them there."
FOR_PROGRAMS: dict[str, str] = {
    "PUT /v1/devices/{device}/facts": _DEVICE,
    "POST /v1/devices/{device}/reports": _DEVICE,
    "PUT /v1/jobs/{job}/variant": _DEVICE,
    "POST /v1/uploads": _UPLOAD,
    "GET /v1/uploads/{upload}": _UPLOAD,
    "PATCH /v1/uploads/{upload}": _UPLOAD,
    "DELETE /v1/uploads/{upload}": _UPLOAD,
    "PUT /v1/models/{model}/versions/{version}": _UPLOAD,
    "PUT /v1/models/{model}/versions/{version}/variants/{variant}": _UPLOAD,
    "PUT /v1/datasets/{name}": _UPLOAD,
    "POST /v1/models/{model}/versions/{version}/evaluations": "Brings a score that a program has measured; "
    "`registry evaluate` does. People ask a device for one by a job.",
    "GET /v1/blobs/{digest}": "Bytes of model files, for devices and `registry pull`; pages name the digests.",
    "HEAD /v1/blobs/{digest}": "Before an upload or a download of a program.",
    "GET /v1/rollout-events": "For programs; pages have a stream of their own.",
    "PUT /v1/rollouts/{rollout}": "Repeatable, for files under version control; pages make a new one, "
    "also like an earlier one.",
    "POST /v1/console-links": "It leads here.",
}
"""Operation to why no page offers it."""

NOT_YET: frozenset[str] = frozenset()
"""Operations whose pages are being made. It only becomes shorter."""
