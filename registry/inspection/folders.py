"""Folders that hold a model of another form, named for what they are: what is published is a file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

_LOOKED_AT = 1000
"""Entries of the folder: enough for any model, and never a whole disk."""


def folder_kind(folder: Path) -> str:
    """What a folder is, in words that follow `is`, and what to do."""
    try:
        names = sorted(path.name for path in islice(folder.iterdir(), _LOOKED_AT))
    except OSError as error:
        return f"a folder that cannot be read ({error.strerror})"
    known = _known(names)
    if known:
        return known
    models = [name for name in names if name.endswith(".onnx")]
    if models:
        return f"a folder; give the model's file: {folder / models[0]}. What it refers to is found beside it"
    return "a folder; give the model's file. What an ONNX model refers to is found beside it"


def _known(names: list[str]) -> str:
    endings = {Path(name).suffix for name in names}
    if "saved_model.pb" in names or "saved_model.pbtxt" in names:
        return "a TensorFlow SavedModel; convert it to ONNX: python -m tf2onnx.convert --saved-model FOLDER"
    if "Manifest.json" in names and "Data" in names:
        return "a Core ML package (.mlpackage); publish the ONNX file of the original model"
    if ".xml" in endings and ".bin" in endings and ".onnx" not in endings:
        return "a folder with an OpenVINO IR; publish the ONNX file that it was made from"
    if "__model__" in names or {".pdmodel", ".pdiparams"} & endings:
        return "a PaddlePaddle model; convert it to ONNX: paddle2onnx"
    if "data.pkl" in names:
        return "an unpacked PyTorch file; export the model to ONNX (torch.onnx.export)"
    if "config.json" in names and {".safetensors", ".bin"} & endings and ".onnx" not in endings:
        return "a Hugging Face model; export it: optimum-cli export onnx --model FOLDER OUT"
    if "model.json" in names and ".bin" in endings:
        return "a TensorFlow.js model; convert the original model to ONNX (tf2onnx)"
    return ""
