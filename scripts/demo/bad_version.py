"""A version of the quick start's model that is bad in a way that shows only when it answers."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper


def write_bad_version(source: Path, target: Path, version: str) -> Path:
    """LeNet that answers the logarithm of each score: NaN for every score below 0.

    Args:
        source: The folder of the good version: `lenet.toml` and the files that it names.
        target: A folder that is made for the bad one.
        version: Of the bad one.

    Returns:
        Its publish file.
    """
    target.mkdir(parents=True)
    model = onnx.load(source / "lenet.onnx")
    last = model.graph.node[-1]
    last.output[0] = "scores"
    model.graph.node.append(helper.make_node("Log", ["scores"], [model.graph.output[0].name]))
    onnx.save(model, target / "lenet.onnx")
    lines = (source / "lenet.toml").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition(" ")[0] not in ("#", "card", "aliases", "version")]
    file = target / "lenet.toml"
    file.write_text("\n".join((f'version = "{version}"', *kept)) + "\n", encoding="utf-8")
    return file
