"""Hundreds of requests that come together: each is answered as plain ONNX Runtime answers it alone.

Real processes, over MQTT. Models whose items influence each other, in every way that was thought of, beside LeNet,
whose items do not and whose requests are joined.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from scripts.demo.processes import wait_until
from tests.e2e.conftest import DEVICE
from tests.support.clients.asking import Asker
from tests.support.models import independence
from tests.support.models.graphs import Graph
from tests.support.paths import LENET_FOLDER
from tests.support.programs.cli import Cli
from tests.support.programs.fleet import Fleet

REQUESTS = 300
KINDS = {TensorProto.FLOAT: "FP32", TensorProto.INT64: "INT64", TensorProto.BOOL: "BOOL"}
f32, i64 = np.float32, np.int64

pytestmark = pytest.mark.timeout(300)
"""Thirteen models are loaded: on a machine that has other work as well, that takes minutes."""


def ints(*numbers: int) -> Any:
    return np.array(numbers, i64)


def made(graph: Graph, output: str, kind: int = TensorProto.FLOAT, width: int = 4) -> onnx.ModelProto:
    """With the types and shapes that a publisher declares."""
    model = graph.model(output)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(output.removeprefix("@"), kind, ["N", width]))
    return model


def standardise() -> onnx.ModelProto:
    graph = Graph(17)
    x = "@" + graph.operand("N,4")
    return made(graph, graph("Sub", x, graph("ReduceMean", x, keepdims=1)))


def running_total() -> onnx.ModelProto:
    graph = Graph(17)
    return made(graph, graph("CumSum", "int64 N,1", np.array(0)), TensorProto.INT64, 1)


def sort() -> onnx.ModelProto:
    graph = Graph(17)
    x = "@" + graph.operand("N,4")
    count = graph("Gather", graph("Shape", x), ints(0))
    return made(graph, "@" + graph.node("TopK", [x[1:], count[1:]], ["sorted", "where"], axis=0)[0])


def recurrent() -> onnx.ModelProto:
    """The items are the steps of time of one sequence."""
    graph = Graph(17)
    x = graph("Unsqueeze", "N,4", ints(1))
    rng = np.random.default_rng(1)
    weights = [graph.operand(rng.standard_normal(shape).astype(f32)) for shape in ((1, 16, 4), (1, 16, 4))]
    every = "@" + graph.node("LSTM", [x[1:], *weights], ["every"], hidden_size=4)[0]
    return made(graph, graph("Reshape", every, ints(-1, 4)))


def seen_before() -> onnx.ModelProto:
    """Rows that were there before are dropped."""
    graph = Graph(17)
    x = graph("Round", graph("Mul", "N,4", np.array(0.3, f32)))
    return made(graph, "@" + graph.node("Unique", [x[1:]], ["kept"], axis=0, sorted=0)[0])


def threshold() -> onnx.ModelProto:
    """Above the mean of the run: booleans."""
    graph = Graph(17)
    x = "@" + graph.operand("N,4")
    return made(graph, graph("Greater", x, graph("ReduceMean", x, keepdims=1)), TensorProto.BOOL)


def rank_of_the_run() -> onnx.ModelProto:
    """How far below the largest of the run, in whole numbers."""
    graph = Graph(17)
    x = "@" + graph.operand("N,4")
    return made(graph, graph("Cast", graph("Sub", graph("ReduceMax", x, keepdims=1), x), to=7), TensorProto.INT64)


def counted() -> onnx.ModelProto:
    """Times the number of items."""
    graph = Graph(17)
    x = "@" + graph.operand("N,4")
    count = graph("Cast", graph("Gather", graph("Shape", x), np.array(0)), to=1)
    return made(graph, graph("Mul", x, count))


def dynamic_range() -> onnx.ModelProto:
    """To eight bits and back, by the range of the run."""
    graph = Graph(17)
    x = graph.operand("N,4")
    bits = graph.node("DynamicQuantizeLinear", [x], ["bits", "scale", "point"])
    return made(graph, "@" + graph.node("DequantizeLinear", bits, ["back"])[0])


def backwards() -> onnx.ModelProto:
    graph = Graph(17)
    return made(graph, graph("Slice", "N,4", ints(-1), ints(-(2**63) + 1), ints(0), ints(-1)))


def neighbours() -> onnx.ModelProto:
    """Less the item before, by a convolution over the items."""
    graph = Graph(17)
    rows = graph("Unsqueeze", graph("Transpose", "N,4", perm=[1, 0]), ints(1))
    weights = np.array([-1, 1], f32).reshape(1, 1, 2)
    out = graph("Squeeze", graph("Conv", rows, weights, pads=[1, 0]), ints(1))
    return made(graph, graph("Transpose", out, perm=[1, 0]))


MIXING: dict[str, Callable[[], onnx.ModelProto]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        standardise, running_total, sort, recurrent, seen_before, threshold, rank_of_the_run, counted, dynamic_range,
        backwards, neighbours,
    )
}  # fmt: skip
DECLARED = "standardise-declared"
"""Published as independent, which it is not: the probe on the device sees it."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        running.start_agent(
            DEVICE,
            running.add_device(DEVICE),
            MODELFLEET_AGENT_HEALTH_INTERVAL_S="1",
            MODELFLEET_AGENT_LIMITS__SLOTS="1024",
        )
        folder = tmp_path_factory.mktemp("models")
        for name, make in MIXING.items():
            onnx.save(make(), folder / f"{name}.onnx")
        commands = [("publish", str(LENET_FOLDER / "lenet.toml"))]
        for name in (*MIXING, DECLARED):
            file = str(folder / f"{name.removesuffix('-declared')}.onnx")
            declared = ("--batching", "independent") if name == DECLARED else ()
            commands.append(("publish", name, file, "--version", "1", "--target", "cpu", *declared))
        commands += [("deploy", f"{name}@1", "-d", DEVICE) for name in (*MIXING, DECLARED)]
        for words in commands:
            in_words(running, *words)
        running.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")
        wait_until(lambda: all(serves(running, name) for name in (*MIXING, DECLARED)), "every model serves", 120)
        yield running


def reported(fleet: Fleet, model: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.registry("devices", "show", DEVICE)["reported"]["models"].get(model, {})
    return found


def in_words(fleet: Fleet, *arguments: str) -> str:
    """What the command says to a person."""
    token = (fleet.registry_data / "admin.token").read_text().strip()
    return Cli(fleet.folder, fleet.url, token)(*arguments).out


def serves(fleet: Fleet, model: str) -> bool:
    return reported(fleet, model).get("state") == "serving"


def together(fleet: Fleet, model: str, name: str, items: list[Any], kind: str) -> list[Any]:
    """Sends all at once; the answers by request, each of them the `data` of its one output."""
    asker = Asker(fleet.broker_port, f"modelfleet/v1/devices/{DEVICE}/infer/{model}")
    try:
        for number, item in enumerate(items):
            tensor = {"name": name, "shape": list(item.shape), "datatype": kind, "data": item.ravel().tolist()}
            asker.ask(json.dumps({"id": str(number), "inputs": [tensor]}).encode())
        asker.wait(len(items), 60)
        heads = [answer.head for answer in asker.answers]
    finally:
        asker.close()
    assert all("outputs" in head for head in heads), next(head for head in heads if "outputs" not in head)
    found = {head["id"]: head["outputs"][0]["data"] for head in heads}
    return [found[str(number)] for number in range(len(items))]


def different_items(datatype: str, shape: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(5)
    if datatype == "INT64":
        return [np.full(shape, number + 1, i64) for number in range(REQUESTS)]
    return [(rng.standard_normal(shape) * (1 + number % 7)).astype(f32) for number in range(REQUESTS)]


@pytest.mark.parametrize("name", [*MIXING, DECLARED])
def test_items_that_influence_each_other_are_answered_one_at_a_time_and_right(fleet: Fleet, name: str) -> None:
    runs = independence.session(MIXING[name.removesuffix("-declared")]())
    given = runs.get_inputs()[0]
    kind = "INT64" if "int64" in given.type else "FP32"
    items = different_items(kind, (1, *given.shape[1:]))
    answers = together(fleet, name, given.name, items, kind)
    wrong = 0
    for item, answer in zip(items, answers, strict=True):
        (right,) = runs.run(None, {given.name: item})
        wrong += not np.allclose(np.array(answer, np.float64), right.ravel().astype(np.float64), rtol=1e-5, atol=1e-6)
    assert wrong == 0
    assert reported(fleet, name)["max_batch"] == 1


def test_it_is_said_why_requests_are_not_joined(fleet: Fleet) -> None:
    assert "(CumSum): it adds up along the axis of the items" in reported(fleet, "running-total")["batching"]
    assert "a trial run of" in reported(fleet, DECLARED)["batching"]
    for words in (("show", "running-total@1"), ("explain", DEVICE, "running-total@1")):
        said = in_words(fleet, *words)
        assert "one request at a time: node" in said
        assert "(CumSum): it adds up along the axis of the items" in " ".join(said.split())
    assert "proven from the graph" in in_words(fleet, "show", "lenet@1.0.0")
    wait_until(lambda: "running-total" in _health(fleet), "a health report")
    assert "(CumSum)" in _health(fleet)["running-total"]["batching"]


def _health(fleet: Fleet) -> dict[str, Any]:
    reports = fleet.registry("health", DEVICE, "--limit", "1")
    found: dict[str, Any] = reports[0]["models"] if reports else {}
    return found


def lenet_answers(fleet: Fleet) -> tuple[list[Any], list[Any]]:
    """What came over MQTT, and what ONNX Runtime says of each alone."""
    runs = independence.session((LENET_FOLDER / "lenet.onnx").read_bytes())
    rng = np.random.default_rng(6)
    items = [rng.random((1, 1, 28, 28)).astype(f32) for _ in range(REQUESTS)]
    found = together(fleet, "lenet", "x", items, "FP32")
    return found, [runs.run(None, {"x": item})[0].ravel() for item in items]


def test_lenet_is_proven_and_its_requests_are_still_joined(fleet: Fleet) -> None:
    found, right = lenet_answers(fleet)
    assert np.allclose(found, right, rtol=1e-4, atol=1e-4)
    told = reported(fleet, "lenet")
    assert told["max_batch"] > 1
    assert "proven from the graph that items are independent" in told["batching"]
    wait_until(lambda: any(int(size) > 1 for size in _health(fleet)["lenet"]["batch_sizes"]), "a batch in health")


def test_a_deployment_that_says_off_runs_one_at_a_time(fleet: Fleet) -> None:
    fleet.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--batching", "off", "--wait")
    wait_until(lambda: reported(fleet, "lenet").get("max_batch") == 1, "one request at a time", 60)
    assert "the deployment says so" in reported(fleet, "lenet")["batching"]
    found, right = lenet_answers(fleet)
    assert np.allclose(found, right, rtol=1e-6, atol=1e-6)
    fleet.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")
    wait_until(lambda: reported(fleet, "lenet").get("max_batch", 1) > 1, "requests are joined again", 60)
