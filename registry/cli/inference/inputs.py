"""What is sent to a model: a picture, arrays of a file, or a request in JSON, read and checked before anything is sent.

Nothing that a file says is left out in silence: it is sent, or refused.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

from registry.client.errors import UsageFault
from registry.client.json_requests import EXAMPLES, request_of_json

MAX_REQUEST_BYTES = 256 << 20
"""Of a file with a request; an MQTT message cannot be longer."""
_SAVEZ = "Write it with numpy.savez(file, x=array); x is the input"


def read_file(file: Path) -> bytes:
    """Of at most MAX_REQUEST_BYTES. Raises UsageFault."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_REQUEST_BYTES + 1)
    except OSError as error:
        raise UsageFault(f"{file} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_REQUEST_BYTES:
        raise UsageFault(f"{file} is longer than the {MAX_REQUEST_BYTES} bytes that a message can have")
    return data


def read_inputs(picture: Path | None, npz: Path | None, request: str | None) -> dict[str, Any] | None:
    """Arguments of `Client.infer`: `picture`, or `inputs` with what else a request of the protocol says; None: nothing
    was given. Raises UsageFault."""
    if sum(each is not None for each in (picture, npz, request)) > 1:
        raise UsageFault("Give one of --picture, --npz and --request")
    if picture is not None:
        return {"picture": read_file(picture)}
    if npz is not None:
        return {"inputs": _arrays(npz)}
    if request is not None:
        return _of_json(request)
    return None


def completed(
    given: dict[str, Any], model: str, version: str | None, outputs: list[str] | None = None
) -> dict[str, Any]:
    """What `read_inputs` gave, with what the command line says beside it. Raises UsageFault where they differ."""
    found = dict(given)
    for name, told in (("model", model), ("version", version), ("outputs", outputs)):
        if told and found.setdefault(name, told) != told:
            raise UsageFault(f"The request names {name} {found[name]!r}, and the command {told!r}: give one of them")
    return found


def _arrays(file: Path) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415 - 100 ms

    try:
        with file.open("rb") as content:
            opened = np.load(content, allow_pickle=False)
            if isinstance(opened, np.lib.npyio.NpzFile):
                with opened:
                    found: dict[str, Any] = dict(opened.items())
            else:
                found = {"": opened}
    except OSError as error:
        why = f"cannot be read: {error.strerror}" if error.strerror else "is no .npz file of NumPy"
        raise UsageFault(f"{file} {why}", hint=_SAVEZ) from error
    except MemoryError as error:
        raise UsageFault(f"{file} does not fit into memory") from error
    except Exception as error:  # NumPy and its unpacking raise many kinds for a damaged file
        what = "is no .npz file of NumPy"
        if zipfile.is_zipfile(file):
            pickled = "allow_pickle" in str(error)
            what = "holds Python objects, which are not read" if pickled else f"cannot be unpacked: {str(error)[:200]}"
        raise UsageFault(f"{file} {what}", hint=_SAVEZ) from error
    if "" in found:
        raise UsageFault(f"{file} holds one array without a name", hint=_SAVEZ)
    if others := [name for name, each in found.items() if not isinstance(each, np.ndarray)]:
        raise UsageFault(f"{file} holds what is no array: {others[0]}", hint=_SAVEZ)
    return found


def _of_json(source: str) -> dict[str, Any]:
    text = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1) if source == "-" else read_file(Path(source))
    where = "standard input" if source == "-" else source
    if len(text) > MAX_REQUEST_BYTES:
        raise UsageFault(f"{where} is longer than the {MAX_REQUEST_BYTES} bytes that a message can have")
    try:
        return request_of_json(text)
    except ValueError as error:
        raise UsageFault(f"{where} is no request: {error}", EXAMPLES) from error
