"""What an entry point's signature is put around, and which hosts a signed variant fits."""

from __future__ import annotations

import base64
import json

import pytest
from pydantic import ValidationError

from registry.contracts.catalogue.entry_points import EntryCode, EntryPoint, key_id, key_text, parse_key
from registry.contracts.catalogue.manifest import FileRef, Format, Network, Target, TensorSpec, Variant
from registry.contracts.catalogue.signed_bytes import signed_bytes
from registry.contracts.codes import ResolutionCode as Code
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.fit.resolution import FitOutcome, judge
from registry.contracts.tensors import Datatype

CODE = EntryCode(module="network.py", function="create", arguments={"num_class": 10, "dropout": 0.5, "bias": True})
KEY = key_id(bytes(32))
CHECKPOINT = FileRef(path="lenet.ckpt", digest=f"sha256:{'a' * 64}", size=7)
MODULE = FileRef(path="network.py", digest=f"sha256:{'b' * 64}", size=8)
VARIANT = Variant(
    name="ckpt-cpu",
    format=Format.MINDSPORE_CKPT,
    target=Target.CPU,
    entry="lenet.ckpt",
    files=(CHECKPOINT, MODULE),
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 3)),),
    entry_point=EntryPoint(**CODE.to_json(), key=KEY, signature=base64.b64encode(bytes(64)).decode()),
)


def changed(**update: object) -> Variant:
    """The variant with other fields, checked as one that came over the wire."""
    return Variant.model_validate({**VARIANT.to_json(), **update})


def test_the_signed_bytes_of_version_1_do_not_change() -> None:
    assert signed_bytes("lenet", "1.0.0", VARIANT, CODE) == (
        b'{"arguments":{"bias":true,"dropout":0.5,"num_class":10},"entry":"lenet.ckpt",'
        b'"files":{"lenet.ckpt":"sha256:' + b"a" * 64 + b'","network.py":"sha256:' + b"b" * 64 + b'"},'
        b'"function":"create","model":"lenet","module":"network.py",'
        b'"purpose":"modelfleet-entry-point-v1","variant":"ckpt-cpu","version":"1.0.0"}'
    )


def test_the_signed_bytes_survive_the_wire() -> None:
    again = Variant.model_validate_json(VARIANT.canonical())
    assert again.entry_point is not None
    assert signed_bytes("lenet", "1", again, again.entry_point) == signed_bytes("lenet", "1", VARIANT, CODE)


def test_anything_that_decides_which_code_runs_on_what_changes_the_signed_bytes() -> None:
    other = f"sha256:{'c' * 64}"
    swapped = VARIANT.model_copy(update={"files": (CHECKPOINT, MODULE.model_copy(update={"digest": other}))})
    weights = VARIANT.model_copy(update={"files": (CHECKPOINT.model_copy(update={"digest": other}), MODULE)})
    more = VARIANT.model_copy(update={"files": (*VARIANT.files, FileRef(path="x", digest=other, size=1))})
    signed = [
        signed_bytes("lenet", "1", VARIANT, CODE),
        signed_bytes("alexnet", "1", VARIANT, CODE),
        signed_bytes("lenet", "2", VARIANT, CODE),
        *(signed_bytes("lenet", "1", variant, CODE) for variant in (swapped, weights, more)),
        signed_bytes("lenet", "1", VARIANT.model_copy(update={"name": "other"}), CODE),
        signed_bytes("lenet", "1", VARIANT.model_copy(update={"entry": "network.py"}), CODE),
        signed_bytes("lenet", "1", VARIANT, CODE.model_copy(update={"function": "other"})),
        signed_bytes("lenet", "1", VARIANT, CODE.model_copy(update={"module": "other.py"})),
        signed_bytes("lenet", "1", VARIANT, CODE.model_copy(update={"arguments": {"num_class": 11}})),
    ]
    assert len(set(signed)) == len(signed)


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"format": "mindir"}, "is for a checkpoint"),
        ({"network": Network(name="lenet5").to_json()}, "names no network"),
        ({"files": [CHECKPOINT.to_json()]}, "is not a file beside its checkpoint"),
        ({"entry": "network.py"}, "is not a file beside its checkpoint"),
        ({"files": [CHECKPOINT.to_json(), {**MODULE.to_json(), "size": (1 << 20) + 1}]}, "at most 1048576"),
        ({"outputs": []}, "inputs and outputs"),
    ],
)
def test_an_entry_point_that_cannot_be_is_refused(update: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        changed(**update)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("module", "../network.py"),
        ("module", "network.txt"),
        ("function", "os.system"),
        ("function", ""),
        ("signature", ""),
        ("signature", base64.b64encode(bytes(63)).decode()),
        ("key", "sha256:short"),
    ],
)
def test_a_signature_or_name_of_another_form_is_refused(field: str, value: str) -> None:
    document = json.loads(VARIANT.canonical())
    document["entry_point"][field] = value
    with pytest.raises(ValidationError):
        Variant.model_validate(document)


def host(*keys: str) -> Platform:
    backend = BackendFacts(
        name="mindspore", usable=True, version="2.10.0", formats=(Format.MINDSPORE_CKPT,), targets=(Target.CPU,),
        entry_points=keys,
    )  # fmt: skip
    return Platform(os="linux", arch="x86_64", backends=(backend,))


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ((), Code.ENTRY_POINT_DISABLED),
        ((key_id(b"another"),), Code.ENTRY_POINT_UNTRUSTED),
        ((key_id(b"another"), KEY), None),
    ],
)
def test_code_fits_only_hosts_that_trust_its_signer(keys: tuple[str, ...], code: Code | None) -> None:
    verdict = judge(VARIANT, host(*keys))
    assert [reason.code for reason in verdict.reasons] == ([] if code is None else [code])
    assert verdict.outcome is (FitOutcome.PASS if code is None else FitOutcome.FAIL)
    assert all("entry_points." in reason.remedy for reason in verdict.reasons)


def test_a_key_is_written_and_read_in_one_form() -> None:
    raw = bytes(range(32))
    assert parse_key(key_text(raw)) == raw


@pytest.mark.parametrize(
    "text", ["", "ed25519:", "ed25519:AAAA", key_text(bytes(31)), key_text(bytes(32))[8:], key_text(bytes(32)) + " x"]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a public key"):
        parse_key(text)
