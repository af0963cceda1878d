"""The files beside an ONNX model, handed to ONNX Runtime as memory.

By path it maps external data for as long as the session lives (onnxruntime/core/framework/tensorprotoutils.cc): what
becomes of the file on the disk then becomes an answer. From memory it copies what it needs while the session is made.
ONNX Runtime before 1.23 cannot take it so; there the file stays mapped, and only the check in the background sees it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def external_data(settings: Any, model: str | bytes) -> Iterator[None]:
    """Gives `settings` (SessionOptions) the other files of the model's folder while a session is made."""
    give = getattr(settings, "add_external_initializers_from_files_in_memory", None)
    if give is None or isinstance(model, bytes):
        yield
        return
    with contextlib.ExitStack() as stack:
        names: list[str] = []
        maps: list[mmap.mmap] = []
        for name, path in _others(model):
            with open(path, "rb") as stream:
                maps.append(stack.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
            names.append(name)
        if names:
            give(names, maps, [len(content) for content in maps])
        yield


def _others(model: str) -> Iterator[tuple[str, str]]:
    """Files beside the model that have bytes in them: the name as the model may call it, and the path."""
    folder = os.path.dirname(model)
    for at, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(at, name)
            if path != model and os.lstat(path).st_size:
                yield os.path.relpath(path, folder), path
