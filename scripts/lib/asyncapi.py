"""The MQTT interface as an AsyncAPI 3 document with a JSON Schema a message, from the contracts and the golden files.

Schemas are of JSON Schema draft 7, which every AsyncAPI tool reads. Import it after `scripts/docs` has asked pydantic
for the docstrings of fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.codes import InferenceCode
from registry.contracts.device.messages import Desired, Event, Health, Notice, Presence, Reported
from registry.contracts.device.metadata import MetadataRequest, ModelMetadata, ServerMetadata
from registry.contracts.inference import ErrorBody, RequestBody, ResultBody
from registry.contracts.tensors import CONTENT_BINARY, CONTENT_JSON, HEADER_LENGTH_PROPERTY
from registry.contracts.topics import DEFAULT_PREFIX, Topics
from registry.contracts.wire import Wire

GOLDEN = Path(__file__).parents[2] / "tests" / "contracts" / "golden" / "v1"
SCHEMA_FORMAT = "application/schema+json;version=draft-07"
DRAFT = "http://json-schema.org/draft-07/schema#"
SCHEMAS: dict[str, type[Wire]] = {
    "presence": Presence,
    "desired": Desired,
    "manifest": Manifest,
    "notice": Notice,
    "reported": Reported,
    "event": Event,
    "health": Health,
    "metadata-request": MetadataRequest,
    "server-metadata": ServerMetadata,
    "model-metadata": ModelMetadata,
    "inference-request": RequestBody,
    "inference-result": ResultBody,
    "error": ErrorBody,
}
"""By the name of the file in docs/schemas. The manifest is no message: `desired` names it by its digest."""


class Message(NamedTuple):
    """One kind of payload."""

    title: str
    summary: str
    content_type: str
    schema: str = ""
    """Of SCHEMAS: of the payload, or of the header of a binary one. Empty: it is no JSON."""
    examples: tuple[str, ...] = ()
    """Golden files."""
    binary: bool = False
    """The payload is a header and tensors."""
    header_length: bool = False
    """It has the user property HEADER_LENGTH_PROPERTY."""


_PICTURE = "A picture as it is, for a model whose metadata has `image`."
_LENGTH = "The JSON header, then the tensors. The user property says how long the header is."
_MAGIC = "`OIPB`, the header's length as 32 bits little-endian, the JSON header, the tensors. It needs no property."
MESSAGES: dict[str, Message] = {
    "presence": Message("Presence", "Is the agent connected?", CONTENT_JSON, "presence", ("presence", "presence-will")),
    "desired": Message(
        "Desired", "What the device should serve.", CONTENT_JSON, "desired", ("desired", "desired-jobs")
    ),
    "notice": Message("Notice", "What the registry asks for.", CONTENT_JSON, "notice", ("notice",)),
    "reported": Message(
        "Reported", "What is so on the device.", CONTENT_JSON, "reported", ("reported", "reported-jobs")
    ),
    "event": Message("Event", "One step of a deployment, or a fault.", CONTENT_JSON, "event", ("event",)),
    "health": Message("Health", "Periodic measures.", CONTENT_JSON, "health", ("health", "health-counts")),
    "metadataRequest": Message(
        "Metadata request", "May be empty.", CONTENT_JSON, "metadata-request", ("metadata-request",)
    ),
    "serverMetadata": Message(
        "Server metadata", "What the device serves.", CONTENT_JSON, "server-metadata", ("metadata-server",)
    ),
    "modelMetadata": Message(
        "Model metadata",
        "Readiness, tensors and limits of a model.",
        CONTENT_JSON,
        "model-metadata",
        ("metadata-model", "metadata-model-waiting", "metadata-model-detection"),
    ),
    "requestJson": Message(
        "Request as JSON",
        "Tensors as JSON.",
        CONTENT_JSON,
        "inference-request",
        ("inference-request", "inference-request-311", "inference-request-detections"),
    ),
    "requestBinary": Message(
        "Binary request",
        _LENGTH,
        CONTENT_BINARY,
        "inference-request",
        ("inference-request-header",),
        binary=True,
        header_length=True,
    ),
    "requestSelfContained": Message(
        "Self-contained binary request",
        _MAGIC,
        CONTENT_BINARY,
        "inference-request",
        ("inference-request-header",),
        binary=True,
    ),
    "requestJpeg": Message("JPEG picture", _PICTURE, "image/jpeg"),
    "requestPng": Message("PNG picture", _PICTURE, "image/png"),
    "resultJson": Message(
        "Result as JSON",
        "Tensors as JSON.",
        CONTENT_JSON,
        "inference-result",
        ("inference-result", "inference-result-detections"),
    ),
    "resultBinary": Message(
        "Binary result",
        _LENGTH,
        CONTENT_BINARY,
        "inference-result",
        ("inference-result-header",),
        binary=True,
        header_length=True,
    ),
    "resultSelfContained": Message(
        "Self-contained binary result",
        f"{_MAGIC} The result of a request of this form.",
        CONTENT_BINARY,
        "inference-result",
        ("inference-result-header",),
        binary=True,
    ),
    "error": Message(
        "Error",
        "Why a request was refused or failed.",
        CONTENT_JSON,
        "error",
        ("inference-error", "inference-error-unknown"),
    ),
}
REQUESTS = tuple(name for name in MESSAGES if name.startswith("request"))
RESULTS = (*(name for name in MESSAGES if name.startswith("result")), "error")


class Channel(NamedTuple):
    """One topic."""

    address: str | None
    """None: the request says it."""
    messages: tuple[str, ...]
    description: str


_TOPICS = Topics(DEFAULT_PREFIX)
_DEVICE, _MODEL = "{device}", "{model}"
CHANNELS: dict[str, Channel] = {
    **{
        kind: Channel(_TOPICS.device(_DEVICE, topic), (kind,), description)
        for kind, topic, description in (
            ("presence", "presence", "Retained; also the will of the agent's session."),
            ("desired", "desired", "Retained."),
            ("notice", "notice", "Not retained."),
            ("reported", "reported", "Retained."),
            ("event", "events", "In order, kept on the device's disk until the broker has them."),
            ("health", "health", "Periodic."),
        )
    },
    "infer": Channel(_TOPICS.infer(_DEVICE, _MODEL), REQUESTS, "Requests to one device."),
    "inferPool": Channel(
        _TOPICS.pool(_MODEL), REQUESTS, "Requests to any agent of a pool: agents subscribe to it as `$share/{pool}/…`."
    ),
    "results": Channel(
        _TOPICS.results(_DEVICE, _MODEL), RESULTS, "Results of requests without a response topic, and recorded ones."
    ),
    "metadataServer": Channel(_TOPICS.metadata(_DEVICE), ("metadataRequest",), "Asks what a device serves."),
    "metadataModel": Channel(_TOPICS.metadata(_DEVICE, _MODEL), ("metadataRequest",), "Asks for a model on a device."),
    "metadataPool": Channel(
        _TOPICS.pool_metadata(_MODEL), ("metadataRequest",), "Asks all agents that take part in a pool with the model."
    ),
    "reply": Channel(
        None,
        (*RESULTS, "serverMetadata", "modelMetadata"),
        "The topic that a request names: its response topic (MQTT 5), or `parameters.response_topic` in its payload.",
    ),
}
PARAMETERS = {
    "device": "Name of a device: 1 to 64 of `a-z 0-9 . _ -`, starting and ending with a letter or digit.",
    "model": "Name of a model, formed as a device's.",
}


class Operation(NamedTuple):
    """What an agent does on a channel."""

    receives: bool
    channel: str
    summary: str
    retain: bool = False
    reply: tuple[str, ...] = ()
    """What is sent to the channel `reply`."""


OPERATIONS: dict[str, Operation] = {
    "sendPresence": Operation(False, "presence", "Says that it is there; the broker says that it is not.", retain=True),
    "receiveDesired": Operation(True, "desired", "Gets what it should serve from the registry.", retain=True),
    "receiveNotice": Operation(True, "notice", "Is asked for something by the registry."),
    "sendReported": Operation(False, "reported", "Says what it serves.", retain=True),
    "sendEvent": Operation(False, "event", "Tells of a step of a deployment."),
    "sendHealth": Operation(False, "health", "Sends its measures."),
    "infer": Operation(True, "infer", "Runs a request.", reply=RESULTS),
    "inferPool": Operation(True, "inferPool", "Runs a request that the broker gave to this agent.", reply=RESULTS),
    "sendResult": Operation(False, "results", "Publishes a result that has no response topic, or is recorded."),
    "serverMetadata": Operation(True, "metadataServer", "Says what it serves.", reply=("serverMetadata", "error")),
    "modelMetadata": Operation(True, "metadataModel", "Describes a model.", reply=("modelMetadata", "error")),
    "poolMetadata": Operation(True, "metadataPool", "Describes a model it is assigned.", reply=("modelMetadata",)),
}
DESCRIPTION = """\
Control and inference of a Modelfleet device over MQTT 5 or 3.1.1. Operations are an agent's: what it receives, a client
or the registry sends. `modelfleet/v1` is the default of the prefix, which registry, agents and clients are configured
with. docs/inference.md describes requests, docs/wire.md the documents, docs/codes.md the codes. Readers pass over
members that they do not know. A member at its default is left out.
"""


def schema(name: str) -> dict[str, Any]:
    """docs/schemas/NAME.json."""
    found = _draft_7(SCHEMAS[name].model_json_schema())
    if name == "error":
        found["properties"]["code"]["examples"] = [str(code) for code in InferenceCode]
    return {"$schema": DRAFT, **found}


def _draft_7(value: Any) -> Any:
    """pydantic writes draft 2020-12, which says of a tuple in another way what its items are, and keeps what stands
    beside a `$ref`."""
    if isinstance(value, list):
        return [_draft_7(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _draft_7(item) for key, item in value.items()}
    if "prefixItems" in found:
        found["items"] = found.pop("prefixItems")
    if "$ref" in found and len(found) > 1:
        found["allOf"] = [{"$ref": found.pop("$ref")}]
    return found


def document() -> dict[str, Any]:
    """docs/asyncapi.json."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Modelfleet over MQTT",
            "version": "1.0.0",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_JSON,
        "channels": {name: _channel(channel) for name, channel in CHANNELS.items()},
        "operations": {name: _operation(operation) for name, operation in OPERATIONS.items()},
        "components": {"messages": {name: _message(name, message) for name, message in MESSAGES.items()}},
    }


def _channel(channel: Channel) -> dict[str, Any]:
    names = [name for name in PARAMETERS if f"{{{name}}}" in (channel.address or "")]
    return {
        "address": channel.address,
        "description": channel.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
        **({"parameters": {name: {"description": PARAMETERS[name]} for name in names}} if names else {}),
    }


def _operation(operation: Operation) -> dict[str, Any]:
    channel = operation.channel
    found: dict[str, Any] = {
        "action": "receive" if operation.receives else "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": operation.summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in CHANNELS[channel].messages],
        "bindings": {"mqtt": {"qos": 1, "retain": operation.retain, "bindingVersion": "0.2.0"}},
    }
    if operation.reply:
        found["reply"] = {
            "address": {
                "location": "$message.header#/responseTopic",
                "description": "Where it is absent: `parameters.response_topic` of the payload.",
            },
            "channel": {"$ref": "#/channels/reply"},
            "messages": [{"$ref": f"#/channels/reply/messages/{name}"} for name in operation.reply],
        }
    return found


def _message(name: str, message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "title": message.title,
        "summary": message.summary,
        "contentType": message.content_type,
    }
    reference = {"$ref": f"./schemas/{message.schema}.json"}
    if message.schema and not message.binary:
        found["payload"] = {"schemaFormat": SCHEMA_FORMAT, "schema": reference}
        found["examples"] = [{"name": each, "payload": golden(each)} for each in message.examples]
    else:
        found["payload"] = {"type": "string", "format": "binary"}
    if message.binary:
        found["x-header"] = {"schemaFormat": SCHEMA_FORMAT, "schema": reference}
        found["x-header-examples"] = [golden(each) for each in message.examples]
    if name not in ("presence", "desired", "notice", "reported", "event", "health"):
        found["headers"] = _headers(message, reply=name in CHANNELS["reply"].messages)
        found["correlationId"] = {"location": "$message.header#/correlationData"}
    return found


def _headers(message: Message, *, reply: bool) -> dict[str, Any]:
    """MQTT 5 properties of requests and their answers."""
    properties: dict[str, Any] = {
        "correlationData": {"type": "string", "format": "binary", "description": "Returned with the answer."},
        "contentType": {"type": "string", "const": message.content_type},
    }
    if not reply:
        properties["responseTopic"] = {"type": "string", "description": "Where the answer goes."}
        properties["messageExpiryInterval"] = {"type": "integer", "description": "Seconds until it is not run."}
    if message.header_length:
        properties[HEADER_LENGTH_PROPERTY] = {
            "type": "string",
            "pattern": "^[0-9]{1,9}$",
            "description": "User property: bytes of the JSON header.",
        }
    required = {"required": [HEADER_LENGTH_PROPERTY]} if message.header_length else {}
    return {"type": "object", "properties": properties, **required}


def golden(name: str) -> Any:
    """An example."""
    return json.loads((GOLDEN / f"{name}.json").read_bytes())


def files() -> Mapping[str, Any]:
    """What scripts/docs writes, by path."""
    return {
        "docs/asyncapi.json": document,
        **{f"docs/schemas/{name}.json": (lambda n=name: schema(n)) for name in SCHEMAS},
    }
