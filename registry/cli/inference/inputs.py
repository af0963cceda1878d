"""What is sent to a model: a picture, arrays of a file, or a request in JSON, read and checked before anything is sent.

Nothing that a file says is left out in silence: it is sent, or refused.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import Any

from registry.client.errors import UsageFault
from registry.contracts.tensors import NUMPY_NAME, RAW

MAX_REQUEST_BYTES = 256 << 20
"""Of a file with a request; an MQTT message cannot be longer."""
_SAVEZ = "Write it with numpy.savez(file, x=array); x is the input"
_FORM = '{"x": [[1, 2]]}, or {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}'


def read_file(file: Path) -> bytes:
    """Of at most MAX_REQUEST_BYTES. Raises UsageFault."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_REQUEST_BYTES + 1)
    except OSError as error:
        raise UsageFault(f"{file} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_REQUEST_BYTES:
        raise UsageFault(f"{file} is longer than the {MAX_REQUEST_BYTES} bytes that a message can have")
    return data


def read_inputs(picture: Path | None, npz: Path | None, request: str | None) -> dict[str, Any] | None:
    """Arguments of `Client.infer`: `picture`, or `inputs` with what else a request of the protocol says; None: nothing
    was given. Raises UsageFault."""
    if sum(each is not None for each in (picture, npz, request)) > 1:
        raise UsageFault("Give one of --picture, --npz and --request")
    if picture is not None:
        return {"picture": read_file(picture)}
    if npz is not None:
        return {"inputs": _arrays(npz)}
    if request is not None:
        return _of_json(request)
    return None


def completed(
    given: dict[str, Any], model: str, version: str | None, outputs: list[str] | None = None
) -> dict[str, Any]:
    """What `read_inputs` gave, with what the command line says beside it. Raises UsageFault where they differ."""
    found = dict(given)
    for name, told in (("model", model), ("version", version), ("outputs", outputs)):
        if told and found.setdefault(name, told) != told:
            raise UsageFault(f"The request names {name} {found[name]!r}, and the command {told!r}: give one of them")
    return found


def _arrays(file: Path) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415 - 100 ms

    try:
        with file.open("rb") as content:
            opened = np.load(content, allow_pickle=False)
            if isinstance(opened, np.lib.npyio.NpzFile):
                with opened:
                    found: dict[str, Any] = dict(opened.items())
            else:
                found = {"": opened}
    except OSError as error:
        why = f"cannot be read: {error.strerror}" if error.strerror else "is no .npz file of NumPy"
        raise UsageFault(f"{file} {why}", hint=_SAVEZ) from error
    except MemoryError as error:
        raise UsageFault(f"{file} does not fit into memory") from error
    except Exception as error:  # NumPy and its unpacking raise many kinds for a damaged file
        what = "is no .npz file of NumPy"
        if zipfile.is_zipfile(file):
            pickled = "allow_pickle" in str(error)
            what = "holds Python objects, which are not read" if pickled else f"cannot be unpacked: {str(error)[:200]}"
        raise UsageFault(f"{file} {what}", hint=_SAVEZ) from error
    if "" in found:
        raise UsageFault(f"{file} holds one array without a name", hint=_SAVEZ)
    if others := [name for name, each in found.items() if not isinstance(each, np.ndarray)]:
        raise UsageFault(f"{file} holds what is no array: {others[0]}", hint=_SAVEZ)
    return found


def _of_json(source: str) -> dict[str, Any]:
    from registry.client.devices import TypedTensor  # noqa: PLC0415 - needs NumPy

    text = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1) if source == "-" else read_file(Path(source))
    where = "standard input" if source == "-" else source
    if len(text) > MAX_REQUEST_BYTES:
        raise UsageFault(f"{where} is longer than the {MAX_REQUEST_BYTES} bytes that a message can have")
    try:
        found = json.loads(text, object_pairs_hook=_once)
        if not isinstance(found, dict):
            raise UsageFault(f"{where} is no request: a JSON object is expected, with a name for each input", _FORM)
        if not isinstance(found.get("inputs"), list):
            return {"inputs": found}
        _require_known("a request", found, ("inputs", "outputs", "model_name", "model_version", "id", "parameters"))
        parameters = found.get("parameters") or {}
        _require_known("parameters", parameters, ("binary_data_output", "detections", *_LIMITS))
        inputs = _once([(each["name"], TypedTensor(_shaped(each), each["datatype"])) for each in found["inputs"]])
        request = {
            "inputs": inputs,
            "outputs": [_output_name(each) for each in found.get("outputs") or ()],
            "detections": _detections(parameters),
            **{new: _text(old, found.get(old)) for new, old in _SAID.items()},
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        why = f"an input or output has no {error}" if isinstance(error, KeyError) else str(error)
        if isinstance(error, (TypeError, AttributeError)):
            why = "`inputs` and `outputs` are lists of objects"
        raise UsageFault(f"{where} is no request: {why}", _FORM) from error
    return {name: value for name, value in request.items() if name == "inputs" or value or value is False}


_LIMITS = ("score_threshold", "iou_threshold", "max_detections")


def _detections(parameters: Mapping[str, Any]) -> Any:
    """What a request says of detections, as `Client.infer` takes it; None: nothing."""
    from registry.client.devices import DetectionOptions  # noqa: PLC0415 - needs NumPy

    wanted, limits = parameters.get("detections"), {name: parameters[name] for name in _LIMITS if name in parameters}
    if wanted is False and limits:
        raise ValueError("a request without detections has no limits for them")
    if wanted not in (None, True, False):
        raise ValueError("detections is true or false")
    return DetectionOptions(**limits) if limits else wanted


_SAID = {"model": "model_name", "version": "model_version", "request_id": "id"}
"""Arguments of `Client.infer`, and the fields of a request that say them."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _require_known(where: str, found: Mapping[str, Any], known: Collection[str]) -> None:
    """What is passed over would be left out of the answer in silence."""
    if unknown := [name for name in found if name not in known]:
        raise ValueError(f"{unknown[0]!r} in {where} is not sent by this command")


def _text(name: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value or ""


def _output_name(output: Mapping[str, Any]) -> str:
    _require_known("an output", output, ("name", "parameters"))
    _require_known("an output's parameters", output.get("parameters") or {}, ("binary_data",))
    return _text("an output's name", output["name"])


def _shaped(tensor: Mapping[str, Any]) -> Any:
    """The elements in their shape; they may be flat. Numbers stay those of the JSON: no array is made of them yet,
    which would round large ones."""
    import numpy as np  # noqa: PLC0415 - 100 ms

    from registry.client.devices.arrays import shape_of  # noqa: PLC0415 - needs NumPy

    _require_known("an input", tensor, ("name", "shape", "datatype", "data", "parameters"))
    _require_known("an input's parameters", tensor.get("parameters") or {}, ())
    shape, items = shape_of(tensor["shape"]), np.asarray(tensor["data"], dtype=object)
    if shape is None or prod(shape) != items.size:
        raise ValueError(f"input {tensor['name']!r} has {items.size} elements, and the shape {tensor['shape']}")
    if items.size:
        return items.reshape(shape).tolist()
    kind = tensor["datatype"]
    return np.empty(shape, object if kind == "BYTES" else "f4" if kind in RAW else NUMPY_NAME.get(kind, "f4"))
