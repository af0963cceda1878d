"""A request for a model as JSON, as people write it: read and checked before anything is sent.

It is `{"x": [[1, 2]]}` by the names of the inputs, or a request of the Open Inference Protocol. Nothing that it says is
left out in silence: it is sent, or refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from math import prod
from typing import Any

from registry.contracts.tensors import NUMPY_NAME, RAW

EXAMPLES = '{"x": [[1, 2]]}, or {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}'
"""What a request looks like, for messages."""


def request_of_json(text: bytes | str) -> dict[str, Any]:
    """Arguments of `Client.infer`: `inputs`, with what else the request says. Raises ValueError with the reason."""
    from registry.client.devices import TypedTensor  # noqa: PLC0415 - needs NumPy

    try:
        found = json.loads(text, object_pairs_hook=_once)
        if not isinstance(found, dict):
            raise ValueError("a JSON object is expected, with a name for each input")  # noqa: TRY004
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
    except (TypeError, AttributeError) as error:
        raise ValueError("`inputs` and `outputs` are lists of objects") from error
    except KeyError as error:
        raise ValueError(f"an input or output has no {error}") from error
    except (RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
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
        raise ValueError(f"{unknown[0]!r} in {where} is not sent")


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
