"""Where the Python with MindSpore is. Tests that need it may be skipped on a developer's machine, never in CI."""

from __future__ import annotations

import os

import pytest

from tests.support.paths import ROOT

OWN = ROOT / ".venv-mindspore" / "bin" / "python"
"""What scripts/setup-mindspore makes."""
PYTHON = os.environ.get("MODELFLEET_MINDSPORE_PYTHON") or (str(OWN) if OWN.exists() else "")
WHY = "no Python has MindSpore: run scripts/setup-mindspore, or name one in MODELFLEET_MINDSPORE_PYTHON"
needs_mindspore = pytest.mark.skipif(not PYTHON, reason=WHY)

if not PYTHON and os.environ.get("CI"):
    raise RuntimeError(f"in CI these tests must run, and {WHY}")
