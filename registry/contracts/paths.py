"""The paths of the registry's HTTP API, all below `/v1`. Functions quote names and say what a path takes and answers.

Imports none of the bodies' models, so that an agent has it at no cost.
"""

from __future__ import annotations

import re
from urllib.parse import quote

API = "/v1"


class _Path:
    """A path's template; called with the names that stand in it, in their order, the path with these names quoted."""

    def __init__(self, template: str) -> None:
        self.template = API + template
        self._texts = re.split(r"\{\w+\}", self.template)

    def __call__(self, *names: str) -> str:
        """Raises ValueError: not as many names as the template has."""
        quoted = (*(quote(name, safe=":+") for name in names), "")
        return "".join(text + name for text, name in zip(self._texts, quoted, strict=True))


models_path = _Path("/models")
"""GET: Page[ModelView]."""
model_path = _Path("/models/{model}")
"""GET: ModelView. PATCH ModelSettings: ModelView. DELETE: all its versions, when none is in use."""
versions_path = _Path("/models/{model}/versions")
"""GET: Page[VersionView], newest first."""
version_path = _Path("/models/{model}/versions/{version}")
"""GET (version or alias): VersionView. PUT Manifest: PublishAnswer; 409 with differences. DELETE."""
yank_path = _Path("/models/{model}/versions/{version}/yank")
"""PUT YankBody, DELETE: YankAnswer. The exact version; an alias is refused."""
manifest_path = _Path("/manifests/{digest}")
"""GET: the manifest's canonical bytes; they have this digest."""
blob_path = _Path("/blobs/{digest}")
"""HEAD, GET with Range and If-Range; strong ETag."""
uploads_path = _Path("/uploads")
"""GET: Page[OpenUpload], one's own, an administrator's all. POST UploadRequest: 201 UploadView, or 200 with `complete`
when the blob is there."""
upload_path = _Path("/uploads/{upload}")
"""GET: UploadView. PATCH bytes with Upload-Offset: UploadView; 409 offset_mismatch says the right one. DELETE, by its
owner or an administrator."""
aliases_path = _Path("/models/{model}/aliases")
"""GET: Page[AliasView]."""
alias_path = _Path("/models/{model}/aliases/{alias}")
"""GET: AliasView with ETag. PUT AliasMove. DELETE with If-Match."""
alias_history_path = _Path("/models/{model}/aliases/{alias}/history")
"""GET: Page[AliasView], newest first."""
devices_path = _Path("/devices")
"""GET, with a `DeviceQuery`: Page[DeviceView]; a page may be short or empty and have a next one."""
fleet_path = _Path("/fleet")
"""GET: FleetSummary."""
health_series_path = _Path("/health/series")
"""GET `?span=&model=`: HealthSeries."""
device_path = _Path("/devices/{device}")
"""GET: DeviceView. PUT DeviceCreate: 201 DeviceCreated, 200 DeviceView. DELETE."""
device_credential_path = _Path("/devices/{device}/credential")
"""POST: DeviceCreated, a new credential in place of the old."""
labels_path = _Path("/labels")
"""GET: LabelsView. POST LabelsBody: LabelsAnswer."""
facts_path = _Path("/devices/{device}/facts")
"""PUT Platform, by the device itself."""
desired_path = _Path("/devices/{device}/desired")
"""GET: the Desired document with its ETag; 304 for If-None-Match."""
reports_path = _Path("/devices/{device}/reports")
"""POST DeviceReports, by the device itself: 204."""
jobs_path = _Path("/jobs")
"""GET `?device=&model=&over=`: Page[JobView], newest first. POST JobRequest: 201 JobView."""
job_path = _Path("/jobs/{job}")
"""GET: JobView. DELETE: JobView, cancelled unless it was over."""
job_variant_path = _Path("/jobs/{job}/variant")
"""PUT VariantOffer by the job's device: VariantAnswer."""
variant_path = _Path("/models/{model}/versions/{version}/variants/{variant}")
"""PUT VariantOffer: VariantAnswer. Adds a converted variant to a published version."""
parity_path = _Path("/models/{model}/versions/{version}/parity")
"""GET: Page[ParityView], whole: by the publisher, and by the devices that report this version."""
evaluations_path = _Path("/models/{model}/versions/{version}/evaluations")
"""GET: Page[EvaluationView], newest first. POST EvaluationCreate: 201 EvaluationView."""
datasets_path = _Path("/datasets")
"""GET: Page[DatasetView], by name."""
dataset_path = _Path("/datasets/{name}")
"""GET: DatasetView. PUT DatasetCreate: 201 DatasetView, 200 when it is there; 409 with another blob. DELETE."""
coverage_path = _Path("/models/{model}/versions/{version}/coverage")
"""GET `?selector=`: CoverageView."""
resolve_path = _Path("/resolve")
"""POST ResolveBody: ResolutionView. Nothing is kept."""
deployment_path = _Path("/devices/{device}/deployments/{model}")
"""PUT Deployment: DeploymentView. DELETE: the device should no longer serve the model."""
device_health_path = _Path("/devices/{device}/health")
"""GET: Page[Health], newest first."""
device_events_path = _Path("/devices/{device}/events")
"""GET: Page[Event], newest first."""
counts_path = _Path("/counts")
"""GET `?device=&model=`: Page[CountView]."""
events_path = _Path("/events")
"""GET, with an `EventQuery`: Page[FleetEvent], newest first; a page may be short or empty and have a next one."""
results_path = _Path("/results")
"""GET `?device=&model=`: Page[ResultView], newest first."""
about_path = _Path("/about")
"""GET: AboutView."""
disk_path = _Path("/disk")
"""GET: DiskView."""
diagnosis_path = _Path("/diagnosis")
"""GET: DiagnosisView. Every check is made for the answer."""
tokens_path = _Path("/tokens")
"""GET: Page[TokenView]. POST TokenCreate: 201 TokenCreated."""
token_path = _Path("/tokens/{name}")
"""DELETE: the token works no more."""
rollouts_path = _Path("/rollouts")
"""GET `?model=&state=`: Page[RolloutView], newest first. POST RolloutSpec: 201 RolloutView, a draft."""
rollout_path = _Path("/rollouts/{rollout}")
"""GET (id or name): RolloutView with its revision as ETag. PUT RolloutSpec by name: idempotent apply."""
rollout_plan_path = _Path("/rollouts/{rollout}/plan")
"""GET: PlanView; of a draft it is computed now, later the frozen one."""
plans_path = _Path("/rollout-plans")
"""POST RolloutSpec: PlanView. Nothing is kept."""
rollout_commands_path = _Path("/rollouts/{rollout}/commands")
"""POST CommandBody with Idempotency-Key: RolloutView; 409 with the legal commands, 412 for another revision."""
rollout_approval_path = _Path("/rollouts/{rollout}/approval")
"""POST Approval with Idempotency-Key: RolloutView; 412 when the plan is another one."""
rollout_devices_path = _Path("/rollouts/{rollout}/devices")
"""GET `?state=&wave=&back=&trouble=`: Page[ActionView], without history."""
rollout_device_path = _Path("/rollouts/{rollout}/devices/{device}")
"""GET: ActionView with its history and why it waits."""
rollout_history_path = _Path("/rollouts/{rollout}/history")
"""GET: Page[HistoryEntry], newest first."""
groups_path = _Path("/groups")
"""GET: Page[GroupView]."""
group_path = _Path("/groups/{group}")
"""GET: GroupView. PUT GroupBody: GroupView. DELETE, when no rollout that is not over names it."""
webhooks_path = _Path("/webhooks")
"""GET: Page[WebhookView]."""
webhook_path = _Path("/webhooks/{name}")
"""PUT WebhookCreate: 201 WebhookCreated with its secret, once. GET: WebhookView. DELETE."""
approvals_path = _Path("/approvals")
"""GET `?state=`: Page[ChangeView], newest first."""
approval_path = _Path("/approvals/{change}")
"""POST ChangeDecision: ChangeView. 403: it has to be another person, 409: it does not wait any more."""
console_links_path = _Path("/console-links")
"""POST: 201 ConsoleLink, which signs in at the console once, as the token that asks."""
trust_path = _Path("/trust")
"""GET: TrustView."""
trust_file_path = _Path("/trust/{repository}/{name}")
"""GET: metadata of the image repository or the director, `timestamp.json` or `NUMBER.ROLE.json`; the signed bytes."""
trust_changes_path = _Path("/trust/changes")
"""POST TrustChange: TrustChanged."""
trust_files_path = _Path("/trust/files")
"""POST SignedFiles: TrustChanged; 409 when another version came first."""
CONSOLE = "/console"
"""Where the registry's pages for people begin."""
CONSOLE_SIGN_IN = CONSOLE + "/sign-in"
