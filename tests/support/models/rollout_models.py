"""Versions of one small model, y[N,3] = f(x[N,4]): good ones, and one for each way in which a version can be bad.

What is bad shows only on a device: the files are such that the registry takes them.
"""

from __future__ import annotations

import httpx
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from registry.client.address import ADMIN_TOKEN_FILE
from registry.contracts.tensor_file import Tensor, write_tensors
from registry.contracts.tensors import Datatype
from tests.support.programs.fleet import Fleet
from tests.support.programs.registry_process import manifest_of, put_blob

MODEL = "meter"
X = np.array([[1, 2, 3, 4]], "<f4")
_SLOW_WIDTH = 600


def _file(nodes: list[object], *weights: tuple[str, np.ndarray]) -> bytes:
    graph = helper.make_graph(
        nodes,
        MODEL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def good(factor: float) -> bytes:
    """y = factor * x @ ones."""
    return _file([helper.make_node("MatMul", ["x", "w"], ["y"])], ("w", np.full((4, 3), factor, np.float32)))


def unloadable(factor: float = 1) -> bytes:
    """Five weights for each of four inputs: a runtime refuses it when it infers the shapes."""
    return _file([helper.make_node("MatMul", ["x", "w"], ["y"])], ("w", np.full((5, 3), factor, np.float32)))


def not_a_number() -> bytes:
    """y = log(-x @ ones), for positive x."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Log", ["z"], ["y"])]
    return _file(nodes, ("w", np.full((4, 3), -1, np.float32)))


def slow(factor: float = 1) -> bytes:
    """y = factor * x @ ones, after some large products that depend on x and come to nothing."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["large", "sum"], ["p0"]),
        *(helper.make_node("MatMul", [f"p{i}", "large"], [f"p{i + 1}"]) for i in range(8)),
        helper.make_node("ReduceMax", ["p8"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Add", ["z", "nothing"], ["y"]),
    ]
    large = np.full((_SLOW_WIDTH, _SLOW_WIDTH), 1 / _SLOW_WIDTH, np.float32)
    w = np.full((4, 3), factor, np.float32)
    return _file(nodes, ("large", large), ("zero", np.zeros((), np.float32)), ("w", w))


def client_of(fleet: Fleet) -> httpx.Client:
    """An administrator's, which answers sooner than a command starts."""
    token = (fleet.registry_data / ADMIN_TOKEN_FILE).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=fleet.url, headers=headers, timeout=30, trust_env=False)


def publish(fleet: Fleet, version: str, content: bytes, *, expected: float | None = None) -> None:
    """Through the API, where nothing is measured; `expected` is what golden vectors say that y is for X."""
    with client_of(fleet) as http:
        put_blob(http, content)
        more: dict[str, object] = {}
        if expected is not None:
            answer = np.full((1, 3), expected, "<f4")
            cases = {"0/in/x": Tensor(Datatype.FP32, X.shape, X.tobytes()),
                     "0/out/y": Tensor(Datatype.FP32, answer.shape, answer.tobytes())}  # fmt: skip
            vectors = write_tensors(cases)
            file = {"path": "golden.safetensors", "digest": put_blob(http, vectors), "size": len(vectors)}
            more["golden"] = {"file": file, "cases": 1}
        manifest = manifest_of(MODEL, version, content, **more)
        http.put(f"/v1/models/{MODEL}/versions/{version}", json=manifest).raise_for_status()
