"""Runs one of our children: `run.py NAME ORDER`, NAME a module beside this one, ORDER its work as JSON.

What it did goes into `report.json` in its folder, written when all else is done. Started by file path under a vendor's
interpreter: standard library only, Python 3.9 syntax.
"""

from __future__ import annotations

import json
import os
import sys
import types
from importlib import import_module

FILE = "report.json"


def main(name: str, order: str) -> None:
    """Versions go into the report, errors to standard output.

    An error that names a code is printed as `code: message`, for the parent to read; the exit status is then 1.
    """
    work = import_module(f"agent.conversion.children.{name}").work
    try:
        versions = work(json.loads(order))
    except Exception as error:  # noqa: BLE001 - vendors raise whatever their C++ threw
        code = getattr(error, "code", "") or type(error).__name__
        print(f"CONVERSION {code}: {' '.join(str(error).split())[:2000]}", flush=True)  # noqa: T201 - see above
        os._exit(1)  # destructors of vendors' libraries may crash
    with open(FILE, "w", encoding="utf-8") as stream:
        json.dump({"versions": versions}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    # Only these packages become importable, not what lies beside them: that is another interpreter's.
    for name in ("agent", "registry"):
        package = types.ModuleType(name)
        package.__path__ = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", name)]
        sys.modules[name] = package
    main(sys.argv[1], sys.argv[2])
