"""A registry's services that sign, with a clock of our own, and what a device reads of them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

from registry.contracts.api.uploads import UploadRequest
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.wire import digest_of
from registry.db.engine import Database
from registry.services.catalogue.models import Models
from registry.services.catalogue.uploads import UploadLimits, Uploads
from registry.services.catalogue.versions import Versions
from registry.services.catalogue.yanking import Yanking
from registry.services.trust.trust import Trust
from registry.trust.image import ImageFiles, ListedManifest, find_manifest, verified_files
from registry.trust.names import Repository
from tests.fakes.blobs import MemoryBlobs
from tests.support.programs.registry_process import manifest_of

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2030, 5, 1, 10, tzinfo=timezone.utc)


class SigningRegistry:
    """The services of the catalogue on a real database; blobs in memory."""

    def __init__(self, url: str, folder: Path, *, signs: bool = True) -> None:
        self.now = START
        self.database = Database(url)
        self.blobs = MemoryBlobs(1 << 20)
        self.trust = Trust(self.database, folder, lambda: self.now)
        image = self.trust.image if signs else None
        limits = UploadLimits(blob_bytes=1 << 20, open_sessions=3, writers=4, ttl=DAY, disk_reserve=0)
        self.uploads = Uploads(self.database, self.blobs, limits)
        self.versions = Versions(self.database, self.blobs, image)
        self.models = Models(self.database, image)
        self.yanking = Yanking(self.database, image)
        if signs:
            self.trust.start()

    def put(self, data: bytes) -> None:
        view = self.uploads.begin(UploadRequest(digest=digest_of(data), size=len(data)), "me", self.now)
        if not view.complete:
            with self.uploads.receive(view.id, "me", 0) as receiver:
                receiver.take(data)
                self.uploads.finish(receiver, self.now)

    def publish(self, model: str, version: str, data: bytes = b"weights") -> Manifest:
        self.put(data)
        manifest = Manifest.model_validate(manifest_of(model, version, data))
        self.versions.publish(manifest, "me", self.now)
        return manifest


class DeviceView:
    """Reads the image repository as a device does: root by root, then what the timestamp names."""

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        anchors = trust.anchors()
        assert anchors is not None
        self.anchors = anchors

    def get(self, name: str, repository: Repository = "image") -> bytes:
        return self.trust.file(repository, name).body

    def files(self) -> ImageFiles:
        first = json.loads(self.anchors.image)["signed"]["version"]
        newest = json.loads(self.get("root.json"))["signed"]["version"]
        roots = [self.get(f"{number}.root.json") for number in range(first + 1, newest + 1)]
        timestamp = self.get("timestamp.json")
        snapshot = self.get(f"{json.loads(timestamp)['signed']['meta']['snapshot.json']['version']}.snapshot.json")
        versions = {name[:-5]: meta["version"] for name, meta in json.loads(snapshot)["signed"]["meta"].items()}
        bodies = {role: self.get(f"{number}.{role}.json") for role, number in versions.items()}
        targets = bodies.pop("targets")
        return ImageFiles(roots, timestamp, snapshot, targets, bodies)

    def listed(self, model: str, version: str, at: datetime | None = None) -> ListedManifest:
        files = self.files()
        trusted = verified_files(self.anchors.image, files, at)
        return find_manifest(trusted, model, version, files.delegated.get)
