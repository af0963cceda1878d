"""What ultralytics writes into the files that it exports: task, names of classes, picture size, stride, batch.

Of ONNX files it is in `metadata_props`, each value as Python prints it; of TensorRT engines it is JSON in front of the
plan (registry/plan_file.py). It is told to people. Names of classes are exact; how a picture becomes the input is not
all said there (normalisation, padding, crop), so nothing of `[image]` follows from it.
Source: ultralytics, engine/exporter.py, `self.metadata`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_VALUE = 4 << 20
"""Characters of one value: 65,536 names."""
MAX_NAMES = 1 << 16
_ITEM = re.compile(r"(\d{1,6}): ('(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")(?:, |$)")
_WORD = 64
_SHOWN = 3


@dataclass(frozen=True)
class Described:
    """What the file says beside the model. Every field may be missing."""

    task: str = ""
    """`detect`, `classify`, `segment`, `pose`, `obb`; YOLOv5 says none."""
    names: tuple[str, ...] = ()
    """Of the classes, in the order of their numbers from 0; empty where a number is missing."""
    size: tuple[int, ...] = ()
    """Height and width of the picture."""
    stride: int | None = None
    batch: int | None = None
    version: str = ""
    """Of ultralytics."""
    end_to_end: bool = False
    """The model suppresses overlapping boxes itself."""
    dla: int | None = None
    """The core of NVIDIA's deep learning accelerator that an engine was built for."""

    @property
    def text(self) -> str:
        """For people, in a line."""
        first = ", ".join(name[:_WORD] for name in self.names[:_SHOWN])
        more = ", …" if len(self.names) > _SHOWN else ""
        parts = (
            f"ultralytics {self.version}".strip(),
            self.task and f"task {self.task}",
            self.size and f"pictures {'x'.join(map(str, self.size))} (height, width)",
            self.stride is not None and f"stride {self.stride}",
            self.batch is not None and f"batch {self.batch}",
            self.dla is not None and f"for DLA core {self.dla}",
            self.names and f"{len(self.names)} classes ({first}{more})",
        )
        return ", ".join(str(part) for part in parts if part)


def described(said: Mapping[str, Any]) -> Described | None:
    """Reads a description; None: ultralytics did not write it."""
    if "names" not in said or not {"task", "stride"} & said.keys():
        return None
    task, version = said.get("task"), said.get("version")
    size = _plain(said.get("imgsz"))
    return Described(
        task=task[:_WORD] if isinstance(task, str) else "",
        names=_names(_plain(said["names"])),
        size=tuple(size) if isinstance(size, list) and len(size) == 2 and all(map(_is_count, size)) else (),
        stride=_count(said.get("stride")),
        batch=_count(said.get("batch")),
        version=version[:_WORD] if isinstance(version, str) else "",
        end_to_end="True" in (str(said.get("end2end")), str(said.get("nms"))),
        dla=_count(said.get("dla")),
    )


def _plain(value: Any) -> Any:
    """A number, a list of numbers, or texts by number that Python printed, as they were; None for another text. What is
    no text, as it is."""
    if not isinstance(value, str):
        return value
    if len(value) > MAX_VALUE:
        return None
    if re.fullmatch(r"\d{1,9}", value):
        return int(value)
    if re.fullmatch(r"\[\d{1,9}(, \d{1,9})*\]", value):
        return [int(number) for number in value[1:-1].split(", ")]
    if not (value.startswith("{") and value.endswith("}")):
        return None
    found: dict[int, str] = {}
    at, end = 1, len(value) - 1
    while at < end:
        item = _ITEM.match(value, at, end)
        if item is None:
            return None
        found[int(item[1])] = ast.literal_eval(item[2])  # one text without nesting
        at = item.end()
    return found


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_NAMES:
        return ()
    try:
        by_number = {int(number): name for number, name in value.items()}
    except (TypeError, ValueError):
        return ()
    found = [by_number.get(number) for number in range(len(value))]
    return tuple(name for name in found if isinstance(name, str)) if all(isinstance(n, str) for n in found) else ()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _count(value: Any) -> int | None:
    value = _plain(value)
    return value if _is_count(value) else None
