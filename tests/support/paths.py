"""Where the project's files are, for tests in any folder."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
LENET_FOLDER = ROOT / "scripts" / "models" / "lenet"
LENET = LENET_FOLDER / "lenet.onnx"
