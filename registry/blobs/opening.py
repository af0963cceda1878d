"""Which store a URL names. Another kind of storage is an implementation of `base.py` and one line in STORES."""

from __future__ import annotations

from collections.abc import Callable

from registry.blobs.base import BlobStore
from registry.blobs.filesystem import FilesystemBlobs
from registry.errors import StartError

STORES: dict[str, Callable[[str], BlobStore]] = {"file": FilesystemBlobs.at}
"""By the scheme of the URL. What is called raises StartError for a URL that is not right."""


def open_blobs(url: str) -> BlobStore:
    """The store of that URL, to be closed.

    Raises:
        StartError: `blobs_url`, there is no such kind of store, or the URL is not right.
        InvalidError: another registry uses it.
        TemporaryError: it cannot be used at the moment.
    """
    scheme = url.partition(":")[0]
    if scheme not in STORES:
        known = ", ".join(f"{name}:" for name in STORES)
        raise StartError("blobs_url", f"blobs_url begins with {scheme[:20]!r}; the registry knows {known}")
    return STORES[scheme](url)
