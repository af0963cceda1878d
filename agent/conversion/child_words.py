"""What a child of ours said when it failed, in one line."""

from __future__ import annotations

import re

from agent.conversion.base import Ran

_STACK = re.compile(r"\s-{4,}\s*(?:$|- (?:C\+\+ )?Call Stack|- The Traceback)")
"""Where MindSpore's errors go on with what only its developers read."""
_SAID = re.compile(r"^CONVERSION (?P<code>[A-Za-z_]{1,64}): (?P<text>.{0,2000})$", re.MULTILINE)


def failure(ran: Ran) -> str:
    """Its error, or how it ended and its last words."""
    said = list(_SAID.finditer(ran.output))
    if said:
        words = _STACK.split(said[-1]["text"], maxsplit=1)[0].split()
        return f"{said[-1]['code']}: {' '.join(word for word in words if not word.startswith('----'))}"
    last = " ".join(ran.output.split())[-300:]
    ended = f"killed by signal {ran.code - 128}" if ran.code > 128 else f"exit status {ran.code}"
    return f"{ended}: {last}" if last else ended
