"""What the programs that export a model have in common: the sandbox, the answer, and the comparison with the model.

Such a program runs as `PYTHON -I export_NAME.py`. Standard input is JSON: "file" and "out", absolute paths, "pickle",
may the file be unpickled, and what the program needs besides. Standard output is one line of JSON: {"version",
"compared", "difference"} or {"error": text}. Standard library, NumPy and the vendors' packages, Python 3.9 syntax.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from registry import sandbox

ABSOLUTE, RELATIVE = 1e-4, 1e-3
"""How far the exported model may be from the model itself: as golden vectors are compared."""

NOTHING = 1e-7
"""A value that close to zero is one."""
_WORDS = 250
"""Characters of the beginning and of the end of a long error: one says what, the other why."""


class ExportRefusal(Exception):  # noqa: N818 - it is an answer
    """It cannot be exported; the message says why."""


def distance(wanted: Any, found: Any) -> float:
    """The largest difference of one output. Raises ExportRefusal: it is beyond the tolerance."""
    import numpy as np  # noqa: PLC0415 - starts threads, which Landlock holds only when they start after it

    wanted, found = np.asarray(wanted), np.asarray(found).reshape(np.shape(wanted))
    if wanted.dtype.kind not in "fiub":
        differ = int((wanted.astype(str) != found.astype(str)).sum())
        if differ:
            raise ExportRefusal(f"the exported model answers {differ} of {len(wanted)} random rows with another class")
        return 0.0
    off, size = np.abs(found.astype(float) - wanted.astype(float)), np.abs(wanted.astype(float))
    if not (off <= _absolute(wanted.dtype, size) + RELATIVE * size * (wanted.dtype.kind == "f")).all():
        raise ExportRefusal(
            f"the exported model is up to {off.max():g} from the model itself, on {len(wanted)} random rows"
        )
    return float(off.max(initial=0.0))


def _absolute(kind: Any, sizes: Any) -> float:
    """What a value may be off at least: nothing of a whole number, and a share of the largest where all are small."""
    import numpy as np  # noqa: PLC0415 - as above

    if kind.kind != "f":
        return 0.0
    share = max(ABSOLUTE, 4 * float(np.finfo(kind).eps))
    return min(ABSOLUTE, share * float(sizes.max(initial=0.0, where=np.isfinite(sizes)))) + NOTHING


def answer(export: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Reads the order, enters the sandbox, calls `export` with it, and writes its answer or why there is none."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    order = json.load(sys.stdin)
    sandbox.die_with_parent(True)
    sandbox.limit(sandbox.memory_of_host(), writes=True)
    folder = os.path.dirname(order["out"])
    os.environ["TMPDIR"] = os.environ["HOME"] = folder  # nothing else can be written
    # A model without code of Python may still name files to read (torch.from_file): it sees none but its own. Pickles
    # of old joblibs have files beside them, and their author is trusted.
    sandbox.confine([os.path.dirname(order["file"]) if order["pickle"] else order["file"]], write=[folder])
    try:
        said = export(order)
    except ExportRefusal as refusal:
        said = {"error": str(refusal)}
    except Exception as error:  # noqa: BLE001 - a file that cannot be read raises anything
        text = " ".join(str(error).split())
        text = text if len(text) <= 2 * _WORDS else f"{text[:_WORDS]} … {text[-_WORDS:]}"
        said = {"error": f"{type(error).__name__}: {text}"}
    with contextlib.suppress(BrokenPipeError):
        replies.write(json.dumps(said) + "\n")
        replies.flush()
