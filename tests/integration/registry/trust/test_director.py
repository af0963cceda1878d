"""Desired documents are signed when they are asked for, the same bytes for everybody, and a restored registry's are
later than all that devices know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from registry.contracts.device.messages import DesiredModel, Reported
from registry.contracts.wire import digest_of
from registry.core.intake import checked
from registry.db.engine import Database
from registry.services.fleet.desired import NEWEST, DesiredDocuments, Document, Publication, find_device, set_desired
from registry.services.fleet.devices import Devices
from registry.services.fleet.epochs import epoch_of, registry_state, renew_epoch
from registry.services.telemetry import Telemetry
from registry.services.trust.trust import Trust
from registry.trust.documents import DocumentOrder, DocumentPlace, SignedDesired, verified_document
from registry.trust.roots import read_root
from tests.integration.registry.trust.signing import DAY, HOUR, START
from tests.support.host.postgres import Databases


class SigningFleet:
    """A process of a registry with devices, and a clock of our own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.now = START
        self.database = Database(url)
        self.trust = Trust(self.database, folder, lambda: self.now)
        self.trust.start()
        self.documents = DesiredDocuments(self.database, self.trust.director)
        self.publication = Publication(self.database, self.trust.director)
        self.devices = Devices(self.database)
        self.telemetry = Telemetry(self.database)
        with self.database.write() as session:
            registry_state(session, self.now)

    def asked(self, device: str = "d1") -> Document:
        return self.documents.remembered(device) or self.documents.load(device)

    def verified(self, document: Document, device: str = "d1") -> SignedDesired:
        anchors = self.trust.anchors()
        assert anchors is not None
        return verified_document(read_root(anchors.director), document.body, device)

    def deploy(self, version: str) -> None:
        wanted = DesiredModel(version=version, manifest=digest_of(version.encode()))
        with self.database.write() as session:
            set_desired(session, find_device(session, "d1"), "lenet", wanted, "me", now=self.now)


@dataclass
class Two:
    """Two processes of one registry."""

    one: SigningFleet
    other: SigningFleet


@pytest.fixture
def fleet(tmp_path: Path, databases: Databases) -> Iterator[SigningFleet]:
    made = SigningFleet(databases.migrated(tmp_path), tmp_path / "keys")
    made.devices.put("d1", {}, START)
    yield made
    made.database.close()


@pytest.fixture
def two(tmp_path: Path, databases: Databases) -> Iterator[Two]:
    url = databases.migrated(tmp_path)
    both = Two(SigningFleet(url, tmp_path / "keys"), SigningFleet(url, tmp_path / "keys"))
    both.one.devices.put("d1", {}, START)
    yield both
    both.one.database.close()
    both.other.database.close()


def test_a_device_gets_its_document_signed_and_the_digest_is_of_the_signed_bytes(fleet: SigningFleet) -> None:
    fleet.deploy("1.0.0")
    found = fleet.asked()
    assert found.digest == digest_of(found.body)
    signed = fleet.verified(found).document
    assert signed.models["lenet"].version == "1.0.0"
    assert signed.expires is not None
    assert START + timedelta(days=3) < signed.expires <= START + timedelta(days=7)


def test_http_and_the_broker_carry_the_same_bytes_from_whichever_process(two: Two) -> None:
    two.one.deploy("1.0.0")
    two.other.now += HOUR
    (published,) = two.other.publication.pending(NEWEST, 10)
    assert published.document == two.one.asked().body == two.other.asked().body


def test_an_unchanged_document_is_answered_from_memory_until_half_of_its_time(fleet: SigningFleet) -> None:
    first = fleet.asked()
    assert fleet.documents.remembered("d1") is first
    fleet.now += 4 * DAY
    assert fleet.documents.remembered("d1") is None
    again = fleet.asked()
    assert again.body != first.body
    assert fleet.verified(first).place.judge(fleet.verified(again).place) is DocumentOrder.SAME


def test_a_change_is_newer_than_what_was_signed_before(fleet: SigningFleet) -> None:
    places: list[DocumentPlace] = []
    for version in ("1", "2", "1"):
        fleet.deploy(version)
        places.append(fleet.verified(fleet.asked()).place)
    assert [before.judge(after) for before, after in pairwise(places)] == [DocumentOrder.NEWER] * 2


def test_what_the_broker_keeps_is_published_again_for_its_signature_and_no_more_often(fleet: SigningFleet) -> None:
    (first,) = fleet.publication.pending(NEWEST, 10)
    fleet.publication.acknowledged([first])
    assert fleet.publication.renew(fleet.now) == 0
    fleet.now += 4 * DAY
    assert fleet.publication.renew(fleet.now) == 1
    (again,) = fleet.publication.pending(NEWEST, 10)
    assert again.generation == first.generation
    assert again.until is not None
    assert first.until is not None
    assert again.until > first.until
    fleet.publication.acknowledged([again])
    assert fleet.publication.pending(NEWEST, 10) == []


def test_a_document_that_changes_while_it_is_published_stays_to_be_published(fleet: SigningFleet) -> None:
    waiting = fleet.publication.pending(NEWEST, 10)
    fleet.deploy("1.0.0")
    fleet.publication.acknowledged(waiting)
    (left,) = fleet.publication.pending(NEWEST, 10)
    assert left.generation > waiting[0].generation


def test_without_the_directors_key_the_document_goes_out_unsigned_as_before(fleet: SigningFleet) -> None:
    (key,) = [file for file in fleet.trust.keys.folder.iterdir() if file.name.rpartition("-")[0] == "director"]
    kept = key.read_bytes()
    key.unlink()
    found = fleet.asked()
    assert b"signatures" not in found.body
    assert fleet.trust.director.problem
    key.write_bytes(kept)
    fleet.now += timedelta(minutes=2)
    assert fleet.verified(fleet.asked())
    assert not fleet.trust.director.problem


def test_a_new_epoch_begins_after_the_last_one_whatever_the_clock_says(fleet: SigningFleet) -> None:
    before = fleet.verified(fleet.asked()).place
    fleet.now -= 30 * DAY
    with fleet.database.write() as session:
        renew_epoch(session, fleet.now, "a test")
    assert before.judge(fleet.verified(fleet.asked()).place) is DocumentOrder.NEWER


def reported(epoch: str, began: datetime, at: datetime) -> Reported:
    facts = digest_of(b"facts")
    return Reported(
        device="d1", session_id="s", generation=5, epoch=epoch, epoch_began=began, at=at, facts_digest=facts
    )


def test_a_restored_registry_is_obeyed_by_devices_that_know_a_later_epoch(fleet: SigningFleet) -> None:
    """It was put back from a backup of before the epoch that its devices follow, and nobody told it."""
    later = START + 2 * HOUR
    fleet.now = START + 3 * HOUR
    known = DocumentPlace(later, 1 << 40, digest_of(b"what they know"))
    fleet.telemetry.take([checked("d1", reported("e-later", later, fleet.now), fleet.now)])
    assert known.judge(fleet.verified(fleet.asked()).place) is DocumentOrder.NEWER


def test_a_device_cannot_drive_the_epoch_more_than_a_day_ahead(fleet: SigningFleet) -> None:
    with fleet.database.read() as session:
        before = epoch_of(session)
    fleet.telemetry.take([checked("d1", reported("e", START + 9000 * DAY, fleet.now), fleet.now)])
    place = fleet.verified(fleet.asked()).place
    assert place.epoch_began <= fleet.now + DAY + timedelta(seconds=1)
    with fleet.database.read() as session:
        assert epoch_of(session) != before


def test_a_device_that_follows_an_earlier_epoch_begins_no_new_one(fleet: SigningFleet) -> None:
    with fleet.database.read() as session:
        before = epoch_of(session)
    fleet.telemetry.take([checked("d1", reported("e-earlier", START - DAY, fleet.now), fleet.now)])
    with fleet.database.read() as session:
        assert epoch_of(session) == before
