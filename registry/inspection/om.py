"""What an OM file says of itself: little, unless ATC is here to read it.

The 256-byte little-endian header (ModelFileHeader of the Graph Engine that CANN has published): magic at
0, its own length at 4, its version at 8, at 76 the bytes that follow it, at 80 whether they are encrypted.
Newer CANN leaves the length at 76 zero and says it elsewhere. What follows differs between releases and is
not read: chip and CANN come from `atc --mode=1` (CANN's documentation: soc_version, atc_version in its JSON),
or the publisher says them. Inputs and outputs: the publisher, since AIPP changes them in ways of its own.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from registry.contracts.catalogue.manifest import Format, Requirements
from registry.inspection.facts import InspectionError, ModelFacts

HEADER_BYTES = 256
MAGIC = 0x444F4D49
ATC_TIMEOUT_S = 120
ATTRIBUTES = ("soc_version", "atc_version", "opp_version")
"""Of a model, in what `atc --mode=1` prints."""
MAX_JSON_BYTES = 64 << 20
"""The graph as text; a large vision model gives 20 MB."""
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def inspect(path: Path, atc: str = "atc") -> ModelFacts:
    """Read the OM file at `path`; `atc` is the program to ask, where there is one.

    Raises:
        InspectionError: it is no OM file, cut short or encrypted.
    """
    with path.open("rb") as file:
        version = read(file, path.stat().st_size, path.name)
    program = shutil.which(atc)
    told, warnings = ({}, ()) if program is None else _ask(program, path)
    return ModelFacts(
        format=Format.OM,
        requirements=Requirements(
            soc_version=told.get("soc_version"),
            cann_version=told.get("atc_version"),
            opp_version=told.get("opp_version"),
        ),
        producer=f"ATC, OM header version {version:#x}",
        warnings=warnings,
    )


def read(file: BinaryIO, size: int, name: str) -> int:
    """Check the header of an open file of `size` bytes and return its version; `name` is for the messages.

    Raises:
        InspectionError: as `inspect` does.
    """
    file.seek(0)
    head = file.read(HEADER_BYTES)
    if len(head) < 8 or struct.unpack_from("<II", head) != (MAGIC, HEADER_BYTES):
        raise InspectionError(
            f"{name} is not an OM file: it begins with {head[:8].hex(' ')}, not 49 4d 4f 44 00 01 00 00"
        )
    if len(head) < HEADER_BYTES:
        raise InspectionError(f"{name} is an OM file that is cut short inside its header. Copy it again")
    (version,) = struct.unpack_from("<I", head, 8)
    (length,) = struct.unpack_from("<I", head, 76)
    if HEADER_BYTES + length > size:
        raise InspectionError(
            f"{name} is an OM file that is cut short: it should have {HEADER_BYTES + length} bytes and has {size}. "
            "Copy it again"
        )
    if head[80] not in (0, 1):
        raise InspectionError(f"{name} is not an OM file: its header is damaged")
    if head[80] == 1:
        raise InspectionError(f"{name} is encrypted; agents have no key for it. Publish it as atc wrote it")
    return int(version)


def _ask(program: str, path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """The `ATTRIBUTES` as ATC reads them from the file, and a warning where it did not."""
    with TemporaryDirectory(prefix="modelfleet-atc-") as folder:
        target = Path(folder) / "model.json"
        command = [program, "--mode=1", f"--om={path.absolute()}", f"--json={target}"]
        try:
            ran = subprocess.run(command, capture_output=True, timeout=ATC_TIMEOUT_S, cwd=folder, check=False)
            if ran.returncode != 0 or not target.is_file() or target.stat().st_size > MAX_JSON_BYTES:
                return {}, (f"atc --mode=1 could not read the file (exit code {ran.returncode})",)
            found = attributes(json.loads(target.read_text(encoding="utf-8", errors="replace")))
        except (OSError, ValueError, RecursionError, subprocess.TimeoutExpired) as error:
            return {}, (f"atc --mode=1 could not read the file: {str(error)[:200]}",)
    return found, ()


def attributes(document: Any) -> dict[str, str]:
    """The model's `ATTRIBUTES` in the JSON that `atc --mode=1` writes."""
    listed = document.get("attr") if isinstance(document, dict) else None
    found: dict[str, str] = {}
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or entry.get("key") not in ATTRIBUTES:
            continue
        value = entry.get("value")
        text = value.get("s") if isinstance(value, dict) else None
        if isinstance(text, str) and _VALUE.fullmatch(text):
            found[entry["key"]] = text
    return found
