"""What Home Assistant is told of a device's models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2 import Template

from agent.app.home_assistant import Discovery, sensor, sensor_topic
from registry.contracts.topics import Topics


def test_a_sensor_reads_the_results_topic_and_is_there_while_the_device_is() -> None:
    document = json.loads(sensor(Topics("p"), "edge-1", "lenet", "1.2"))
    assert document["state_topic"] == document["json_attributes_topic"] == "p/devices/edge-1/results/lenet"
    assert document["availability_topic"] == "p/devices/edge-1/presence"
    assert (document["unique_id"], document["device"]["identifiers"]) == (
        "modelfleet_edge-1_lenet",
        ["modelfleet_edge-1"],
    )


@pytest.mark.parametrize(
    ("outputs", "state"),
    [
        ([{"name": "label", "data": ["7", "9"]}, {"name": "score", "data": [0.9, 0.1]}], "7"),
        ([{"name": "boxes", "data": [1, 2, 3, 4]}, {"name": "labels", "data": ["dog"]}], "dog"),
        ([{"name": "boxes", "data": []}, {"name": "labels", "data": []}], "none"),
        ([{"name": "y", "data": [2.5]}], "2.5"),
        (None, "before"),
    ],
)
def test_the_state_is_the_best_label_of_a_picture(outputs: list[dict[str, Any]] | None, state: str) -> None:
    template = json.loads(sensor(Topics("p"), "edge-1", "m", "1"))["value_template"]
    value = {"error": "no"} if outputs is None else {"outputs": outputs}
    made = Template(template).render(value_json=value, this={"state": "before"})
    assert made == state


def test_object_ids_are_of_the_letters_that_home_assistant_takes_and_differ() -> None:
    names = [("edge-1", "lenet"), ("a.b", "c"), ("a_b", "c"), ("a", "b_c"), ("a", "b.c"), ("a", "b-c")]
    topics = [sensor_topic("homeassistant", device, model) for device, model in names]
    assert topics[0] == "homeassistant/sensor/edge-1_lenet/config"
    assert len(set(topics)) == len(names)
    assert all(set(topic.split("/")[2]) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for topic in topics)


def test_documents_follow_the_models_and_are_not_repeated() -> None:
    published: list[tuple[str, bool]] = []
    discovery = Discovery("h", Topics("p"), "d", "1", lambda topic, payload: published.append((topic, bool(payload))))
    discovery.models({"a", "b"})
    discovery.models({"a", "b"})
    assert published == [("h/sensor/d_a/config", True), ("h/sensor/d_b/config", True)]
    discovery.models({"b", "c"})
    assert published[2:] == [("h/sensor/d_c/config", True), ("h/sensor/d_a/config", False)]
