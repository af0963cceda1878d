"""The rules load and fire when they should; every query of the dashboard finds something on a running fleet."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from registry.cli.main import COMMANDS
from registry.client.devices import Client, DeviceError
from scripts.lib import monitoring
from tests.e2e.monitoring_cases import CASES, Case
from tests.support.network.broker import free_port
from tests.support.network.certificates import Authority
from tests.support.paths import LENET, ROOT
from tests.support.programs.fleet import Fleet
from tests.support.programs.fleet_registry import eventually
from tests.support.programs.prometheus import Prometheus, require_prometheus

DEVICE = "edge-1"
RULES = {rule["alert"]: rule for rule in monitoring.rules()}
ALERTS_PAGE = (ROOT / "docs" / "alerts.md").read_text()
DASHBOARD: dict[str, Any] = json.loads(monitoring.DASHBOARD.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PIXELS = np.zeros((1, 1, 28, 28), np.float32)


def test_every_alert_has_a_severity_a_reason_what_to_do_and_a_case_that_fires_and_one_that_does_not() -> None:
    assert RULES.keys() == CASES.keys()
    for name, rule in RULES.items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        assert {"summary", "reason", "action", "runbook"} == set(rule["annotations"]), name
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
        assert f"\n## {name}\n" in ALERTS_PAGE
        for command in rule["annotations"]["action"].split("`registry ")[1:]:
            assert command.split("`")[0].split()[0] in COMMANDS, command


def promtool(*arguments: str | Path) -> None:
    ran = subprocess.run(["promtool", *arguments], check=False, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_promtool_takes_the_rules() -> None:
    require_prometheus()
    promtool("check", "rules", monitoring.RULES)


def test_each_alert_fires_on_what_it_is_for_and_is_silent_on_what_is_well(tmp_path: Path) -> None:
    require_prometheus()
    tests = [
        one
        for name, case in CASES.items()
        for one in (_rule_test(name, case, case.fires, "1"), _rule_test(name, case, case.well, ""))
    ]
    file = tmp_path / "tests.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(monitoring.RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    promtool("test", "rules", file)


def _rule_test(name: str, case: Case, series: dict[str, str], fires: str) -> dict[str, Any]:
    expected = [{"value": 1.0, "labels": "{}"}] if fires else []
    alert = f'count(count(ALERTS{{alertname="{name}",alertstate="firing"}}))'
    return {
        "name": f"{name} {'fires' if fires else 'is silent'}",
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [{"expr": alert, "eval_time": case.at, "exp_samples": expected}],
    }


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert panel["description"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert references, panel["title"]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            for name in ("model", "version"):
                assert f"${name}" not in target["expr"] or name in variables


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes a registry and an agent, which answered requests, some of them with an error, between its scrapes."""
    require_prometheus()
    folder, port = tmp_path_factory.mktemp("monitored"), free_port()
    with Fleet(folder / "fleet") as fleet:
        fleet.start_broker()
        fleet.start_registry()
        fleet.start_agent(
            DEVICE,
            fleet.add_device(DEVICE),
            MODELFLEET_AGENT_HEALTH_INTERVAL_S="1",
            MODELFLEET_AGENT_REGISTRY__POLL_INTERVAL_S="1",
            MODELFLEET_AGENT_REGISTRY__CA_FILE=str(Authority(folder / "authority").file),
            MODELFLEET_AGENT_PROMETHEUS=f"127.0.0.1:{port}",
        )
        fleet.registry("publish", "lenet", str(LENET), "--version", "1.0.0", "--target", "cpu")
        fleet.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")
        jobs = {"modelfleet-registry": f"127.0.0.1:{fleet.registry_port}", "modelfleet-agent": f"127.0.0.1:{port}"}
        token = folder / "prometheus.token"
        fleet.registry("token", "create", "prometheus", "--scope", "read", "--token-out", str(token))
        with (
            Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client,
            Prometheus(folder, jobs, monitoring.RULES, {"modelfleet-registry": token}) as running,
        ):
            _ask(client)
            for metric in ("modelfleet_fleet_errors_total", "modelfleet_queue_wait_seconds_count > 0"):
                eventually(lambda metric=metric: running.query(metric))  # type: ignore[misc]
            _ask(client)  # a counter that was not there before has no rate yet
            total = sum(float(sample["value"][1]) for sample in running.query("sum(modelfleet_fleet_errors_total)"))
            eventually(lambda: running.query(f"sum(modelfleet_fleet_errors_total) > {total}"))
            yield running


def _ask(client: Client) -> None:
    for _ in range(20):
        client.infer(DEVICE, "lenet", {"x": PIXELS})
    with pytest.raises(DeviceError):
        client.infer(DEVICE, "lenet", {"x": PIXELS[:, :, :5]})


def filled(expr: str) -> str:
    """The query as Grafana sends it, with all models and versions chosen."""
    return expr.replace("$model", ".*").replace("$version", ".*").replace("$__rate_interval", "5m")


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_shows_something_on_a_running_fleet(prometheus: Prometheus, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:

        def shown(expr: str = filled(target["expr"])) -> bool:
            return any(sample["value"][1] != "NaN" for sample in prometheus.query(expr))

        eventually(shown, 30)


def test_the_sums_of_the_fleet_are_those_of_its_agent(prometheus: Prometheus) -> None:
    for metric in ("requests_total", "latency_seconds_count"):

        def same(metric: str = metric) -> bool:
            of_fleet, of_agent = (
                prometheus.query(f"sum(modelfleet_{prefix}{metric})")[0]["value"][1] for prefix in ("fleet_", "")
            )
            return bool(of_fleet == of_agent != "0")

        eventually(same)
    (served,) = prometheus.query("modelfleet_fleet_requests_total")
    assert {name: served["metric"][name] for name in ("model", "version", "target")} == {
        "model": "lenet",
        "version": "1.0.0",
        "target": "cpu",
    }


def test_prometheus_takes_every_rule_and_no_alert_of_a_fleet_that_is_well_is_critical(prometheus: Prometheus) -> None:
    groups = eventually(
        lambda: (
            (found := prometheus.get("rules")["groups"])
            and all(rule["health"] == "ok" for group in found for rule in group["rules"])
            and found
        )
    )
    assert {rule["name"] for group in groups for rule in group["rules"]} == RULES.keys()
    firing = prometheus.query('ALERTS{alertstate="firing",severity="critical"}')
    assert firing == []
