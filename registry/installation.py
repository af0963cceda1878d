"""The command that installs what an extra of this distribution needs into the environment that runs.

The distribution is on no public index, where its name may be anybody's. So the command names the checkout or the wheel
that this program was installed from, or, where neither is there any more, the packages themselves.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "modelfleet"
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def install_command(*extras: str) -> str:
    """A line for a shell of this host, as `pip install -e '/src/modelfleet[server]'`."""
    try:
        found = distribution(DISTRIBUTION)
    except PackageNotFoundError:  # run from a folder on the path
        return f"{_pip()} install {shlex.quote(_with('CHECKOUT', extras))}, CHECKOUT being the source's folder"
    return f"{_pip()} install {_what(found, extras)}{_as_whom()}"


def _what(found: Distribution, extras: Sequence[str]) -> str:
    path, editable = origin(found.read_text("direct_url.json"))
    if path is not None and path.exists():
        return ("-e " if editable else "") + shlex.quote(_with(str(path), extras))
    return " ".join(map(shlex.quote, requirements(found.requires or (), extras)))


def origin(direct_url: str | None) -> tuple[Path | None, bool]:
    """The folder or wheel that pip installed from, by PEP 610, and whether it is editable; (None, False): unknown."""
    try:
        said = json.loads(direct_url or "{}")
        parts = urlsplit(said.get("url", ""))
        editable = said.get("dir_info", {}).get("editable") is True
    except (ValueError, AttributeError):
        return None, False
    return (Path(unquote(parts.path)), editable) if parts.scheme == "file" and parts.path else (None, False)


def requirements(declared: Sequence[str], extras: Sequence[str]) -> list[str]:
    """The packages that the extras add, each as pip takes it; those of one extra in their order."""
    found = []
    for line in declared:
        requirement, _, marker = line.partition(";")
        names = _EXTRA.findall(marker)
        if any(name in extras for name in names):
            found.append(requirement.strip())
    return found


def _with(path: str, extras: Sequence[str]) -> str:
    return f"{path}[{','.join(extras)}]"


def _pip() -> str:
    """Of the environment that runs, however the program was called."""
    on_path = shutil.which("pip")
    if on_path is not None and Path(on_path).parent == Path(sys.prefix, "bin"):
        return "pip"
    if find_spec("pip") is None:
        return f"pip --python {shlex.quote(sys.executable)}"
    return f"{shlex.quote(sys.executable)} -m pip"


def _as_whom() -> str:
    return "" if os.access(sys.prefix, os.W_OK) else " (as root)"
