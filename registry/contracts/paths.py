"""The paths of the registry's HTTP API, all below `/v1`. Functions quote names and say what a path takes and answers.

Imports none of the bodies' models, so that an agent has it at no cost.
"""

from __future__ import annotations

from urllib.parse import quote

API = "/v1"


def _path(*levels: str) -> str:
    return API + "".join("/" + quote(level, safe=":+") for level in levels)


def models_path() -> str:
    """GET: Page[ModelView]."""
    return _path("models")


def model_path(model: str) -> str:
    """GET: ModelView. PATCH ModelSettings: ModelView. DELETE: all its versions, when none is in use."""
    return _path("models", model)


def versions_path(model: str) -> str:
    """GET: Page[VersionView], newest first."""
    return _path("models", model, "versions")


def version_path(model: str, version: str) -> str:
    """GET (version or alias): VersionView. PUT Manifest: PublishAnswer; 409 with differences. DELETE."""
    return _path("models", model, "versions", version)


def manifest_path(digest: str) -> str:
    """GET: the manifest's canonical bytes; they have this digest."""
    return _path("manifests", digest)


def blob_path(digest: str) -> str:
    """HEAD, GET with Range and If-Range; strong ETag."""
    return _path("blobs", digest)


def uploads_path() -> str:
    """POST UploadRequest: 201 UploadView, or 200 with `complete` when the blob is there."""
    return _path("uploads")


def upload_path(upload: str) -> str:
    """GET: UploadView. PATCH bytes with Upload-Offset: UploadView; 409 offset_mismatch says the right one. DELETE."""
    return _path("uploads", upload)


def aliases_path(model: str) -> str:
    """GET: Page[AliasView]."""
    return _path("models", model, "aliases")


def alias_path(model: str, alias: str) -> str:
    """GET: AliasView with ETag. PUT AliasMove. DELETE with If-Match."""
    return _path("models", model, "aliases", alias)


def alias_history_path(model: str, alias: str) -> str:
    """GET: Page[AliasView], newest first."""
    return _path("models", model, "aliases", alias, "history")


def devices_path() -> str:
    """GET: Page[DeviceView]."""
    return _path("devices")


def device_path(device: str) -> str:
    """GET: DeviceView. PUT DeviceCreate: 201 DeviceCreated, 200 DeviceView. DELETE."""
    return _path("devices", device)


def device_credential_path(device: str) -> str:
    """POST: DeviceCreated, a new credential in place of the old."""
    return _path("devices", device, "credential")


def facts_path(device: str) -> str:
    """PUT Platform, by the device itself."""
    return _path("devices", device, "facts")


def desired_path(device: str) -> str:
    """GET: the Desired document with its ETag; 304 for If-None-Match."""
    return _path("devices", device, "desired")


def reports_path(device: str) -> str:
    """POST DeviceReports, by the device itself: 204."""
    return _path("devices", device, "reports")


def jobs_path() -> str:
    """GET `?device=&model=&over=`: Page[JobView], newest first. POST JobRequest: 201 JobView."""
    return _path("jobs")


def job_path(job: str) -> str:
    """GET: JobView. DELETE: JobView, cancelled unless it was over."""
    return _path("jobs", job)


def job_variant_path(job: str) -> str:
    """PUT VariantOffer by the job's device: VariantAnswer."""
    return _path("jobs", job, "variant")


def variant_path(model: str, version: str, variant: str) -> str:
    """PUT VariantOffer: VariantAnswer. Adds a converted variant to a published version."""
    return _path("models", model, "versions", version, "variants", variant)


def parity_path(model: str, version: str) -> str:
    """GET: Page[ParityView], whole: by the publisher, and by the devices that report this version."""
    return _path("models", model, "versions", version, "parity")


def evaluations_path(model: str, version: str) -> str:
    """GET: Page[EvaluationView], newest first. POST EvaluationCreate: 201 EvaluationView."""
    return _path("models", model, "versions", version, "evaluations")


def datasets_path() -> str:
    """GET: Page[DatasetView], by name."""
    return _path("datasets")


def dataset_path(name: str) -> str:
    """GET: DatasetView. PUT DatasetCreate: 201 DatasetView, 200 when it is there; 409 with another blob. DELETE."""
    return _path("datasets", name)


def coverage_path(model: str, version: str) -> str:
    """GET `?selector=`: CoverageView."""
    return _path("models", model, "versions", version, "coverage")


def resolve_path() -> str:
    """POST ResolveBody: ResolutionView. Nothing is kept."""
    return _path("resolve")


def deployment_path(device: str, model: str) -> str:
    """PUT Deployment: DeploymentView. DELETE: the device should no longer serve the model."""
    return _path("devices", device, "deployments", model)


def device_health_path(device: str) -> str:
    """GET: Page[Health], newest first."""
    return _path("devices", device, "health")


def device_events_path(device: str) -> str:
    """GET: Page[Event], newest first."""
    return _path("devices", device, "events")


def counts_path() -> str:
    """GET `?device=&model=`: Page[CountView]."""
    return _path("counts")


def results_path() -> str:
    """GET `?device=&model=`: Page[ResultView], newest first."""
    return _path("results")


def tokens_path() -> str:
    """GET: Page[TokenView]. POST TokenCreate: 201 TokenCreated."""
    return _path("tokens")


def token_path(name: str) -> str:
    """DELETE: the token works no more."""
    return _path("tokens", name)


def rollouts_path() -> str:
    """GET `?model=&state=`: Page[RolloutView], newest first. POST RolloutSpec: 201 RolloutView, a draft."""
    return _path("rollouts")


def rollout_path(rollout: str) -> str:
    """GET (id or name): RolloutView with its revision as ETag. PUT RolloutSpec by name: idempotent apply."""
    return _path("rollouts", rollout)


def rollout_plan_path(rollout: str) -> str:
    """GET: PlanView; of a draft it is computed now, later the frozen one."""
    return _path("rollouts", rollout, "plan")


def plans_path() -> str:
    """POST RolloutSpec: PlanView. Nothing is kept."""
    return _path("rollout-plans")


def rollout_commands_path(rollout: str) -> str:
    """POST CommandBody with Idempotency-Key: RolloutView; 409 with the legal commands, 412 for another revision."""
    return _path("rollouts", rollout, "commands")


def rollout_approval_path(rollout: str) -> str:
    """POST Approval with Idempotency-Key: RolloutView; 412 when the plan is another one."""
    return _path("rollouts", rollout, "approval")


def rollout_devices_path(rollout: str) -> str:
    """GET `?state=&wave=`: Page[ActionView], without history."""
    return _path("rollouts", rollout, "devices")


def rollout_device_path(rollout: str, device: str) -> str:
    """GET: ActionView with its history and why it waits."""
    return _path("rollouts", rollout, "devices", device)


def rollout_history_path(rollout: str) -> str:
    """GET: Page[HistoryEntry], newest first."""
    return _path("rollouts", rollout, "history")


def groups_path() -> str:
    """GET: Page[GroupView]."""
    return _path("groups")


def group_path(group: str) -> str:
    """GET: GroupView. PUT GroupBody: GroupView. DELETE, when no rollout that is not over names it."""
    return _path("groups", group)


def webhooks_path() -> str:
    """GET: Page[WebhookView]."""
    return _path("webhooks")


def webhook_path(name: str) -> str:
    """PUT WebhookCreate: 201 WebhookCreated with its secret, once. GET: WebhookView. DELETE."""
    return _path("webhooks", name)
