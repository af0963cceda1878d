"""The director: its root, and the signatures of desired documents.

Documents are signed when somebody asks for them, in memory. The key (Ed25519) and the window of time make the same
bytes in every process, so that nothing is stored, and one ETag is true everywhere. With a key of another kind, whose
signatures differ each time, processes send different bytes that say the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Signer
from sqlalchemy.orm import Session
from tuf.api.metadata import Root

from registry.contracts.wire import digest_of
from registry.errors import RegistryError
from registry.services.trust.keys import KeyFolder, of_key
from registry.services.trust.store import is_due, may_sign, newest, put, sign
from registry.trust.building import root_metadata
from registry.trust.documents import payload_of, signing_window, with_signatures
from registry.trust.names import DIRECTOR, ROOT, ROOT_LIFE, SNAPSHOT, TARGETS, TIMESTAMP

log = logging.getLogger(__name__)
AGAIN_S = 60.0
"""After so long it is tried again to sign what could not be signed."""


@dataclass(frozen=True)
class SignedDocument:
    """A desired document as it is sent."""

    body: bytes
    digest: str
    """Of `body`; the ETag."""
    until: datetime | None
    """When the signature expires. None: it could not be signed."""
    sign_at: float
    """POSIX time from which it is to be signed again."""


class Director:
    """Thread-safe."""

    def __init__(self, keys: KeyFolder, clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._clock = clock
        self._lock = threading.Lock()
        self._signers: tuple[Signer, ...] = ()
        self._epoch_began: datetime | None = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why documents cannot be signed; empty: they are, or nobody asked yet."""
        return self._problem

    def begin(self, session: Session, now: datetime) -> bool:
        """Make keys and root where the database has none. True: there were none."""
        if newest(session, DIRECTOR, ROOT) is not None:
            return False
        mine, documents = self._keys.first("director-root").public_key, self._keys.first("director").public_key
        roles = {ROOT: mine, SNAPSHOT: mine, TIMESTAMP: mine, TARGETS: documents}
        root = root_metadata(1, now + ROOT_LIFE, {role: of_key(key) for role, key in roles.items()})
        put(session, DIRECTOR, ROOT, root, sign(root, ROOT, root, self._keys.signers()), now)
        return True

    def renew(self, session: Session, now: datetime) -> list[str]:
        """Sign the root again in the second half of its life, where its keys are here. Returns the roles."""
        stored, signers = newest(session, DIRECTOR, ROOT), self._keys.signers()
        if stored is None or not is_due(stored, now) or not may_sign(stored.root(), ROOT, signers):
            return []
        root = stored.root()
        root.version, root.expires = root.version + 1, (now + ROOT_LIFE).replace(microsecond=0)
        put(session, DIRECTOR, ROOT, root, sign(root, ROOT, root, signers), now)
        return [ROOT]

    def look(self, session: Session, epoch_began: datetime | None) -> None:
        """Which keys sign from now on, and in which epoch; None: there is none yet."""
        signers: tuple[Signer, ...] = ()
        problem = ""
        try:
            stored = newest(session, DIRECTOR, ROOT)
            if stored is None or epoch_began is None:
                problem = "the registry has made no keys yet"
            else:
                signers = self._signers_of(stored.root())
                if not signers:
                    problem = f"too few of the director's keys are in {self._keys.folder}"
        except RegistryError as error:
            problem = error.message
        with self._lock:
            if problem and problem != self._problem:
                log.error(
                    "trust: desired documents are not signed, and devices that check them refuse them: %s", problem
                )
            self._signers, self._epoch_began, self._problem = signers, epoch_began, problem

    def _signers_of(self, root: Root) -> tuple[Signer, ...]:
        role, here = root.get_delegated_role(TARGETS), self._keys.signers()
        found = [here[keyid] for keyid in sorted(role.keyids) if keyid in here]
        return tuple(found[: role.threshold]) if len(found) >= role.threshold else ()

    @property
    def is_ready(self) -> bool:
        """It can sign."""
        return bool(self._signers)

    def is_due(self, sign_at: float) -> bool:
        """Is it time to sign again?"""
        return self._clock().timestamp() >= sign_at

    def sign(self, device: str, document: bytes) -> SignedDocument:
        """The document with signatures, signed before or not; without any where they cannot be made."""
        now = self._clock()
        with self._lock:
            signers, epoch_began = self._signers, self._epoch_began
        if not signers or epoch_began is None:
            return SignedDocument(document, digest_of(document), None, now.timestamp() + AGAIN_S)
        window = signing_window(device, now)
        payload = payload_of(document, epoch_began, window.expires)
        body = with_signatures(payload, [signer.sign(payload) for signer in signers])
        return SignedDocument(body, digest_of(body), window.expires, window.renew_at.timestamp())
