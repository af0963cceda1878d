"""How a child says what it did: `report.json` in its folder, written when all else is done.

Runs under a vendor's interpreter: standard library only, Python 3.9 syntax.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

FILE = "report.json"


def reported(work: Callable[[dict[str, Any]], dict[str, str]]) -> None:
    """Does the work that the command line's JSON asks for. Versions go into the report, errors to standard output.

    An error that names a code is printed as `code: message`, for the parent to read; the exit status is then 1.
    """
    try:
        versions = work(json.loads(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - vendors raise whatever their C++ threw
        code = getattr(error, "code", "") or type(error).__name__
        print(f"CONVERSION {code}: {' '.join(str(error).split())[:2000]}", flush=True)  # noqa: T201 - see above
        sys.stdout.flush()
        os._exit(1)  # destructors of vendors' libraries may crash
    with open(FILE, "w", encoding="utf-8") as stream:
        json.dump({"versions": versions}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    sys.stdout.flush()
    os._exit(0)
