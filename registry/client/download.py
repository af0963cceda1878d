"""Fetches blobs: each goes on where it was cut, and is checked by its digest before it counts as there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from registry.client.api import ApiClient
from registry.client.errors import ClientError, NoAnswerError
from registry.client.local_files import BUFFER_BYTES
from registry.client.retries import Retries, ignore
from registry.contracts.catalogue.manifest import FileRef
from registry.contracts.digest import PREFIX
from registry.contracts.paths import blob_path

_BEGIN_ANEW = "Remove what an earlier pull left in .partial, or go round the proxy with NO_PROXY."


def download(
    client: ApiClient,
    file: FileRef,
    partial: Path,
    tell: Callable[[int], None] = ignore,
    note: Callable[[str], None] = ignore,
) -> int:
    """Fetch one blob.

    Args:
        client: The registry.
        file: What to fetch; its path is for messages only.
        partial: Filled until it has the digest; then it is on the disk. It may hold a beginning.
        tell: Told the position in the file.
        note: Told of every cut, in a sentence.

    Returns:
        The bytes that came over the network.

    Raises:
        ClientError: refused, wrong bytes, or no progress in several tries.
    """
    with partial.open("a+b", buffering=0) as out:
        digest = hashlib.sha256()
        out.seek(0)
        while piece := out.read(BUFFER_BYTES):
            digest.update(piece)
        start = position = out.tell()
        came, retries = 0, Retries(note)
        while position < file.size:
            before = position
            try:
                _receive(client, file, out, digest, tell)
            except ClientError as fault:
                retries.wait(fault, curable=fault.transient, advanced=out.tell() > before)
            finally:
                position = out.tell()
                came += position - before
        os.fsync(out.fileno())
        if position != file.size or PREFIX + digest.hexdigest() != file.digest:
            partial.unlink()
            kind = "what an earlier pull left" if start == file.size else "what came"
            raise ClientError(
                f"The bytes of {file.path} are not those of its digest ({kind}); they were thrown away",
                code="digest_mismatch",
                hint="Repeat the command. If it stays so, the registry's disk or something on the way is at fault.",
            )
    return came


def _receive(client: ApiClient, file: FileRef, out: BinaryIO, digest: Any, tell: Callable[[int], None]) -> None:
    """One request from where `out` ends. Raises ClientError for whatever stops it before the end."""
    start = out.tell()
    headers = {"range": f"bytes={start}-"} if start else {}
    with client.download(blob_path(file.digest), {**headers, "accept-encoding": "identity"}) as response:
        _check_start(response, start)
        for piece in response.iter_bytes(BUFFER_BYTES):  # decoded, should somebody on the way encode it
            if out.tell() + len(piece) > file.size:
                raise ClientError(
                    f"The registry sent more than the {file.size} bytes of {file.path}", code="bad_answer"
                )
            out.write(piece)
            digest.update(piece)
            tell(out.tell())
    if out.tell() != file.size:
        raise NoAnswerError("The registry ended its answer early")


def _check_start(response: httpx.Response, start: int) -> None:
    if start == 0 and response.status_code == 200:
        return
    if start and "content-encoding" in response.headers:
        raise ClientError("Somebody on the way recodes what the registry sends", code="bad_answer", hint=_BEGIN_ANEW)
    said = response.headers.get("content-range", "")
    if response.status_code != 206 or not said.startswith(f"bytes {start}-"):
        raise ClientError("The registry does not go on where it was asked to", code="bad_answer")
