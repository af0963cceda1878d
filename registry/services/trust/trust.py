"""Signed metadata as a whole: made at the first start, renewed in time, served, and who holds which key.

Where the database takes no writes, the registry starts all the same; the job's next run makes good what is missing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from registry.db.engine import Database
from registry.errors import NotFoundError, RegistryError
from registry.services.queries import UseCases, retried
from registry.services.trust.director import Director
from registry.services.trust.image import ImageRepository
from registry.services.trust.keys import KeyFolder
from registry.services.trust.store import StoredMetadata, exactly, newest, sweep
from registry.trust.names import DIRECTOR, IMAGE, ROOT, TIMESTAMP, TIMESTAMP_LIFE, Repository
from registry.trust.roots import TrustAnchors

log = logging.getLogger(__name__)
ADOPTED = 100
"""Models that one transaction signs that were published before there was signed metadata."""
_NAME = re.compile(r"(?:([1-9][0-9]{0,14})\.)?([a-z][a-z0-9._-]{0,79})\.json")


class Trust(UseCases):
    """Thread-safe; one per process."""

    def __init__(self, database: Database, folder: Path, clock: Callable[[], datetime]) -> None:
        """`folder`: where the private keys are."""
        super().__init__(database)
        self.keys = KeyFolder(folder)
        self.image = ImageRepository(self.keys)
        self.director = Director(self.keys, clock)
        self._clock = clock

    def start(self) -> None:
        """Make keys and roots where the database has none, and sign what was published before.

        Raises:
            RegistryError: the folder or the database takes no writes, or a model's metadata are damaged.
        """
        now = self._clock()
        with self._database.read() as session:
            ready = newest(session, IMAGE, ROOT) is not None and newest(session, DIRECTOR, ROOT) is not None
        if not ready:
            retried(lambda: self._begin(now))
        signed = 0
        while some := retried(lambda: self._adopt(now)):
            signed += some
        if signed:
            log.warning("trust: signed %d models that were published before there was signed metadata", signed)

    def _begin(self, now: datetime) -> None:
        with self._database.write() as session:
            made = self.image.begin(session, now)
            made |= self.director.begin(session, now)
        if made:
            log.warning("trust: made keys in %s; back this folder up, see docs/trust.md", self.keys.folder)

    def _adopt(self, now: datetime) -> int:
        with self._database.read() as session:
            models = self.image.unsigned(session, ADOPTED)
        if models:
            with self._database.write() as session:
                self.image.adopt(session, models, now)
        return len(models)

    def renew(self) -> None:
        """Sign again what is in the second half of its life, with what keys are here; forget what was replaced."""
        self.start()
        now = self._clock()

        def turn() -> list[str]:
            with self._database.write() as session:
                renewed = [f"image {role}" for role in self.image.renew(session, now)]
                renewed += [f"director {role}" for role in self.director.renew(session, now)]
                sweep(session, now)
            return renewed

        if renewed := retried(turn):
            log.info("trust: signed again: %s", ", ".join(renewed))

    def file(self, repository: Repository, name: str) -> StoredMetadata:
        """A file as it is served: `3.root.json`, `timestamp.json`; `root.json` and so on: the newest of that role.

        Raises:
            NotFoundError: there is none of that name.
        """
        parts = _NAME.fullmatch(name)
        found = None
        if parts is not None:
            number, role = parts.groups()
            if number is None and role == TIMESTAMP:
                return self._timestamp(repository)
            with self._database.read() as session:
                if number is not None:
                    found = exactly(session, repository, role, int(number))
                else:
                    found = newest(session, repository, role)
        if found is None:
            raise NotFoundError(f"There is no metadata {name[:100]!r} in the {repository} repository.")
        return found

    def _timestamp(self, repository: Repository) -> StoredMetadata:
        now = self._clock()
        with self._database.read() as session:
            found = newest(session, repository, TIMESTAMP)
        if found is None:
            raise NotFoundError(f"There is no timestamp in the {repository} repository.")
        if now < found.made_at + TIMESTAMP_LIFE / 2:
            return found
        try:
            with self._database.write() as session:
                self.image.renew(session, now, roles=False)
        except RegistryError as error:
            log.warning("trust: the timestamp is not signed again now: %s", error.message)
        with self._database.read() as session:
            return newest(session, repository, TIMESTAMP) or found

    def anchors(self) -> TrustAnchors | None:
        """The newest roots, for a device that trusts nobody yet. None: there are none yet."""
        with self._database.read() as session:
            image, director = newest(session, IMAGE, ROOT), newest(session, DIRECTOR, ROOT)
        return None if image is None or director is None else TrustAnchors(image.body, director.body)
