"""docs/asyncapi.json is an AsyncAPI 3 document; its schemas are those of the messages that the programs exchange.

asyncapi/3.0.0.json is the official schema: @asyncapi/specs 6.11.1, Apache-2.0, Copyright 2016-2025 AsyncAPI Initiative
(LICENSE and NOTICE beside it).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from registry.contracts import inference, topics
from registry.inference import request
from scripts.lib.asyncapi import SCHEMAS
from tests.contracts.test_wire_golden import GOLDEN, KINDS
from tests.support.contract import Contract, Sent
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
DOCUMENT: dict[str, Any] = json.loads((DOCS / "asyncapi.json").read_text())
OFFICIAL = jsonschema.Draft7Validator(json.loads((Path(__file__).parent / "asyncapi" / "3.0.0.json").read_text()))
SCHEMA_OF = {kind: name for name, kind in SCHEMAS.items()}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def resolve(base: Any, reference: str) -> Any:
    file, _, pointer = reference.partition("#")
    found = json.loads((DOCS / file).read_text()) if file else base
    for step in filter(None, pointer.split("/")):
        found = found[step]
    return found


def test_the_document_is_what_asyncapi_3_says() -> None:
    assert [error.message for error in OFFICIAL.iter_errors(DOCUMENT)] == []


@pytest.mark.parametrize(("where", "wrong"), [("action", "ask"), ("channel", "infer"), ("reply", {"channel": 1})])
def test_a_document_that_is_not_is_found_out(where: str, wrong: object) -> None:
    broken = copy.deepcopy(DOCUMENT)
    broken["operations"]["infer"][where] = wrong
    assert list(OFFICIAL.iter_errors(broken))


def test_every_reference_leads_somewhere() -> None:
    assert all(resolve(DOCUMENT, reference) for reference in references(DOCUMENT))
    for name in SCHEMAS:
        schema = json.loads((DOCS / "schemas" / f"{name}.json").read_text())
        jsonschema.Draft7Validator.check_schema(schema)
        assert all(resolve(schema, reference) for reference in references(schema))


def test_every_topic_of_the_contracts_is_a_channel() -> None:
    rows = [line.split("`")[1] for line in (topics.__doc__ or "").splitlines() if line.startswith("| `")]
    addresses = {channel["address"] for channel in DOCUMENT["channels"].values()}
    assert {row.replace("<p>", topics.DEFAULT_PREFIX) for row in rows} | {None} == addresses


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind in SCHEMA_OF])
def test_every_golden_document_is_valid_by_its_schema(name: str) -> None:
    contract = Contract()
    assert contract.faults_of(SCHEMA_OF[KINDS[name]], (GOLDEN / f"{name}.json").read_bytes()) == []


def test_every_message_has_an_example_or_is_a_picture() -> None:
    contract, lacking = Contract(), []
    for name, message in DOCUMENT["components"]["messages"].items():
        examples = message.get("x-header-examples", [each["payload"] for each in message.get("examples", ())])
        if not examples and not message["contentType"].startswith("image/"):
            lacking.append(name)
        reference = message.get("x-header", message["payload"]).get("schema", {}).get("$ref", "")
        for example in examples:
            schema = reference.removeprefix("./schemas/").removesuffix(".json")
            assert contract.faults_of(schema, json.dumps(example).encode()) == []
    assert lacking == []


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("modelfleet/v1/devices/cam/presence", b'{"device":"cam","online":"perhaps","session_id":"s"}'),
        ("modelfleet/v1/devices/cam/presence", b'{"device":"cam","online":true}'),
        ("modelfleet/v1/devices/cam/presence", b'{"device":"cam","online":true,"session_id":"s","mood":"good"}'),
        ("modelfleet/v1/devices/cam/presence", b"{"),
        ("replies/me", b'{"error":"no code"}'),
        ("modelfleet/v1/devices/cam/infer/lenet", b'{"inputs":[{"name":"x"}]}'),
    ],
)
def test_a_message_that_breaks_the_contract_is_found_out(topic: str, payload: bytes) -> None:
    contract = Contract()
    contract.judge(Sent(topic, payload))
    assert contract.faults
    assert not contract.seen


@pytest.mark.parametrize(
    ("read", "written"),
    [
        (request.InferRequest, inference.RequestBody),
        (request.RequestParameters, inference.RequestBodyParameters),
        (request.RequestInput, inference.RequestTensor),
        (request.InputParameters, inference.RequestTensorParameters),
        (request.RequestOutput, inference.RequestedTensor),
        (request.OutputParameters, inference.RequestedTensorParameters),
    ],
)
def test_requests_have_the_members_that_the_agent_reads(read: type[msgspec.Struct], written: Any) -> None:
    refused = {"classification", "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"}
    assert set(written.model_fields) == set(read.__struct_fields__) - refused
