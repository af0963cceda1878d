"""The desired state as this device believes it: the newest document, whoever brought it, kept byte for byte.

Within an epoch the generation only rises, also across restarts: an old retained message changes nothing. An epoch that
is not known means that the registry's database was put back from a backup, or that somebody else wrote the document:
only what the registry itself answered over HTTP is believed. A document without an epoch is of an older registry, and
judged by its generation alone.

Where this host checks signatures, only signed documents are believed, from both channels alike. Their order is that of
the time at which their epochs began, then of their generations. The place of the latest is on the disk before the
document is, and stays there whatever becomes of it: so none that is older is ever taken again.
"""

from __future__ import annotations

import contextlib
import enum
from datetime import datetime, timezone

from pydantic import ValidationError

from agent.errors import PermanentError
from agent.reconciler.ports import Journal, SignedMetadata
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import MAX_CONTROL_BYTES, Desired
from registry.contracts.enums import OLDER_READER
from registry.trust.faults import TrustRefusedError


class EpochVerdict(enum.Enum):
    """Of a document."""

    TAKE = "take"
    RESTORED = "restored"
    """Take it: the registry says that its database is another one than before."""
    KNOWN = "known"
    """It says nothing new."""
    STALE = "stale"
    """A newer one was seen."""
    ASK = "ask"
    """Not to be believed from the broker: the registry is to be asked over HTTP."""
    SIGNED_AGAIN = "signed_again"
    """It says nothing new, and its signature holds longer."""


def judge(
    known: tuple[str, int] | None, epoch: str, generation: int, *, from_registry: bool, same: bool = True
) -> EpochVerdict:
    """What becomes of a document.

    Args:
        known: Epoch and generation of the newest document that was taken; None: none was.
        epoch, generation: Of the document.
        same: Where its generation is the known one: it says the same. Another text of one generation is not to be, but
            for a database that was put back, and went on before anybody noticed.
        from_registry: The registry itself answered with it, over HTTP.
    """
    if known is None:
        return EpochVerdict.TAKE
    known_epoch, known_generation = known
    other_epoch = bool(epoch and known_epoch and epoch != known_epoch)
    if other_epoch or (generation == known_generation and not same):
        return EpochVerdict.RESTORED if from_registry else EpochVerdict.ASK
    if generation > known_generation:
        return EpochVerdict.TAKE
    return EpochVerdict.KNOWN if generation == known_generation else EpochVerdict.STALE


_KEY, _PLACE = "desired", "desired_place"


class DesiredState:
    """`current` is None until a document was seen."""

    def __init__(self, device: str, journal: Journal, metadata: SignedMetadata | None = None) -> None:
        """`metadata`: checks signatures; None: this host checks none."""
        self._device = device
        self._journal = journal
        self._metadata = metadata
        self.current: Desired | None = None
        self.unwritten: tuple[bytes, bool] | None = None
        """A document that the disk refused: to be offered again."""

    def load(self) -> None:
        """Takes up the last document from the journal."""
        data = self._journal.get(_KEY)
        if data is not None:
            with contextlib.suppress(PermanentError, TrustRefusedError):
                signed = self._metadata.document(data, None) if self._metadata is not None else None
                self.current = self._parse(data) if signed is None else signed.document

    @property
    def generation(self) -> int:
        """0 when none was ever seen."""
        return self.current.generation if self.current else 0

    @property
    def epoch(self) -> str:
        """Of the registry's database; empty when none was ever seen."""
        return self.current.epoch if self.current else ""

    @property
    def epoch_began(self) -> datetime | None:
        """Of the signed document that is followed; None where no signature is checked."""
        return self.current.epoch_began if self.current and self._metadata is not None else None

    def offer(self, data: bytes, *, from_registry: bool = False) -> EpochVerdict:
        """Takes a document that came in, if it is to be taken; `from_registry`: the registry itself answered with it.

        Raises:
            PermanentError: bad_answer, it is no desired state of this device.
            TransientError: it cannot be written down, so it is not taken.
            TrustRefusedError: where signatures are checked: its own, its device or its order is not right.
        """
        if self._metadata is not None:
            return self._offer_signed(self._metadata, data, from_registry=from_registry)
        document = self._parse(data)
        known = (self.epoch, self.generation) if self.current is not None else None
        verdict = judge(
            known, document.epoch, document.generation, from_registry=from_registry, same=document == self.current
        )
        if verdict in (EpochVerdict.TAKE, EpochVerdict.RESTORED):
            self.unwritten = (data, from_registry)
            self._journal.put(_KEY, data)
            self.unwritten = None
            self.current = document
        return verdict

    def _offer_signed(self, metadata: SignedMetadata, data: bytes, *, from_registry: bool) -> EpochVerdict:
        place = self._journal.get(_PLACE)
        checked = metadata.document(data, place)
        document, before = checked.document, self.current
        follows = before is not None and _place_of(before) == _place_of(document)
        if follows and before is not None and _expires(before) >= _expires(document):
            return EpochVerdict.KNOWN
        self.unwritten = (data, from_registry)
        if checked.place != place:
            self._journal.put(_PLACE, checked.place)
        self._journal.put(_KEY, data)
        self.unwritten = None
        self.current = document
        if follows:
            return EpochVerdict.SIGNED_AGAIN
        restored = before is not None and before.epoch != document.epoch
        return EpochVerdict.RESTORED if restored else EpochVerdict.TAKE

    def expired(self, now: datetime) -> bool:
        """Nothing new may be installed."""
        return self.current is not None and self.current.expires_at is not None and now >= self.current.expires_at

    def _parse(self, data: bytes) -> Desired:
        if len(data) > MAX_CONTROL_BYTES:
            raise PermanentError(
                DeploymentCode.BAD_ANSWER, f"the desired state is longer than {MAX_CONTROL_BYTES} bytes"
            )
        try:
            document = Desired.model_validate_json(data, context=dict(OLDER_READER))
        except ValidationError as error:
            raise PermanentError(DeploymentCode.BAD_ANSWER, f"this is no desired state: {_first(error)}") from None
        if document.device != self._device:
            raise PermanentError(
                DeploymentCode.BAD_ANSWER, f"a desired state for {document.device!r} came to {self._device!r}"
            )
        return document


def _place_of(document: Desired) -> tuple[datetime | None, int]:
    return document.epoch_began, document.generation


def _expires(document: Desired) -> datetime:
    return document.expires or datetime.min.replace(tzinfo=timezone.utc)


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
