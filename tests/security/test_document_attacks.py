"""Whoever may write a device's topics, or answers in the registry's place, changes nothing of what the device follows:
a forged, replayed, stale or alien document is counted, reported and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from agent.core.events import Connected, ControlMessage, Tick
from registry.contracts.device.messages import MAX_GENERATION, Desired, TrustState
from registry.contracts.topics import Topics
from tests.fakes.host import DEVICE, START, Host, desired
from tests.security.device_metadata import DAY, DeviceMetadata
from tests.support.signed_metadata import NOW, MemoryDirector

LATER = NOW + DAY


@dataclass
class Fleet:
    """A device and who may write to it."""

    metadata: DeviceMetadata
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        self.host = Host(metadata=self.metadata.trusted, set_by=NOW - START)
        self.host.tell(Connected(False))

    def signed(self, generation: int, version: str, *, epoch_began: datetime = NOW, **about: object) -> bytes:
        """What the registry says."""
        document = Desired.model_validate_json(desired(generation, lenet=version))
        document = document.model_copy(update={"epoch": f"began {epoch_began}", **about})
        return self.metadata.director.sign(document, epoch_began)

    def broker(self, document: bytes) -> Fleet:
        """Somebody writes the retained message."""
        self.host.tell(ControlMessage(Topics().device(DEVICE, "desired"), document)).commit()
        return self

    def registry(self, document: bytes) -> Fleet:
        """Somebody answers in the registry's place."""
        self.host.uplink.document = document
        self.host.elapsed += 60
        self.host.context.ask = True
        self.host.commit()
        return self

    def refused(self) -> dict[str, int]:
        """By cause, as the last report says."""
        self.host.context.changed = True
        self.host.settle()
        trust = self.host.reports[-1].trust
        assert trust is not None
        return dict(trust.refused)

    def restart(self) -> Fleet:
        """The agent starts again, over the same journal and disk."""
        self.host.metadata = self.metadata.restart()
        self.host.cut_power().tell(Connected(False)).commit()
        return self


@pytest.fixture
def fleet(device: DeviceMetadata) -> Fleet:
    made = Fleet(device)
    made.broker(made.signed(5, "1.0.0"))
    assert made.host.serves() == "1.0.0"
    return made


Send = Callable[[Fleet, bytes], Fleet]
BOTH = pytest.mark.parametrize("send", [Fleet.broker, Fleet.registry], ids=["broker", "registry"])


@BOTH
@pytest.mark.parametrize(
    ("cause", "forge"),
    [
        ("unsigned", lambda fleet: desired(MAX_GENERATION, lenet="6.6.6")),
        ("signature", lambda fleet: MemoryDirector().sign(Desired.model_validate_json(desired(9, lenet="6.6.6")))),
        ("signature", lambda fleet: fleet.signed(6, "1.1.0").replace(b"1.1.0", b"6.6.6")),
        (
            "signature",
            lambda fleet: fleet.signed(6, "6.6.6").replace(b'generation":6', b'generation":9007199254740992'),
        ),
        ("device", lambda fleet: fleet.signed(6, "6.6.6", device="edge-2")),
        ("rollback", lambda fleet: fleet.signed(4, "6.6.6")),
        ("rollback", lambda fleet: fleet.signed(900, "6.6.6", epoch_began=NOW - DAY)),
        ("conflict", lambda fleet: fleet.signed(5, "6.6.6")),
        ("form", lambda fleet: b'{"signatures": 3}'),
        ("form", lambda fleet: b"[" * 100_000),
    ],
    ids=["unsigned", "stranger", "changed", "generation", "alien", "replayed", "old epoch", "conflict", "form", "deep"],
)
def test_a_document_that_is_not_to_be_believed_changes_nothing(
    fleet: Fleet, send: Send, cause: str, forge: Callable[[Fleet], bytes]
) -> None:
    send(fleet, forge(fleet))
    for _ in range(2):
        assert fleet.host.serves() == "1.0.0"
        assert fleet.host.reports[-1].generation == 5
        fleet.broker(fleet.signed(5, "1.0.0"))
    assert fleet.refused().get(cause, 0) >= 1
    fleet.restart()
    assert fleet.host.serves() == "1.0.0"
    fleet.broker(fleet.signed(6, "1.1.0"))  # the registry is obeyed as before
    assert fleet.host.serves() == "1.1.0"
    assert fleet.host.reports[-1].generation == 6


def test_a_flood_of_forged_documents_makes_few_events_and_few_reports(fleet: Fleet) -> None:
    events, reports, asked = len(fleet.host.data_path.events), len(fleet.host.reports), len(fleet.host.uplink.asked)
    refreshed = len(fleet.metadata.server.asked)
    for number in range(300):
        forged = desired(1000 + number, lenet="6.6.6")
        fleet.host.tell(ControlMessage(Topics().device(DEVICE, "desired"), forged)).settle()
    assert len(fleet.host.data_path.events) - events <= 2
    assert len(fleet.host.reports) - reports <= 2
    assert len(fleet.host.uplink.asked) - asked <= 2
    assert len(fleet.metadata.server.asked) - refreshed <= 8
    assert fleet.refused() == {"unsigned": 300}


def test_a_registry_that_was_restored_is_obeyed_from_the_broker(fleet: Fleet) -> None:
    """Its epoch is later, its generations are lower, and nobody touches the device."""
    fleet.broker(fleet.signed(2, "1.1.0", epoch_began=LATER))
    assert fleet.host.serves() == "1.1.0"
    assert fleet.host.reports[-1].epoch_began == LATER
    fleet.broker(fleet.signed(5, "1.0.0"))  # what the registry said before
    assert fleet.host.serves() == "1.1.0"
    assert fleet.refused() == {"rollback": 1}


def test_the_order_survives_a_journal_that_lost_the_document(fleet: Fleet) -> None:
    fleet.broker(fleet.signed(6, "1.1.0"))
    fleet.host.journal.facts["desired"] = fleet.signed(5, "1.0.0")
    fleet.restart()
    fleet.broker(fleet.signed(5, "1.0.0"))
    assert fleet.refused() == {"rollback": 1}
    fleet.broker(fleet.signed(6, "1.1.0"))
    assert fleet.host.serves() == "1.1.0"


def test_an_unsigned_document_of_before_is_not_followed_once_signatures_are_checked(device: DeviceMetadata) -> None:
    host = Host(set_by=NOW - START).tell(Connected(False))
    host.context.offer(desired(40, lenet="1.0.0"))
    host.commit()
    assert host.reports[-1].trust is not None
    assert host.reports[-1].trust.state is TrustState.UNSIGNED
    host.metadata = device.trusted
    host.cut_power().tell(Connected(False)).commit()
    assert host.serves() == "1.0.0"  # goes on
    assert host.reports[-1].generation == 0
    fleet = Fleet(device)
    fleet.host = host
    fleet.broker(fleet.signed(1, "1.1.0"))
    assert host.serves() == "1.1.0"


def test_a_document_that_has_expired_stops_installs_and_never_what_serves(fleet: Fleet) -> None:
    fleet.metadata.now += 10 * DAY
    fleet.host.set_by += 10 * DAY
    fleet.host.commit()
    trust = fleet.host.reports[-1].trust
    assert trust is not None
    assert trust.state is TrustState.STALE
    assert trust.stale_since is not None
    fleet.host.uplink.document = None
    fleet.broker(fleet.signed(6, "1.1.0"))  # signed when the other one was, and just as old
    assert fleet.host.serves() == "1.0.0"
    assert fleet.host.progress().code == "metadata_stale"
    fleet.restart()
    assert fleet.host.serves() == "1.0.0"
    fleet.metadata.image.now = fleet.metadata.director.now = fleet.metadata.now
    fleet.metadata.image.publish()
    fleet.metadata.serve()
    fleet.broker(fleet.signed(6, "1.1.0"))  # the same order, signed again
    fleet.host.wait(700).commit()
    assert fleet.host.serves() == "1.1.0"
    trust = fleet.host.reports[-1].trust
    assert trust is not None
    assert (trust.state, trust.stale_since) == (TrustState.SIGNED, None)


def test_a_director_with_a_new_key_is_believed_once_its_root_is_there(fleet: Fleet) -> None:
    director = fleet.metadata.director
    director.signers = MemoryDirector().signers
    director.new_root()
    fleet.metadata.serve()
    fleet.host.uplink.document = fleet.signed(6, "1.1.0")
    fleet.broker(fleet.host.uplink.document)
    assert fleet.refused() == {"signature": 1}
    assert fleet.host.serves() == "1.1.0"  # by its own question
    trust = fleet.host.reports[-1].trust
    assert trust is not None
    assert trust.director_root == 2


def test_fewer_signatures_than_the_directors_threshold_are_refused(device: DeviceMetadata) -> None:
    device.director.signers = [*device.director.signers, *MemoryDirector().signers]
    device.director.threshold = 2
    device.director.new_root()
    device.serve()
    device.trusted.refresh()
    fleet = Fleet(device)
    document = Desired.model_validate_json(desired(1, lenet="1.0.0"))
    fleet.broker(device.director.sign(document, signers=1))
    assert fleet.host.serves() is None
    assert fleet.refused() == {"signature": 1}
    fleet.broker(device.director.sign(document))
    assert fleet.host.serves() == "1.0.0"


def test_a_wrong_clock_holds_installs_up_until_it_is_right(device: DeviceMetadata) -> None:
    device.trusted.refresh()
    fleet = Fleet(device)
    fleet.host.set_by -= timedelta(days=20_000)
    fleet.broker(fleet.signed(1, "1.0.0"))
    assert fleet.host.serves() is None
    trust = fleet.host.reports[-1].trust
    assert trust is not None
    assert "set the clock" in trust.why
    fleet.host.set_by += timedelta(days=20_000)
    fleet.host.wait(60).commit()
    assert fleet.host.serves() == "1.0.0"


def test_polls_go_on_while_documents_are_refused(fleet: Fleet) -> None:
    fleet.registry(desired(9, lenet="6.6.6"))
    fault = fleet.host.reports[-1].fault
    assert fault is not None
    assert "refused (unsigned)" in fault.message
    asked = len(fleet.host.uplink.asked)
    fleet.host.uplink.document = fleet.signed(6, "1.1.0")
    for _ in range(11):
        fleet.host.tell(Tick("poll")).settle()
    assert len(fleet.host.uplink.asked) > asked
    assert fleet.host.commit().serves() == "1.1.0"
    assert fleet.host.reports[-1].fault is None
