"""The wire does not change by accident: what version 1 wrote still parses, and is written the same.

A golden file is never edited. A new field gets a new golden file; the old ones must go on parsing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from registry.contracts.catalogue.manifest import Format, Manifest, Target
from registry.contracts.device.deployments import Strategy
from registry.contracts.device.messages import Desired, Event, Health, Notice, Presence, Reported
from registry.contracts.device.metadata import MetadataRequest, ModelMetadata, ServerMetadata
from registry.contracts.enums import OLDER_READER
from registry.contracts.fit.platforms import Platform
from registry.contracts.inference import ErrorBody, RequestBody, ResultBody
from registry.contracts.wire import Wire, digest_of

GOLDEN = Path(__file__).parent / "golden" / "v1"
KINDS: dict[str, type[Wire]] = {
    "presence": Presence,
    "presence-will": Presence,
    "desired": Desired,
    "reported": Reported,
    "reported-fault": Reported,
    "reported-heard": Reported,
    "reported-epoch": Reported,
    "reported-epoch-began": Reported,
    "reported-trust": Reported,
    "reported-rollout": Reported,
    "health-rollout": Health,
    "desired-epoch": Desired,
    "desired-signed": Desired,
    "notice": Notice,
    "event": Event,
    "health": Health,
    "health-not-finite": Health,
    "health-damaged": Health,
    "health-unwritten": Health,
    "health-subscriptions": Health,
    "health-broker-fault": Health,
    "health-counts": Health,
    "health-durations": Health,
    "health-certificates": Health,
    "manifest": Manifest,
    "manifest-builds": Manifest,
    "manifest-extended": Manifest,
    "manifest-golden-of": Manifest,
    "manifest-golden-compared": Manifest,
    "manifest-entry-point": Manifest,
    "manifest-batching": Manifest,
    "manifest-open-shapes": Manifest,
    "manifest-imported": Manifest,
    "manifest-detection": Manifest,
    "desired-batching": Desired,
    "reported-batching": Reported,
    "health-batching": Health,
    "desired-jobs": Desired,
    "desired-named-dataset": Desired,
    "reported-jobs": Reported,
    "reported-specials": Reported,
    "platform": Platform,
    "platform-facts": Platform,
    "platform-networks": Platform,
    "platform-unknown": Platform,
    "platform-limits": Platform,
    "metadata-request": MetadataRequest,
    "metadata-server": ServerMetadata,
    "metadata-model": ModelMetadata,
    "metadata-model-detection": ModelMetadata,
    "metadata-model-waiting": ModelMetadata,
    "inference-request": RequestBody,
    "inference-request-311": RequestBody,
    "inference-request-header": RequestBody,
    "inference-result": ResultBody,
    "inference-result-header": ResultBody,
    "inference-request-detections": RequestBody,
    "inference-result-detections": ResultBody,
    "inference-error": ErrorBody,
    "inference-error-unknown": ErrorBody,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_golden_document_parses_and_is_written_as_it_was(name: str) -> None:
    raw = (GOLDEN / f"{name}.json").read_bytes().strip()
    assert KINDS[name].model_validate_json(raw).canonical() == raw


@pytest.mark.parametrize("name", KINDS)
def test_unknown_fields_survive_a_round_trip(name: str) -> None:
    document = json.loads((GOLDEN / f"{name}.json").read_bytes())
    document["from_the_future"] = {"a": [1, 2]}
    again = json.loads(KINDS[name].model_validate(document).canonical())
    assert again["from_the_future"] == {"a": [1, 2]}


def test_the_digest_of_a_manifest_is_the_digest_of_its_bytes() -> None:
    raw = (GOLDEN / "manifest.json").read_bytes().strip()
    manifest = Manifest.model_validate_json(raw)
    assert manifest.canonical_digest() == digest_of(raw)
    assert digest_of(raw) == "sha256:31c614ee5fdab3b0d8751b8fc01a907d3e1513b19f5392554c3427a14e60fc18"


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../b", ".hidden", "a//b", "a\\b", "", "a/", "x" * 256, "a\n", "a\0b"]
)
def test_a_file_path_stays_inside_its_artifact(path: str) -> None:
    document = json.loads((GOLDEN / "manifest.json").read_bytes())
    document["variants"][0]["files"][0]["path"] = document["variants"][0]["entry"] = path
    with pytest.raises(ValidationError):
        Manifest.model_validate(document)


@pytest.mark.parametrize("name", ["", "A", "a/b", "a+b", "a#", "-a", "a-", "$a", "a b", "x" * 65, "a\n"])
def test_a_model_name_is_one_topic_level_and_one_url_segment(name: str) -> None:
    document = json.loads((GOLDEN / "manifest.json").read_bytes())
    with pytest.raises(ValidationError):
        Manifest.model_validate({**document, "model": name})


def test_variants_that_disagree_in_their_signature_are_refused() -> None:
    document = json.loads((GOLDEN / "manifest.json").read_bytes())
    document["variants"][1]["inputs"][0]["datatype"] = "INT8"
    with pytest.raises(ValidationError, match=r"input 1 of .* is 'x' FP32 \[.*\], of .* 'x' INT8 \["):
        Manifest.model_validate(document)
    document["variants"][1]["inputs"] = document["variants"][0]["inputs"]
    document["variants"][1]["outputs"] = [*document["variants"][0]["outputs"], document["variants"][0]["outputs"][0]]
    with pytest.raises(ValidationError, match=r"output \d of .* is not there, of .* '"):
        Manifest.model_validate(document)


def test_a_value_of_how_that_only_a_newer_reader_knows_is_refused_as_a_mistake_but_not_by_an_agent() -> None:
    document = json.loads((GOLDEN / "desired.json").read_bytes())
    model: dict[str, object] = next(iter(document["models"].values()))
    model["policy"] = {"strategy": "levitate"}
    with pytest.raises(ValidationError, match="strategy"):
        Desired.model_validate(document)
    read = Desired.model_validate(document, context=dict(OLDER_READER))
    assert {each.policy.strategy for each in read.models.values()} == {Strategy.AUTO}


def test_a_variant_that_only_a_newer_reader_knows_is_refused_at_publish_and_kept_to_the_byte_by_an_agent() -> None:
    raw = (GOLDEN / "manifest-newer.json").read_bytes().strip()
    with pytest.raises(ValidationError, match=r"(?s)format.*target"):
        Manifest.model_validate_json(raw)
    read = Manifest.model_validate_json(raw, context=dict(OLDER_READER))
    assert read.canonical() == raw
    assert [variant.format in tuple(Format) for variant in read.variants] == [True, True, False, True]
    assert [variant.target in tuple(Target) for variant in read.variants] == [True, True, True, False]


def test_a_kind_of_job_that_is_not_known_is_passed_on_as_it_was_said() -> None:
    document = json.loads((GOLDEN / "desired-jobs.json").read_bytes())
    for job in document["jobs"].values():
        job["kind"] = "prune"
    assert json.loads(Desired.model_validate(document).canonical()) == document
