"""docs/monitoring/grafana-dashboard.json and docs/alerts.md. `scripts/docs` writes them; a test evaluates every query.

A panel is one row of PANELS: what it shows, how, and its queries. The rules are docs/monitoring/prometheus-rules.yml.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs" / "monitoring" / "prometheus-rules.yml"
DASHBOARD = ROOT / "docs" / "monitoring" / "grafana-dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Query(NamedTuple):
    """One query, and the name of its lines."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel; `kind` is Grafana's."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7


class Row(NamedTuple):
    """A row's title and its panels."""

    title: str
    panels: tuple[Panel, ...]


_OF = '{model=~"$model",version=~"$version"}'
_RATE = "[$__rate_interval]"


_LOSSES = ("outbox_dropped", "replies_dropped", "replies_refused", "documents_dropped", "notices_dropped")


def _quantile(fraction: str, metric: str, by: str, of: str = _OF) -> str:
    return f"histogram_quantile({fraction}, sum by ({by}, le) (rate({metric}_bucket{of}{_RATE})))"


PANELS = (
    Row("The fleet now", (
        Panel("Devices online", "Devices that count as online.",
              (Query('sum(modelfleet_devices{presence="online"})'),), kind="stat", width=4, height=4),
        Panel("Devices offline", "All others.",
              (Query('sum(modelfleet_devices{presence="offline"})'),), kind="stat", width=4, height=4),
        Panel("Failing", "Devices that do not get what they should serve, or went back.",
              (Query("sum(modelfleet_fleet_devices_failing) or vector(0)"),), kind="stat", width=4, height=4),
        Panel("Behind", "Devices with a model of which something else serves than should.",
              (Query("sum(modelfleet_fleet_devices_behind)"),), kind="stat", width=4, height=4),
        Panel("Requests per second", "Answered by all devices, from their health reports.",
              (Query(f"sum(rate(modelfleet_fleet_requests_total{_RATE}))"),), "reqps", "stat", 4, 4),
        Panel("Errors", "Share of the requests that were answered with an error.",
              (Query(f"(sum(rate(modelfleet_fleet_errors_total{_RATE})) or vector(0)) / "
                     f"sum(rate(modelfleet_fleet_requests_total{_RATE}))"),), "percentunit", "stat", 4, 4),
        Panel("Connection", "Devices by connection. `late` still counts as online; `silent` stopped without a word.",
              (Query("sum by (connection) (modelfleet_fleet_devices)", "{{connection}}"),)),
        Panel("Deployment", "Devices by the worst state of what they should serve.",
              (Query("sum by (state) (modelfleet_fleet_devices_serving) > 0", "{{state}}"),)),
        Panel("Failing by code", "docs/codes.md explains each code.",
              (Query("sum by (code) (modelfleet_fleet_devices_failing) or label_replace(vector(0), "
                     '"code", "none", "", "")', "{{code}}"),)),
    )),
    Row("Versions", (
        Panel("What serves", "Devices by model and version.",
              (Query(f"sum by (model, version) (modelfleet_fleet_models{_OF})", "{{model}} {{version}}"),)),
        Panel("What serves, by hardware", "Devices by version and hardware class.",
              (Query(f"sum by (model, version, hardware) (modelfleet_fleet_models{_OF})",
                     "{{model}} {{version}} {{hardware}}"),), kind="bargauge"),
        Panel("Agents", "Devices by the version of their agent.",
              (Query("sum by (version) (modelfleet_fleet_agents)", "{{version}}"),), kind="bargauge"),
    )),
    Row("Requests", (
        Panel("Requests", "By model and version.",
              (Query(f"sum by (model, version) (rate(modelfleet_fleet_requests_total{_OF}{_RATE}))",
                     "{{model}} {{version}}"),), "reqps"),
        Panel("Errors by code", "By model, version and code.",
              (Query(f"sum by (model, version, code) (rate(modelfleet_fleet_errors_total{_OF}{_RATE}))",
                     "{{model}} {{version}} {{code}}"),), "reqps"),
        Panel("Latency", "From a request's last byte on a device to its reply: median and 99 %.",
              (Query(_quantile("0.5", "modelfleet_fleet_latency_seconds", "model, version"),
                     "{{model}} {{version}} 50 %"),
               Query(_quantile("0.99", "modelfleet_fleet_latency_seconds", "model, version"),
                     "{{model}} {{version}} 99 %")), "s"),
        Panel("Latency by target", "99 % of the requests, by the target of the variant that answered.",
              (Query(_quantile("0.99", "modelfleet_fleet_latency_seconds", "model, target"),
                     "{{model}} {{target}}"),), "s"),
        Panel("Run time", "99 % of the runs in a backend. Latency beyond it is queues and decoding.",
              (Query(_quantile("0.99", "modelfleet_fleet_run_seconds", "model, version"),
                     "{{model}} {{version}}"),), "s"),
        Panel("Distribution of latency", "Requests by bucket.",
              (Query(f"sum by (le) (rate(modelfleet_fleet_latency_seconds_bucket{_OF}{_RATE}))", "{{le}}"),),
              "reqps", "heatmap"),
    )),
    Row("Rollouts", (
        Panel("Rollouts", "By state.", (Query("sum by (state) (modelfleet_rollouts)", "{{state}}"),)),
        Panel("Devices in rollouts", "Of rollouts under way, by state.",
              (Query("sum by (state) (modelfleet_rollout_devices)", "{{state}}"),)),
        Panel("Waiting", "What waits, and how long the first has.",
              (Query("sum by (queue) (modelfleet_queue_length)", "{{queue}}"),)),
    )),
    Row("Registry", (
        Panel("HTTP requests", "By route.",
              (Query(f"sum by (method, route) (rate(modelfleet_http_requests_total{_RATE}))",
                     "{{method}} {{route}}"),), "reqps"),
        Panel("HTTP answers by status", "5xx is the registry's own condition.",
              (Query(f"sum by (status) (rate(modelfleet_http_requests_total{_RATE}))", "{{status}}"),), "reqps"),
        Panel("HTTP latency", "99 % by route.",
              (Query(_quantile("0.99", "modelfleet_http_request_seconds", "route", ""), "{{route}}"),), "s"),
        Panel("Polls for desired state", "Of all devices, over HTTP.",
              (Query('sum(rate(modelfleet_http_requests_total{method="GET",route="/v1/devices/{device}/desired"}'
                     f"{_RATE}))", "polls"),), "reqps"),
        Panel("Messages of devices", "Stored, by kind and way.",
              (Query(f"sum by (kind, way) (rate(modelfleet_device_messages_total{_RATE}))", "{{kind}} {{way}}"),),
              "reqps"),
        Panel("Messages by outcome", "`poison` and `dropped` need attention.",
              (Query(f"sum by (outcome) (rate(modelfleet_registry_mqtt_messages_total{_RATE}))", "{{outcome}}"),),
              "reqps"),
        Panel("Age of queues", "How long the first in each queue has waited.",
              (Query("max by (queue) (modelfleet_queue_oldest_seconds)", "{{queue}}"),), "s"),
        Panel("Database", "Conflicts are tried again; refusals are answered 503.",
              (Query(f"sum(rate(modelfleet_database_conflicts_total{_RATE}))", "conflicts"),
               Query(f"sum(rate(modelfleet_database_refusals_total{_RATE})) or vector(0)", "refusals"))),
        Panel("Storage", "Blobs, and what is free on their disk.",
              (Query("sum(modelfleet_blob_bytes)", "blobs"), Query("min(modelfleet_blob_disk_free_bytes)", "free")),
              "bytes"),
        Panel("Damaged blobs", "Publish the versions again.", (Query("sum(modelfleet_blobs_damaged)"),),
              kind="stat", width=4),
        Panel("Certificates", "Days until each ends: of registry and scraped agents, and the first of all devices.",
              (Query("min by (instance, certificate) "
                     "(modelfleet_certificate_expiry_timestamp_seconds - time()) / 86400",
                     "{{instance}} {{certificate}}"),
               Query("(min by (certificate) (modelfleet_fleet_certificate_expiry_timestamp_seconds) - time()) / 86400",
                     "devices: {{certificate}}")), "d", "bargauge"),
        Panel("Memory", "Of the registry's process.",
              (Query('process_resident_memory_bytes{job="modelfleet-registry"}', "{{instance}}"),), "bytes", width=12),
    )),
    Row("Agents that are scraped", (
        Panel("On the broker", "1: connected.",
              (Query("modelfleet_mqtt_connected", "{{instance}}"),), width=6),
        Panel("Queue", "Share of the requests that a model can hold.",
              (Query(f"modelfleet_queue_depth{_OF} / (modelfleet_queue_limit{_OF} > 0)", "{{instance}} {{model}}"),),
              "percentunit", width=6),
        Panel("Wait before a run", "99 %.",
              (Query(_quantile("0.99", "modelfleet_queue_wait_seconds", "instance, model"),
                     "{{instance}} {{model}}"),), "s", width=6),
        Panel("Restarts of workers", "Per hour.",
              (Query(f"increase(modelfleet_worker_restarts_total{_OF}[1h])", "{{instance}} {{model}}"),), width=6),
        Panel("Losses", "Messages that were dropped or refused; docs/metrics.md says what each counts.",
              tuple(Query(f"rate(modelfleet_{name}_total{_RATE})", "{{instance}} " + name) for name in _LOSSES),
              width=12),
        Panel("Outbox", "Messages that wait on the disk for the broker.",
              (Query("modelfleet_outbox_queued", "{{instance}}"),), width=12),
    )),
)  # fmt: skip


def dashboard() -> str:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in PANELS:
        panels.append({
            "id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
        })  # fmt: skip
        top += 1
        left = highest = 0
        for panel in row.panels:
            if left + panel.width > 24:
                left, top, highest = 0, top + highest, 0
            panels.append(_panel(panel, len(panels) + 1, left, top))
            left, highest = left + panel.width, max(highest, panel.height)
        top += highest
    document = {
        "title": "Modelfleet",
        "uid": "modelfleet",
        "description": "A Modelfleet fleet: devices, versions, requests, rollouts, registry, agents.",
        "tags": ["modelfleet"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [
            {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0},
            _variable("model", "Model", "label_values(modelfleet_fleet_models, model)"),
            _variable("version", "Version", 'label_values(modelfleet_fleet_models{model=~"$model"}, version)'),
        ]},
        "panels": panels,
    }  # fmt: skip
    return json.dumps(document, indent=1) + "\n"


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "definition": query,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
        "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}, "hide": 0,
    }  # fmt: skip


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    now = panel.kind in ("stat", "bargauge")
    targets = [
        {
            "refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query.expr,
            "legendFormat": query.legend or "__auto", "editorMode": "code", "range": not now, "instant": now,
            "format": "heatmap" if panel.kind == "heatmap" else "time_series",
        }
        for place, query in enumerate(panel.queries)
    ]  # fmt: skip
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
    if panel.kind == "timeseries":
        options["tooltip"] = {"mode": "multi", "sort": "desc"}
    elif now:
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "orientation": "auto"}
    elif panel.kind == "heatmap":
        options = {"calculate": False, "yAxis": {"unit": "s"}, "cellGap": 1}
    defaults = {"unit": panel.unit, "min": 0} if panel.title != "Certificates" else {"unit": panel.unit}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def rules() -> list[dict[str, Any]]:
    """The alerts, each with its group under `group`."""
    document = yaml.safe_load(RULES.read_text())
    return [{**rule, "group": group["name"]} for group in document["groups"] for rule in group["rules"]]


def alerts() -> str:
    """docs/alerts.md: a section for each alert."""
    head = (
        "# Alerts\n\nEach alert of [monitoring/prometheus-rules.yml](monitoring/prometheus-rules.yml): when it fires,\n"
        "what it means, what to do. `critical`: somebody has to act now. `warning`: today. `info`: when there\n"
        "is time. [monitoring.md](monitoring.md) shows how to load the rules.\n"
    )
    return head + "".join(_alerts())


def _alerts() -> Iterator[str]:
    for rule in rules():
        told = {name: re.sub(r"\{\{\s*\$(?:labels\.)?(\w+).*?\}\}", r"*\1*", text)
                for name, text in rule["annotations"].items()}  # fmt: skip
        wait = f", for {rule['for']}" if "for" in rule else ""
        yield f"\n## {rule['alert']}\n\n{told['summary']} Severity `{rule['labels']['severity']}`{wait}.\n\n"
        yield f"```\n{rule['expr'].strip()}\n```\n\n**Why.** {told['reason']}\n\n**What to do.** {told['action']}\n"
