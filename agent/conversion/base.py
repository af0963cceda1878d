"""What every toolchain works with: a request, the plan that is made of it, and the variant that comes out.

A toolchain is a module with `plan` (pure: from a request to the exact command) and `finish` (what the command made, as
a variant). The command runs in a folder with `source/` (the files of the variant to start from) and `out/` (empty), so
that its paths are the same everywhere. See `agent.conversion.convert` for the table of toolchains.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from agent.conversion import children
from agent.errors import PermanentError
from registry.contracts.catalogue.manifest import Format, Requirements, Target, TensorSpec, Variant
from registry.contracts.codes import JobCode

SOURCE, OUT = "source", "out"
COMMON_OPTIONS = {
    "name": "the name of the variant to make",
    "target": "the kind of platform that it is for, where the format leaves it open: cpu, gpu, ascend310, ascend910",
}
MAX_OPTION_CHARS = 4096
_VALUE = re.compile(r"[ -~]{1,512}")
CHILDREN = Path(children.__file__).parent
_STACK = re.compile(r"\s-{4,}\s*(?:$|- (?:C\+\+ )?Call Stack|- The Traceback)")
"""Where MindSpore's errors go on with what only its developers read."""
_SAID = re.compile(r"^CONVERSION (?P<code>[A-Za-z_]{1,64}): (?P<text>.{0,2000})$", re.MULTILINE)


@dataclass(frozen=True)
class Tools:
    """What this host has to convert with."""

    python: str
    """An interpreter with onnxruntime, onnx or tensorrt: this one, as a rule."""
    mindspore: str | None = None
    """The interpreter that has MindSpore."""
    atc: str | None = None
    """Path of the program; None: it is not here."""
    trtexec: str | None = None
    soc: str = ""
    """The Ascend chip of this host, as ATC's `--soc_version`."""
    cann: str = ""
    compute_capability: str = ""
    device: str | None = None
    """This device's name; None: the publisher's machine."""


@dataclass(frozen=True)
class ConversionRequest:
    """One conversion."""

    source: Variant
    to: Format
    tools: Tools
    options: Mapping[str, str] = field(default_factory=dict)
    calibration: bool = False
    """There are golden inputs in `calibration.npz`."""

    @property
    def entry(self) -> str:
        """The file to convert, as the command sees it."""
        return f"{SOURCE}/{self.source.entry}"

    def option(self, name: str, default: str = "") -> str:
        """One option's text."""
        return self.options.get(name, default)


@dataclass(frozen=True)
class ConversionPlan:
    """What will be run."""

    tool: str
    command: tuple[str, ...]
    entry: str
    """The file that must be in `out/` afterwards."""
    name: str
    """Of the variant."""
    target: Target
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    """As far as they are known before; ONNX files say them themselves."""
    requirements: Requirements = field(default_factory=Requirements)
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts to be written beside `source/` before: file name to content."""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ran:
    """How the command ended."""

    code: int
    """Its exit status; over 128: the signal that killed it, and 128."""
    output: str
    """The beginning and the end of what it printed."""


def bad_option(text: str) -> NoReturn:
    """Raises PermanentError."""
    raise PermanentError(JobCode.BAD_OPTION, text)


def check_options(options: Mapping[str, str], known: Mapping[str, str], tool: str) -> None:
    """Only options that the tool has here, each printable text of bounded length. Raises PermanentError."""
    for name, value in options.items():
        if name not in known and name not in COMMON_OPTIONS:
            text = "; ".join(f"{key}: {what}" for key, what in {**known, **COMMON_OPTIONS}.items())
            bad_option(f"{tool} is not given an option {name[:64]!r} here. There are: {text}")
        long = name == "insert_op_conf" and len(value) <= MAX_OPTION_CHARS
        if not long and not _VALUE.fullmatch(value):
            bad_option(f"option {name}: 1 to 512 printable characters, not {value[:64]!r}")


def choice(request: ConversionRequest, name: str, allowed: Sequence[str]) -> str:
    """An option that is one of a few; the first where it is not given. Raises PermanentError."""
    value = request.option(name, allowed[0])
    if value not in allowed:
        bad_option(f"option {name} is one of {', '.join(allowed)}, not {value[:64]!r}")
    return value


def target_of(request: ConversionRequest, default: Target) -> Target:
    """The target that the options name, else `default`. Raises PermanentError."""
    return Target(choice(request, "target", [default, *(target for target in Target if target is not default)]))


def child(interpreter: str, name: str, order: Mapping[str, Any]) -> tuple[str, ...]:
    """The command that has `agent.conversion.children.NAME` do what the order says."""
    return (interpreter, "-I", "-B", str(CHILDREN / "run.py"), name, json.dumps(order))


def failure(ran: Ran) -> str:
    """What a child of ours said when it failed, in one line: its error, or how it ended and its last words."""
    said = list(_SAID.finditer(ran.output))
    if said:
        words = _STACK.split(said[-1]["text"], maxsplit=1)[0].split()
        return f"{said[-1]['code']}: {' '.join(word for word in words if not word.startswith('----'))}"
    last = " ".join(ran.output.split())[-300:]
    ended = f"killed by signal {ran.code - 128}" if ran.code > 128 else f"exit status {ran.code}"
    return f"{ended}: {last}" if last else ended
