"""The agent's own pull of one blob, as the reconciler does it: download, hash, fsync, rename. Prints one JSON line.

usage: agent_pull.py REGISTRY_URL DEVICE TOKEN FOLDER DIGEST SIZE
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path

from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.network.registry_client import RegistryClient
from registry.contracts.catalogue.manifest import FileRef

url, device, token, folder, digest, size = sys.argv[1:]
client = RegistryClient(url, device, token=token, ca_file=None, timeout_s=20)
client.desired(None)  # the connection, and what is imported at the first call
cache = ArtifactCache(Path(folder), limit=1 << 40, reserve=0)
cache.open()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
cancel = threading.Event()
with cache.part(FileRef(path="blob", digest=digest, size=int(size))) as part:
    part.resume(cancel)
    client.download(part, cancel)
    part.check()
    cache.admit(part, "sha256:" + "0" * 64)
seconds = time.perf_counter() - start
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": seconds, "rss_growth_mb": grown / 1024}))
