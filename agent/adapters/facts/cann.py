"""The CANN of this host, as its own files say.

`<arch>-linux/ascend_toolkit_install.info` (or `ascend_nnrt_install.info`) below the folder that set_env.sh names has
the line `version=8.0.RC1`; the operator library's `version.info` has `Version=...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from registry.contracts.fit.platforms import CannFacts

HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
USUAL = tuple(Path("/usr/local/Ascend") / name for name in ("ascend-toolkit/latest", "nnrt/latest", "cann"))
KINDS = ("toolkit", "nnrt")
MAX_BYTES = 16 << 10
_VERSION = re.compile(r"^\s*[Vv]ersion\s*=\s*\[?([\w.+:-]{1,64})\]?\s*$", re.MULTILINE)


def probe_cann(environ: Mapping[str, str], arch: str, usual: tuple[Path, ...] = USUAL) -> tuple[CannFacts | None, str]:
    """CANN's version and that of its operator library; else None and the reason.

    Returns:
        The facts and the file that they are from, or None and why there are none.
    """
    homes = _homes(environ, usual)
    for home in homes:
        for file in install_infos(home, arch):
            version = _version(file)
            if version:
                library = Path(environ.get("ASCEND_OPP_PATH") or home / "opp")
                return CannFacts(version=version, opp=_version(library / "version.info")), str(file)
    where = ", ".join(map(str, homes)) or "no folder"
    return None, f"no CANN: looked for ascend_*_install.info in {where}; source CANN's set_env.sh before the agent"


def cann_files(environ: Mapping[str, str], arch: str, usual: tuple[Path, ...] = USUAL) -> Iterator[Path]:
    """The files that change with CANN, whether or not they are there."""
    for home in _homes(environ, usual):
        yield from install_infos(home, arch)
        yield Path(environ.get("ASCEND_OPP_PATH") or home / "opp") / "version.info"


def install_infos(home: Path, arch: str) -> Iterator[Path]:
    """Where the toolkit and the runtime say their version."""
    for kind in KINDS:
        yield home / f"{arch}-linux" / f"ascend_{kind}_install.info"


def _homes(environ: Mapping[str, str], usual: tuple[Path, ...]) -> list[Path]:
    return [Path(environ[name]) for name in HOMES if environ.get(name)] or list(usual)


def _version(file: Path) -> str:
    """Empty where the file does not say it."""
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            found = _VERSION.search(stream.read(MAX_BYTES))
    except OSError:
        return ""
    return found[1] if found else ""
