"""One trace goes over command, registry and agent, or over client and agent; its ids are in the logs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from registry.client.devices import Client, DeviceError
from tests.support.network.broker import free_port
from tests.support.network.otlp import OtlpReceiver, ReceivedSpan
from tests.support.paths import LENET
from tests.support.programs.fleet import Fleet
from tests.support.programs.fleet_registry import eventually

DEVICE = "edge-1"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    made = OtlpReceiver().start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, receiver: OtlpReceiver) -> Iterator[Fleet]:
    """A fleet whose programs trace; LeNet is published and deployed, each by a traced command."""
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with Fleet(tmp_path_factory.mktemp("traced")) as fleet:
        fleet.start_broker()
        settings = {"MODELFLEET_REGISTRY_TRACING": "true", "MODELFLEET_REGISTRY_LOG_FORMAT": "json"}
        fleet.start_registry(**settings, MODELFLEET_REGISTRY_ACCESS_LOG="true", **otel)
        token = fleet.add_device(DEVICE)
        fleet.start_agent(DEVICE, token, MODELFLEET_AGENT_TRACING="true", **otel)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**otel, "MODELFLEET_TRACING": "1"}.items():
                patch.setenv(name, value)
            fleet.registry("publish", "lenet", str(LENET), "--version", "1.0.0", "--target", "cpu")
            # A deployment that is made before the host's facts are known is chosen again, in another document.
            eventually(lambda: fleet.registry("devices", "show", DEVICE)["facts"])
            fleet.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")
            fleet.registry("pull", "lenet@1.0.0", "--output", str(tmp_path_factory.mktemp("pulled")))
        yield fleet


def of_trace(receiver: OtlpReceiver, root: str) -> list[ReceivedSpan]:
    whole = [span for span in receiver.spans if span.name == root]
    assert len(whole) <= 1
    return [span for span in receiver.spans if whole and span.trace == whole[0].trace]


def names(spans: list[ReceivedSpan]) -> set[tuple[str, str]]:
    return {(span.service, span.name) for span in spans}


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("command", "least"),
    [
        ("publish", {("modelfleet-registry", "PUT /v1/models/{model}/versions/{version}")}),
        (
            "deploy",
            {
                ("modelfleet-agent", "resolve lenet"),
                ("modelfleet-agent", "pull lenet"),
                ("modelfleet-agent", "load lenet"),
                ("modelfleet-registry", "GET /v1/blobs/{digest}"),
            },
        ),
        ("pull", {("modelfleet-registry", "GET /v1/blobs/{digest}")}),
    ],
)
def test_the_trace_of_a_command_has_what_registry_and_agent_did_for_it(
    receiver: OtlpReceiver, command: str, least: set[tuple[str, str]]
) -> None:
    root = f"registry {command}"
    eventually(lambda: names(of_trace(receiver, root)) >= {("modelfleet-cli", root), *least}, 30)
    spans = {span.id: span for span in of_trace(receiver, root)}
    for span in spans.values():
        assert span.end >= span.start
        assert span.name == root or span.parent in spans


def test_a_request_s_trace_goes_from_the_client_over_the_agent_to_the_worker(
    traced: Fleet, receiver: OtlpReceiver
) -> None:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    pixels = np.zeros((1, 1, 28, 28), np.float32)
    with Client(f"mqtt://127.0.0.1:{traced.broker_port}", tracing=True) as client:
        client.infer(DEVICE, "lenet", {"x": pixels}, request_id="asked-1")
        with pytest.raises(DeviceError):
            client.infer(DEVICE, "lenet", {"x": pixels[:, :, :5]}, request_id="asked-2")
    good, bad = (
        next(span for span in memory.get_finished_spans() if (span.attributes or {})["modelfleet.request_id"] == id_)
        for id_ in ("asked-1", "asked-2")
    )
    assert not good.status.description
    assert (bad.attributes or {})["error.type"] == "wrong_shape"

    def below(span: trace.Span) -> list[ReceivedSpan]:
        of = trace.format_trace_id(span.get_span_context().trace_id)
        return [each for each in receiver.spans if each.trace == of]

    run, asked = sorted(eventually(lambda: len(found := below(good)) == 2 and found, 30), key=lambda each: -each.start)  # type: ignore[arg-type]
    assert (run.name, run.parent, asked.name) == ("run", asked.id, "infer lenet")
    assert asked.parent == trace.format_span_id(good.get_span_context().span_id)
    assert asked.start <= run.start <= run.end <= asked.end
    expected = {"modelfleet.request_id": "asked-1", "modelfleet.version": "1.0.0", "modelfleet.device": DEVICE}
    assert asked.attributes.items() >= expected.items()
    (refused,) = eventually(lambda: below(bad), 30)  # type: ignore[arg-type]
    assert refused.failed
    assert refused.attributes["error.type"] == "wrong_shape"


def test_lines_of_the_registry_s_log_have_the_trace_that_they_belong_to(traced: Fleet, receiver: OtlpReceiver) -> None:
    (root,) = {span.trace for span in eventually(lambda: of_trace(receiver, "registry deploy"), 30)}
    log = Path(traced.processes["registry"].log).read_text().splitlines()
    lines = [json.loads(line) for line in log if line.startswith("{")]
    assert any(line.get("trace") == root and line.get("span") and line.get("request") for line in lines)


def test_a_client_without_tracing_leaves_no_span(traced: Fleet, receiver: OtlpReceiver) -> None:
    before = len([span for span in receiver.spans if span.name == "infer lenet"])
    with Client(f"mqtt://127.0.0.1:{traced.broker_port}") as client:
        for _ in range(3):
            client.infer(DEVICE, "lenet", {"x": np.zeros((1, 1, 28, 28), np.float32)})
    assert len([span for span in receiver.spans if span.name == "infer lenet"]) == before


def test_a_collector_that_is_away_is_said_and_fails_no_command(traced: Fleet) -> None:
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "MODELFLEET_TRACING": "1"}
    token = (traced.registry_data / "admin.token").read_text().strip()
    known = {"MODELFLEET_REGISTRY": traced.url, "MODELFLEET_TOKEN": token}
    code, out, err = traced.run_command(["models"], {**os.environ, **known, **away})
    assert (code, "lenet" in out) == (0, True), err
    assert "the trace was not sent" in err
    assert "Traceback" not in err
