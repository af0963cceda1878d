"""For each alert what makes it fire and what is well, as series of promtool's tests with a sample a minute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`fires` makes the alert fire at `at`; with `well` it is silent then."""

    fires: dict[str, str]
    well: dict[str, str]
    at: str = "40m"


def steady(series: str, bad: str, good: str = "0", at: str = "40m") -> Case:
    """One gauge that stays where it is."""
    return Case({series: f"{bad}x120"}, {series: f"{good}x120"}, at)


def rising(series: str, step: str, good: str = "0+0", at: str = "40m") -> Case:
    """One counter that rises by a step a minute, or not at all."""
    return Case({series: f"0+{step}x120"}, {series: f"{good}x120"}, at)


_QUEUE = 'modelfleet_queue_oldest_seconds{{queue="{}"}}'
_EXPIRY = 'modelfleet_certificate_expiry_timestamp_seconds{certificate="broker",instance="r"}'
_HTTP = 'modelfleet_http_requests_total{{instance="r",status="{}"}}'
_SERVED = 'model="m",version="1",target="cpu"'
_BUCKET = f'modelfleet_fleet_latency_seconds_bucket{{{_SERVED},le="%s"}}'
_SLOW = {_BUCKET % "0.02": "0+100x60 6000+0x60", _BUCKET % "0.2": "0+100x120", _BUCKET % "+Inf": "0+100x120"}
_FAST = {_BUCKET % "0.02": "0+100x120", _BUCKET % "0.2": "0+100x120", _BUCKET % "+Inf": "0+100x120"}
_ONLINE, _OFFLINE = (
    f'modelfleet_devices{{instance="r",job="j",presence="{state}"}}' for state in ("online", "offline")
)
_HEALTH = 'modelfleet_device_messages_total{instance="r",job="j",kind="health",way="mqtt"}'

CASES: dict[str, Case] = {
    "ModelfleetRegistryDown": steady('up{job="modelfleet-registry",instance="r"}', "0", "1"),
    "ModelfleetRegistryWithoutBroker": steady("modelfleet_registry_mqtt_connected", "0", "1"),
    "ModelfleetReportsWait": steady(_QUEUE.format("messages"), "61", "59"),
    "ModelfleetMessagesDropped": rising('modelfleet_registry_mqtt_messages_total{outcome="poison"}', "1"),
    "ModelfleetDatabaseRefuses": rising('modelfleet_database_refusals_total{code="busy"}', "1"),
    "ModelfleetJobsFail": rising('modelfleet_jobs_failed_total{exported_job="rollouts",job="j"}', "1"),
    "ModelfleetRegistryErrors": Case(
        {_HTTP.format("503"): "0+6x120", _HTTP.format("200"): "0+94x120"},
        {_HTTP.format("503"): "0+4x120", _HTTP.format("200"): "0+96x120"},
    ),
    "ModelfleetBlobsDamaged": steady("modelfleet_blobs_damaged", "1"),
    "ModelfleetDiskFills": steady("modelfleet_blob_disk_free_bytes", "4e9", "6e9"),
    "ModelfleetDocumentsNotPublished": steady('modelfleet_queue_length{queue="documents"}', "3"),
    "ModelfleetWebhooksBehind": steady(_QUEUE.format("webhooks"), "901", "899"),
    "ModelfleetWebhookDisabled": steady("modelfleet_webhooks_disabled", "1"),
    "ModelfleetPlanTakesLong": steady(_QUEUE.format("plans"), "601", "599"),
    "ModelfleetApprovalWaits": steady(_QUEUE.format("approvals"), "86401", "86399"),
    "ModelfleetCertificateEndsSoon": steady(_EXPIRY, "1200000", "1300000"),
    "ModelfleetCertificateEnds": steady(_EXPIRY, "170000", "180000"),
    "ModelfleetDevicesOffline": Case({_OFFLINE: "11x120", _ONLINE: "89x120"}, {_OFFLINE: "9x120", _ONLINE: "91x120"}),
    "ModelfleetTwoAgents": steady("modelfleet_devices_with_two_agents", "1"),
    "ModelfleetDeviceCertificateEndsSoon": steady(
        _EXPIRY.replace("certificate_", "fleet_certificate_", 1), "1200000", "1300000"
    ),
    "ModelfleetDevicesFail": Case({'modelfleet_fleet_devices_failing{code="run_failed"}': "2x120"}, {}),
    "ModelfleetRequestsFail": Case(
        {
            f'modelfleet_fleet_errors_total{{{_SERVED},code="run_failed"}}': "0+6x120",
            f"modelfleet_fleet_requests_total{{{_SERVED}}}": "0+100x120",
        },
        {
            f'modelfleet_fleet_errors_total{{{_SERVED},code="run_failed"}}': "0+4x120",
            f"modelfleet_fleet_requests_total{{{_SERVED}}}": "0+100x120",
        },
    ),
    "ModelfleetLatencyDoubled": Case(_SLOW, _FAST, "100m"),
    "ModelfleetRolloutPaused": steady('modelfleet_rollouts{state="paused"}', "1"),
    "ModelfleetRollbackIncomplete": Case(
        {'modelfleet_rollouts{state="rollback_incomplete"}': "0x20 1x100"},
        {'modelfleet_rollouts{state="rollback_incomplete"}': "1x120"},
    ),
    "ModelfleetNoHealth": Case(
        {_HEALTH: "7x120", _ONLINE: "3x120", _OFFLINE: "0x120"},
        {_HEALTH: "0+5x120", _ONLINE: "3x120", _OFFLINE: "0x120"},
    ),
    "ModelfleetAgentDown": steady('up{job="modelfleet-agent",instance="a"}', "0", "1"),
    "ModelfleetAgentWithoutBroker": steady("modelfleet_mqtt_connected", "0", "1"),
    "ModelfleetWorkerRestarts": rising('modelfleet_worker_restarts_total{model="m",version="1"}', "1"),
    "ModelfleetQueueFull": Case(
        {"modelfleet_queue_depth": "95x120", "modelfleet_queue_limit": "100x120"},
        {"modelfleet_queue_depth": "85x120", "modelfleet_queue_limit": "100x120"},
    ),
    "ModelfleetOutboxWaits": steady("modelfleet_outbox_queued", "1", at="60m"),
    "ModelfleetAgentLosses": rising("modelfleet_replies_dropped_total", "1"),
    "ModelfleetDiskOfDeviceDamaged": rising('modelfleet_damaged_total{kind="cache"}', "1"),
}
