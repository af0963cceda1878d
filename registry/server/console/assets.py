"""What the pages load: scripts, styles and libraries of `static/`, under addresses that change with their content.

Everything is read once, at the start. An address has the digest of the content, so a browser keeps it for a year.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response

from registry.errors import NotFoundError
from registry.server.middleware.etags import none_match, quoted

FOLDER = Path(__file__).with_name("static")
_SERVED = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".png": "image/png"}
"""Suffix and media type; other files, as licences, are not served."""
_LASTING = "public, max-age=31536000, immutable"
"""The files hold nothing secret, and everybody may read them."""


@dataclass(frozen=True)
class Asset:
    """One file."""

    content: bytes
    media_type: str
    tag: str
    """16 hex digits of its SHA-256."""


class Assets:
    """All files of `static/`."""

    def __init__(self) -> None:
        self._found = dict(_read(FOLDER))

    def path(self, name: str) -> str:
        """Below the console's address, with the digest. Raises KeyError: there is no such file."""
        return f"/static/{self._found[name].tag}/{name}"

    def answer(self, request: Request, tag: str, name: str) -> Response:
        """The file, or 304. Raises NotFoundError: it is none, or of another build."""
        asset = self._found.get(name)
        if asset is None or asset.tag != tag:
            raise NotFoundError("There is no such file in this version of the console.")
        headers = {"ETag": quoted(tag), "Cache-Control": _LASTING}
        if none_match(request, tag):
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.media_type)


def _read(folder: Path) -> Iterator[tuple[str, Asset]]:
    for file in folder.rglob("*"):
        if file.suffix in _SERVED:
            content = file.read_bytes()
            tag = hashlib.sha256(content).hexdigest()[:16]
            yield file.relative_to(folder).as_posix(), Asset(content, _SERVED[file.suffix], tag)
