"""Home Assistant finds a sensor for each model of this device, where the settings name its discovery prefix.

The sensor's state is of what comes on the model's results topic: the best label of detections, `none` where there are
none; else the first element of the first output, the best label of a classification. Its attributes are the whole
result. It is available while the device's presence says so.
Source: Home Assistant, MQTT integration, "MQTT Discovery": a retained document on
`<prefix>/sensor/<object id>/config`, removed by an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from registry.contracts.topics import Topics
from registry.contracts.wire import canonical_json

_STATE = (
    "{% set labels = value_json.outputs | default([]) | selectattr('name', 'eq', 'labels') | map(attribute='data') "
    "| list %}{% if value_json.outputs is not defined %}{{ this.state }}"
    "{% elif labels %}{{ labels | first | first | default('none') }}"
    "{% else %}{{ (value_json.outputs | first).data | first }}{% endif %}"
)
_AVAILABLE = "{{ 'online' if value_json.online else 'offline' }}"


def sensor_topic(prefix: str, device: str, model: str) -> str:
    """Of a sensor's document. Object ids are of letters, digits, `_` and `-`: a dot of a name is `_d`, `_` is `__`."""
    return f"{prefix}/sensor/{_object_id(device)}_{_object_id(model)}/config"


def _object_id(name: str) -> str:
    return name.replace("_", "__").replace(".", "_d")


def sensor(topics: Topics, device: str, model: str, agent_version: str) -> bytes:
    """A sensor's document."""
    results, presence = topics.results(device, model), topics.device(device, "presence")
    return canonical_json(
        {
            "name": model,
            "unique_id": f"modelfleet_{device}_{model}",
            "state_topic": results,
            "value_template": _STATE,
            "json_attributes_topic": results,
            "availability_topic": presence,
            "availability_template": _AVAILABLE,
            "device": {
                "identifiers": [f"modelfleet_{device}"],
                "name": device,
                "manufacturer": "Modelfleet",
                "sw_version": agent_version,
            },
        }
    )


class Discovery:
    """Keeps the retained documents as the models of the device are."""

    def __init__(
        self, prefix: str, topics: Topics, device: str, agent_version: str, publish: Callable[[str, bytes], None]
    ) -> None:
        """`publish` takes a topic and a payload to retain; an empty one removes what is there."""
        self._prefix = prefix
        self._topics = topics
        self._device = device
        self._agent_version = agent_version
        self._publish = publish
        self._known: frozenset[str] = frozenset()

    def models(self, models: Iterable[str]) -> None:
        """These are the models now. Nothing is published where that is what was said before."""
        wanted = frozenset(models)
        for model in sorted(wanted - self._known):
            document = sensor(self._topics, self._device, model, self._agent_version)
            self._publish(sensor_topic(self._prefix, self._device, model), document)
        for model in sorted(self._known - wanted):
            self._publish(sensor_topic(self._prefix, self._device, model), b"")
        self._known = wanted
