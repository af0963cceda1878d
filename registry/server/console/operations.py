"""Which page offers which operation of the API, and to whom; docs/console-operations.md is made from it.

A test compares this table with the API's routes and with the console's: a page offers every operation for people. What
only programs and devices use stands in FOR_PROGRAMS, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.contracts.api.answers import Scope


@dataclass(frozen=True)
class PageOffer:
    """Where a person does the same as an operation of the API."""

    page: str
    """Method and path of the route below the console's address."""
    scope: Scope
    """What the visitor must be allowed."""


R, P, D, V, A = Scope.READ, Scope.PUBLISH, Scope.DEPLOY, Scope.APPROVE, Scope.ADMIN
OFFERED: dict[str, tuple[PageOffer, ...]] = {
    "GET /v1/devices": (PageOffer("GET /fleet", R),),
    "GET /v1/fleet": (PageOffer("GET /fleet", R),),
    "GET /v1/labels": (
        PageOffer("GET /fleet", R),
        PageOffer("POST /fleet/label", D),
    ),
    "POST /v1/labels": (PageOffer("POST /fleet/label", D),),
    "GET /v1/devices/{device}": (PageOffer("GET /devices/{device}", R),),
    "GET /v1/events": (PageOffer("GET /events", R), PageOffer("GET /events/download", R)),
    "GET /v1/groups": (PageOffer("GET /groups", R),),
    "GET /v1/groups/{group}": (PageOffer("GET /groups/{group}", R),),
    "PUT /v1/groups/{group}": (PageOffer("POST /groups", D),),
    "DELETE /v1/groups/{group}": (PageOffer("POST /groups/{group}/remove", D),),
    "GET /v1/jobs": (PageOffer("GET /jobs", R),),
    "GET /v1/jobs/{job}": (PageOffer("GET /jobs/{job}", R),),
    "DELETE /v1/jobs/{job}": (PageOffer("POST /jobs/{job}/cancel", D),),
    "GET /v1/results": (PageOffer("GET /results", R),),
    "GET /v1/datasets": (PageOffer("GET /datasets", R),),
    "GET /v1/datasets/{name}": (PageOffer("GET /datasets/{name}", R),),
    "DELETE /v1/datasets/{name}": (PageOffer("POST /datasets/{name}/remove", P),),
    "GET /v1/webhooks": (PageOffer("GET /settings/webhooks", D),),
    "GET /v1/webhooks/{name}": (PageOffer("GET /settings/webhooks/{name}", D),),
    "PUT /v1/webhooks/{name}": (PageOffer("POST /settings/webhooks", D),),
    "DELETE /v1/webhooks/{name}": (PageOffer("POST /settings/webhooks/{name}/remove", D),),
    "GET /v1/approvals": (PageOffer("GET /approvals", R),),
    "POST /v1/approvals/{change}": (PageOffer("POST /approvals/{change}", V),),
    "GET /v1/tokens": (PageOffer("GET /settings/tokens", A),),
    "POST /v1/tokens": (PageOffer("POST /settings/tokens", A),),
    "DELETE /v1/tokens/{name}": (PageOffer("POST /settings/tokens/{name}/revoke", A),),
    "GET /v1/diagnosis": (PageOffer("GET /settings/checks", A),),
    "GET /v1/disk": (PageOffer("GET /settings/storage", R),),
    "GET /v1/trust": (PageOffer("GET /settings/trust", R),),
    "GET /v1/uploads": (PageOffer("GET /settings/storage", R),),
    "DELETE /v1/uploads/{upload}": (PageOffer("POST /settings/storage/uploads/{upload}/cancel", P),),
    "GET /v1/about": (PageOffer("GET /settings", R),),
    "GET /v1/models": (PageOffer("GET /models", R),),
    "GET /v1/models/{model}": (PageOffer("GET /models/{model}", R),),
    "GET /v1/models/{model}/adoption": (PageOffer("GET /models/{model}", R),),
    "PATCH /v1/models/{model}": (PageOffer("POST /models/{model}/settings", P),),
    "DELETE /v1/models/{model}": (PageOffer("POST /models/{model}/delete", P),),
    "GET /v1/models/{model}/aliases": (PageOffer("GET /models/{model}", R),),
    "GET /v1/models/{model}/aliases/{alias}": (PageOffer("GET /models/{model}/aliases/{alias}", R),),
    "GET /v1/models/{model}/aliases/{alias}/history": (PageOffer("GET /models/{model}/aliases/{alias}", R),),
    "PUT /v1/models/{model}/aliases/{alias}": (PageOffer("POST /models/{model}/aliases", P),),
    "DELETE /v1/models/{model}/aliases/{alias}": (PageOffer("POST /models/{model}/aliases/{alias}/remove", P),),
    "GET /v1/models/{model}/versions": (PageOffer("GET /models/{model}", R),),
    "GET /v1/models/{model}/versions/{version}": (PageOffer("GET /models/{model}/versions/{version}", R),),
    "DELETE /v1/models/{model}/versions/{version}": (PageOffer("POST /models/{model}/versions/{version}/delete", P),),
    "GET /v1/models/{model}/versions/{version}/coverage": (
        PageOffer("GET /models/{model}/versions/{version}/coverage", R),
    ),
    "GET /v1/models/{model}/versions/{version}/evaluations": (
        PageOffer("GET /models/{model}/versions/{version}/evaluations", R),
    ),
    "GET /v1/models/{model}/versions/{version}/parity": (PageOffer("GET /models/{model}/versions/{version}", R),),
    "PUT /v1/models/{model}/versions/{version}/yank": (PageOffer("POST /models/{model}/versions/{version}/yank", P),),
    "DELETE /v1/models/{model}/versions/{version}/yank": (
        PageOffer("POST /models/{model}/versions/{version}/unyank", P),
    ),
    "GET /v1/manifests/{digest}": (PageOffer("GET /manifests/{digest}", R),),
    "GET /v1/rollouts": (PageOffer("GET /rollouts", R),),
    "POST /v1/rollouts": (PageOffer("POST /rollouts", D),),
    "POST /v1/rollout-plans": (PageOffer("POST /rollouts/plan", R),),
    "GET /v1/rollouts/{rollout}": (PageOffer("GET /rollouts/{rollout}", R),),
    "GET /v1/rollouts/{rollout}/plan": (PageOffer("GET /rollouts/{rollout}/plan", R),),
    "GET /v1/rollouts/{rollout}/devices": (PageOffer("GET /rollouts/{rollout}/devices", R),),
    "GET /v1/rollouts/{rollout}/devices/{device}": (PageOffer("GET /rollouts/{rollout}/devices/{device}", R),),
    "GET /v1/rollouts/{rollout}/history": (PageOffer("GET /rollouts/{rollout}/history", R),),
    "POST /v1/rollouts/{rollout}/commands": (PageOffer("POST /rollouts/{rollout}/commands", D),),
    "POST /v1/rollouts/{rollout}/approval": (PageOffer("POST /rollouts/{rollout}/approval", V),),
    "PUT /v1/devices/{device}": (
        PageOffer("POST /devices/new", D),
        PageOffer("POST /devices/{device}/labels", D),
    ),
    "DELETE /v1/devices/{device}": (PageOffer("POST /devices/{device}/delete", D),),
    "POST /v1/devices/{device}/credential": (PageOffer("POST /devices/{device}/credential", D),),
    "GET /v1/devices/{device}/deployments": (PageOffer("GET /devices/{device}", R),),
    "PUT /v1/devices/{device}/deployments/{model}": (PageOffer("POST /fleet/deploy", D),),
    "DELETE /v1/devices/{device}/deployments/{model}": (PageOffer("POST /devices/{device}/undeploy", D),),
    "GET /v1/devices/{device}/desired": (PageOffer("GET /devices/{device}/desired", R),),
    "GET /v1/devices/{device}/events": (PageOffer("GET /devices/{device}", R),),
    "GET /v1/devices/{device}/health": (PageOffer("GET /devices/{device}/health", R),),
    "GET /v1/devices/{device}/health/hours": (PageOffer("GET /devices/{device}/health", R),),
    "GET /v1/devices/{device}/resolution": (PageOffer("GET /devices/{device}/explain", R),),
    "POST /v1/resolve": (PageOffer("GET /devices/{device}/explain", R),),
    "GET /v1/counts": (PageOffer("GET /health/counts", R), PageOffer("GET /devices/{device}/health", R)),
    "GET /v1/health/series": (PageOffer("GET /health", R),),
    "POST /v1/jobs": (PageOffer("POST /devices/{device}/jobs/new", D),),
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
    "PUT /v1/models/{model}/versions/{version}": _UPLOAD,
    "PUT /v1/models/{model}/versions/{version}/variants/{variant}": _UPLOAD,
    "PUT /v1/datasets/{name}": _UPLOAD,
    "POST /v1/models/{model}/versions/{version}/evaluations": "Brings a score that a program has measured; "
    "`registry evaluate` does. People ask a device for one by a job.",
    "POST /v1/trust/changes": "May need keys that are not in the registry: `registry trust` signs where they are.",
    "POST /v1/trust/files": "Brings metadata that were signed elsewhere; `registry trust` and `publish` do.",
    "GET /v1/trust/{repository}/{name}": "Signed bytes, for devices and publishers; a page shows who signs them.",
    "GET /v1/blobs/{digest}": "Bytes of model files, for devices and `registry pull`; pages name the digests.",
    "HEAD /v1/blobs/{digest}": "Before an upload or a download of a program.",
    "GET /v1/rollout-events": "For programs; pages have a stream of their own.",
    "PUT /v1/rollouts/{rollout}": "Repeatable, for files under version control; pages make a new one, "
    "also like an earlier one.",
    "POST /v1/console-links": "It leads here.",
}
"""Operation to why no page offers it."""
