"""Desired documents that the director signed. No input or output.

What is signed is the canonical JSON of the whole document without `signatures`, fields included that this reader does
not know. So one body goes over HTTP and MQTT, and a reader that checks no signatures reads it as before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum, auto
from typing import Any

from pydantic import ValidationError
from securesystemslib.signer import Signature
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Root

from registry.contracts.device.messages import MAX_CONTROL_BYTES, Desired
from registry.contracts.enums import OLDER_READER
from registry.contracts.wire import Digest, Name, canonical_json, digest_of
from registry.trust.faults import TrustFault, TrustRefusedError
from registry.trust.names import DOCUMENT_LIFE, TARGETS

SIGNATURES = "signatures"
EXPIRES = "expires"
EPOCH_BEGAN = "epoch_began"
MAX_SIGNATURES = 8


@dataclass(frozen=True)
class SignedDesired:
    """A document whose signatures the director's root confirms."""

    document: Desired
    """Read from the very bytes that were signed."""
    place: DocumentPlace
    """Where it stands in the order of all documents of the device."""


@dataclass(frozen=True)
class DocumentPlace:
    """The order of a device's documents: kept by the device, so that no older one is taken again."""

    epoch_began: datetime
    """When the registry's epoch began."""
    generation: int
    """Within the epoch."""
    content: Digest
    """Of what was signed, apart from `expires`: signed again, a document is the same."""

    def judge(self, after: DocumentPlace) -> DocumentOrder:
        """How another document stands to this one, which was accepted before."""
        before, other = (self.epoch_began, self.generation), (after.epoch_began, after.generation)
        if other != before:
            return DocumentOrder.NEWER if other > before else DocumentOrder.OLDER
        return DocumentOrder.SAME if after.content == self.content else DocumentOrder.CONFLICT


class DocumentOrder(Enum):
    """How one document stands to the one that was accepted before."""

    NEWER = auto()
    SAME = auto()
    """Says the same, perhaps signed again."""
    OLDER = auto()
    """To be refused."""
    CONFLICT = auto()
    """The same place and another content: to be refused."""


@dataclass(frozen=True)
class SigningWindow:
    """For how long a signature of a device's document holds, and when the next one is due. Both follow from the time
    and the device's name, so that every process signs the same bytes; and devices are not due all at once."""

    renew_at: datetime
    expires: datetime


def signing_window(device: Name, now: datetime) -> SigningWindow:
    """The window of this moment: the signature holds for DOCUMENT_LIFE at most, half of it at least."""
    half = int(DOCUMENT_LIFE.total_seconds()) // 2
    phase = int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") % half
    begin = (int(now.timestamp()) - phase) // half * half + phase
    at = (datetime.fromtimestamp(begin + number * half, timezone.utc) for number in (1, 2))
    return SigningWindow(*at)


def payload_of(document: bytes, epoch_began: datetime, expires: datetime) -> bytes:
    """The bytes to be signed of a document, signed before or not. Times are aware; fractions of seconds are dropped."""
    said: dict[str, Any] = json.loads(document)
    said.pop(SIGNATURES, None)
    said[EPOCH_BEGAN], said[EXPIRES] = _time(epoch_began), _time(expires)
    return canonical_json(said)


def with_signatures(payload: bytes, signatures: Sequence[Signature]) -> bytes:
    """The document as it is sent: canonical JSON, too."""
    said = json.loads(payload)
    said[SIGNATURES] = [{"keyid": each.keyid, "sig": each.signature} for each in signatures]
    return canonical_json(said)


def verified_document(root: Root, body: bytes, device: Name) -> SignedDesired:
    """The document in these bytes, if enough of the director's keys signed it for this device. Its expiry and its order
    are the caller's to judge: both depend on what it remembers.

    Raises:
        TrustRefusedError: `form`, `unsigned`, `signature` or `device`.
    """
    payload, signatures = _taken_apart(body)
    try:
        root.verify_delegate(TARGETS, payload, signatures)
    except UnsignedMetadataError as error:
        raise TrustRefusedError(
            TrustFault.SIGNATURE, f"The director's root {root.version} does not know who signed the document: {error}"
        ) from None
    try:
        document = Desired.model_validate_json(payload, context=dict(OLDER_READER))
    except ValidationError as error:
        raise TrustRefusedError(TrustFault.FORM, f"What was signed is no desired document: {error}") from None
    if document.device != device:
        raise TrustRefusedError(TrustFault.DEVICE, f"The document was signed for {document.device!r}.")
    if document.epoch_began is None or document.expires is None:
        raise TrustRefusedError(TrustFault.FORM, "The signed document does not say when its epoch began or it expires.")
    said = json.loads(payload)
    del said[EXPIRES]
    content = digest_of(canonical_json(said))
    return SignedDesired(document, DocumentPlace(document.epoch_began, document.generation, content))


def _taken_apart(body: bytes) -> tuple[bytes, dict[str, Signature]]:
    if len(body) > MAX_CONTROL_BYTES:
        raise TrustRefusedError(TrustFault.FORM, f"The document has over {MAX_CONTROL_BYTES} bytes.")
    try:
        said = json.loads(body)
        signatures = said.pop(SIGNATURES, None)
        payload = canonical_json(said)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise TrustRefusedError(TrustFault.FORM, f"The document is no JSON object: {str(error)[:200]}") from None
    if not signatures:
        raise TrustRefusedError(TrustFault.UNSIGNED, "The document has no signature.")
    if not isinstance(signatures, list) or len(signatures) > MAX_SIGNATURES:
        raise TrustRefusedError(TrustFault.FORM, f"The document's signatures are no list of at most {MAX_SIGNATURES}.")
    try:
        found = {each["keyid"]: Signature(each["keyid"], each["sig"]) for each in signatures}
    except (KeyError, TypeError) as error:
        raise TrustRefusedError(TrustFault.FORM, f"A signature of the document is none: {error!r}") from None
    if not all(isinstance(text, str) for each in found.values() for text in (each.keyid, each.signature)):
        raise TrustRefusedError(TrustFault.FORM, "A signature of the document is none.")
    return payload, found


def _time(at: datetime) -> str:
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
