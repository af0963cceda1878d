"""Documents and metadata with one thing changed: none is accepted, none ends in anything but a refusal.

Half of them are signed again with a key that is valid for something else: another role or device, an older place.
A change that leaves what is signed as it was (white space, one more signature) may be accepted as the same.
`--mutations N` for more.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata

from agent.adapters.disk.damage import Damage
from agent.adapters.trust.metadata import TrustedMetadata
from agent.adapters.trust.store import MetadataStore
from agent.errors import AgentError
from registry.contracts.device.messages import Desired
from registry.contracts.wire import canonical_json, digest_of
from registry.trust.documents import with_signatures
from registry.trust.faults import TrustRefusedError
from registry.trust.roots import TrustAnchors
from tests.fakes.host import desired
from tests.security.device_metadata import DEVICE, FIRST, SECOND
from tests.support.signed_metadata import NOW, MemoryDirector, MemoryImageRepository, new_signer

pytestmark = pytest.mark.timeout(1800)  # for many; the usual number takes seconds
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1 << 70, 1e308, [], {}, [[]], {"": {}}),
    *("", "a" * 70_000, "\ud800", "2099-01-01T00:00:00Z"),
)


def changed_json(value: Any, chance: random.Random) -> Any:
    """The same with one thing in it changed, dropped, doubled or added, somewhere."""
    value = deepcopy(value)
    spots: list[tuple[Any, Any]] = []

    def collect(inner: Any) -> None:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        for key in keys:
            spots.append((inner, key))
            collect(inner[key])

    collect(value)
    holder, key = chance.choice(spots)
    how = chance.randrange(5)
    if how == 0:
        del holder[key]
    elif how == 1:
        holder[key] = chance.choice(ODD)
    elif how == 2 and isinstance(holder[key], int):
        holder[key] += chance.choice((-1, 1, 1 << 31))
    elif how == 3 and isinstance(holder, dict):
        holder[chance.choice(("x", "signatures", "keyid", "_type", "version"))] = chance.choice(ODD)
    elif isinstance(holder[key], str) and holder[key]:
        at = chance.randrange(len(holder[key]))
        holder[key] = holder[key][:at] + chance.choice("0f/*é") + holder[key][at + 1 :]
    else:
        holder[key] = chance.choice(ODD)
    return value


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """The same with some bytes flipped, cut, put in or doubled."""
    at, span = chance.randrange(len(data)), chance.randrange(1, 20)
    return chance.choice(
        (
            data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :],
            data[:at],
            data[:at] + data[at + span :],
            data[:at] + chance.randbytes(span) + data[at:],
            data + data,
            b"[" * (1 << chance.randrange(4, 17)) + data,
        )
    )


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--mutations")) // 2


def test_no_changed_document_is_accepted(tmp_path: Path, count: int) -> None:
    image, director, alien = MemoryImageRepository(), MemoryDirector(), MemoryDirector()
    anchors = TrustAnchors(image.roots[0], director.roots[0])
    trusted = TrustedMetadata(DEVICE, anchors, MetadataStore(tmp_path / "trust", Damage()), None, now=lambda: NOW)
    document = Desired.model_validate_json(desired(7, lenet="1.0.0")).model_copy(update={"epoch": "e"})
    body = director.sign(document)
    place = trusted.document(body, None).place
    wrong: list[Signer] = [director.root_signer, image.online, image.targets_signer, *alien.signers, new_signer()]
    chance, seen = random.Random(12), 0

    def signed_again() -> bytes:
        said = json.loads(body)
        said.pop("signatures")
        kind = chance.randrange(3)
        if kind == 0:  # anything, by a key for something else
            payload = canonical_json(changed_json(said, chance))
            signer = chance.choice(wrong)
        else:  # by the right key, for another device or from before
            said.update({"device": "edge-2"} if kind == 1 else {"generation": chance.randrange(7)})
            said["issued_at"] = f"2026-01-{chance.randrange(10, 28)}T00:00:00Z"
            payload, signer = canonical_json(said), director.signers[0]
        return with_signatures(payload, [signer.sign(payload)])

    for number in range(count):
        if number % 2:
            try:
                mutated = signed_again()
            except ValueError:  # what cannot even be written
                continue
        elif number % 4:
            mutated = changed_bytes(body, chance)
        else:
            mutated = dumped(changed_json(json.loads(body), chance))
        seen += 1
        try:
            found = trusted.document(mutated, place)
        except TrustRefusedError:
            continue
        assert not found.is_new, mutated
        assert found.place == place, mutated
        assert found.document.model_copy(update={"signatures": ()}) == trusted.document(body, None).document, mutated
    assert seen > count * 0.8


def test_no_changed_metadata_are_accepted(tmp_path: Path, count: int) -> None:
    image, director = MemoryImageRepository(), MemoryDirector()
    image.publishers["resnet"] = ([new_signer()], 1)
    image.add("resnet", "1", SECOND)
    image.add("lenet", "1.0.0", FIRST)
    anchors = TrustAnchors(image.roots[0], director.roots[0])
    first = image.by_name()
    image.new_root()
    image.add("lenet", "1.1.0", SECOND)
    second, versions = image.by_name(), dict(image.versions)
    keys = {
        "root": image.root_signers[0],
        "timestamp": image.online,
        "snapshot": image.online,
        "targets": image.targets_signer,
        "model-lenet": image.online,
        "publisher": image.publishers["resnet"][0][0],
        "director": director.signers[0],
    }
    names = {"timestamp": "timestamp.json", "root": "2.root.json"}
    names |= {role: f"{versions[role]}.{role}.json" for role in ("snapshot", "targets", "model-lenet")}
    served = dict(first)
    chance = random.Random(34)
    store = MetadataStore(tmp_path / "trust", Damage())

    def device() -> TrustedMetadata:
        def fetch(repository: str, name: str, _limit: int) -> bytes | None:
            return served.get(name) if repository == "image" else None

        return TrustedMetadata(DEVICE, anchors, store, fetch, now=lambda: NOW)

    def installs(trusted: TrustedMetadata, version: str, manifest: bytes) -> None:
        trusted.require_listed("lenet", version, digest_of(manifest), len(manifest))

    installs(device(), "1.0.0", FIRST)
    before = store.read("image")

    def signed_again(role: str) -> bytes:
        said = json.loads(second[names[role]])
        said["signed"] = changed_json(said["signed"], chance)
        metadata: Metadata[Any] = Metadata.from_bytes(dumped(said))
        right = keys[role]
        metadata.sign(chance.choice([key for key in keys.values() if key is not right]), append=False)
        return metadata.to_bytes()

    makers: tuple[Callable[[str], bytes], ...] = (
        lambda role: changed_bytes(second[names[role]], chance),
        lambda role: dumped(changed_json(json.loads(second[names[role]]), chance)),
        signed_again,
        signed_again,
    )
    refused = 0
    for number in range(count):
        role = chance.choice(list(names))
        try:
            mutated = makers[number % 4](role)
        except Exception:  # noqa: BLE001 - python-tuf cannot even write it
            continue
        served.clear()
        served.update({**second, names[role]: mutated})
        try:
            installs(device(), "1.1.0", SECOND)
        except AgentError:
            refused += 1
            assert store.read("image") == before, (role, mutated)
            continue
        kept = store.read("image")
        accepted = kept.roots[0] if role == "root" else kept.files[role]
        same = Metadata.from_bytes(accepted).signed == Metadata.from_bytes(second[names[role]]).signed
        assert same, (role, mutated)
        store.write("image", before)
    assert refused > count / 2
    served.clear()
    served.update(second)
    installs(device(), "1.1.0", SECOND)
