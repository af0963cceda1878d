"""What is counted is in the tables from which health reports, metrics and docs/metrics.md are made."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest

from agent.app.health import MODEL_FIELDS
from agent.dataplane.stats import ModelSnapshot
from registry.contracts.counters import AGENT_METRICS, MAX_LABELS, MODEL_METRICS, Counters, Metric, table
from registry.contracts.device.messages import ModelHealth
from registry.server.metric_table import REGISTRY_METRICS
from tests.support.paths import ROOT

TABLES = {**AGENT_METRICS, **MODEL_METRICS, **REGISTRY_METRICS}
COUNTED = (
    *("agent/adapters", "agent/app", "agent/dataplane", "agent/reconciler"),
    *("registry/db", "registry/inference/mqtt", "registry/server"),
)
SHOWN_ELSEWHERE = {
    "dropped": "outbox_dropped of the table: kept in the outbox's database",
    "conflicts": "database_conflicts of the table",
    "refusals": "database_refusals of the table",
    "restarts": "worker_restarts of the table",
    "refused": "connections_refused of the table",
    "gave_way": "connections_given_up of the table",
    "_skipped": "ShadowFigures.skipped",
    "_errors": "ShadowFigures.errors",
}
NO_COUNTERS = {
    "decoding": "requests of a worker in the decode pool now",
    "waiting_bytes": "of the requests that wait for a place now",
    "offset": "a place in a file",
    "users": "users of a connection now",
    "streams": "of the console's tabs now",
    "serves": "devices of a table's row",
    "should": "devices of a table's row",
    "hardware": "devices of a table's row",
    "inbox": "bytes for paho",
    "working": "requests of a caller that are worked on now",
    "unsent": "bytes for a doorbell",
    "_refused_filters": "a list",
    "_failures": "attempts in a row",
}


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text())


def raised(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Attributes to which something is added, that others may see or whose name says that something was lost."""
    losses = ("drop", "refus", "lost", "skip", "evict", "miss", "fail", "discard", "error")
    for node in ast.walk(tree):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            target = node.target.value if isinstance(node.target, ast.Subscript) else node.target
            if isinstance(target, ast.Attribute):
                name = target.attr
                if not name.startswith("_") or any(loss in name for loss in losses):
                    yield node.lineno, name


def counted(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names that are given to `Counters.add`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add":
            owner = ast.unparse(node.func.value)
            if owner.endswith("counters") and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def test_every_counter_that_the_code_raises_is_in_a_table() -> None:
    found = [(f"{file}:{line}", name) for file, tree in sources(*COUNTED) for line, name in raised(tree)]
    others = SHOWN_ELSEWHERE.keys() | NO_COUNTERS.keys()
    unknown = [each for each in found if each[1] not in TABLES.keys() | others]
    assert unknown == [], "count through Counters, with a row in the table"
    assert others <= {name for _, name in found}


def test_every_name_that_is_counted_is_in_the_table_of_its_program() -> None:
    for folder, names in (("agent", AGENT_METRICS), ("registry/server", REGISTRY_METRICS)):
        found = [(file, line, name) for file, tree in sources(folder) for line, name in counted(tree)]
        assert found
        assert [each for each in found if each[2] not in names] == []


def test_every_row_of_a_table_is_filled_by_the_code() -> None:
    for folders, names in (
        (("agent/dataplane", "agent/app"), AGENT_METRICS),
        (("registry/server",), REGISTRY_METRICS),
    ):
        texts = {
            node.value
            for file, tree in sources(*folders)
            if not file.endswith("metric_table.py")
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
        }
        assert [name for name in names if name not in texts] == []


def test_every_figure_of_a_model_is_in_its_snapshot_and_in_health() -> None:
    snapshot = set(ModelSnapshot.__dataclass_fields__)
    of_the_reconciler = {"worker_restarts"}
    assert {name.removesuffix("_seconds") for name in MODEL_METRICS} - of_the_reconciler <= snapshot
    assert set(MODEL_FIELDS.values()) <= set(ModelHealth.model_fields)


def test_a_counter_without_a_row_cannot_be_counted() -> None:
    counters = Counters(table(Metric("known", "counter", "things", "Known."), Metric("now", "gauge", "things", "Now.")))
    assert counters.add("known")
    assert not counters.add("known", 2)
    assert counters.total("known") == 3
    for name in ("unknown", "now"):
        with pytest.raises(KeyError):
            counters.add(name)


def test_each_label_is_news_once_and_labels_are_bounded() -> None:
    counters = Counters(table(Metric("refused", "counter", "things", "Refused.", ("reason",))))
    news = [counters.add("refused", label=str(number)) for number in (1, 2, 1, *range(300))]
    assert news[:3] == [True, True, False]
    assert counters.total("refused") == 303
    assert counters.total("refused", "1") == 3
    assert len(counters.figures()["refused"]) == MAX_LABELS + 1


def test_every_name_that_prometheus_gets_from_the_registry_is_in_its_table() -> None:
    import registry.server.metrics
    import registry.server.scheduler  # noqa: F401 - they register what they count

    lines = [line for line in generate_latest().decode().splitlines() if line.startswith("# TYPE modelfleet_")]
    names = {line.split()[2].removeprefix("modelfleet_").removesuffix("_total") for line in lines}
    assert names
    assert names <= REGISTRY_METRICS.keys()
