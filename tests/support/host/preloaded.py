"""A small C library that another process loads before the C library itself, compiled once a session."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


@functools.cache
def preloaded(source: str) -> Path:
    """The library's file, for LD_PRELOAD. Skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("changing what a program gets from the system needs a C compiler")
    folder = Path(tempfile.mkdtemp(prefix="modelfleet-preloaded-"))
    file, library = folder / "source.c", folder / "preloaded.so"
    file.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, file, "-ldl"], check=True)
    return library
