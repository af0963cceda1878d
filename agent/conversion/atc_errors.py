"""What ATC's error numbers mean, and what helps. From the error code reference of CANN 8 and reports of users.

ATC prints `E10001: ...` lines to standard output and exits with a status that says only that it failed.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Explanation(NamedTuple):
    """Of one error number, or of all that begin with it."""

    cause: str
    hint: str


_OPSET = "export the model with opset 11 to 17; ATC's newest parser knows 18 at most"
_SOC = "--option soc_version=..., one that this CANN knows: Ascend310 up to CANN 8.2, Ascend310P3, Ascend310B4, ..."
EXPLANATIONS: dict[str, Explanation] = {
    "E10001": Explanation("an option has a value that ATC does not take", "correct the option that the message names"),
    "E10002": Explanation("an input shape is not written as ATC wants it", 'write it as "x:1,3,224,224"'),
    "E10004": Explanation("an option is empty", "give it a value or leave it out"),
    "E10007": Explanation("--framework is missing or unknown", "convert from ONNX or AIR"),
    "E10054": Explanation("an option that ATC needs is missing", "give the option that the message names"),
    "E10057": Explanation("an option stands twice, or does not go with another", "leave one of them out"),
    "E19010": Explanation("ATC has no parser for an operator of this opset", _OPSET),
    "EZ3002": Explanation("an operator is not supported on this chip", "replace it in the model, or update CANN"),
    "EZ3003": Explanation("an operator is not supported on this chip", "replace it in the model, or update CANN"),
    "EC0005": Explanation("the chip is not known to this CANN", _SOC),
    "ED0001": Explanation("the chip is not known to this CANN", _SOC),
    "EE1000": Explanation("the chip is not known to this CANN", _SOC),
    "EC0010": Explanation(
        "a Python module that ATC needs is missing",
        "install what the message names into the Python that ATC uses: pip install attrs decorator numpy psutil scipy "
        "sympy protobuf",
    ),
    "E40000": Explanation(
        "the operator compiler (TBE) cannot be imported",
        "source CANN's set_env.sh; its Python packages must fit the Python that runs",
    ),
    "E19999": Explanation("an inner error of ATC", "look for the first error above it; try another CANN release"),
}
_LIBRARY = re.compile(r"error while loading shared libraries: (\S+?):")
_NUMBER = re.compile(r"^\s*(?:\[?ERROR\]?\s*)?(E[A-Z0-9]\w?\d{3,4})\s*:\s*(.{0,300})", re.MULTILINE)
_LIBRARY_HINT = (
    "source CANN's set_env.sh before the agent starts; on a host without a driver add CANN's devlib folder to "
    "LD_LIBRARY_PATH"
)


def explain(output: str) -> str:
    """Why it failed, in one line: number, ATC's own words, the cause, what helps. Empty when nothing is known."""
    library = _LIBRARY.search(output)
    if library is not None:
        return f"ATC lacks the library {library[1]}: {_LIBRARY_HINT}"
    found = _NUMBER.findall(output)
    known = next(((number, text) for number, text in found if number in EXPLANATIONS and number != "E19999"), None)
    number, text = known or (found[0] if found else ("", ""))
    if not number:
        return ""
    told = " ".join(text.split())
    explanation = EXPLANATIONS.get(number)
    if explanation is None:
        return f"{number}: {told}"
    return f"{number}: {told} ({explanation.cause}; {explanation.hint})"
