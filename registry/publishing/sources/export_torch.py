"""The program that exports one PyTorch model to ONNX, by torch.onnx: run by the Python that has both, in a sandbox.

`export_child` says how it is asked; of this one, "kind" is "torchscript", "program" (torch.export) or "pickle", and
"inputs" [[name, NumPy type, shape with -1 for any size]], which only a program says itself. What was exported is
computed by ONNX Runtime, where it is installed, or onnx's reference, and compared with the model itself on random
inputs.

A TorchScript module goes through torch.onnx's older exporter, the only one that takes it; everything else through the
one built on torch.export, which needs onnxscript.
"""

from __future__ import annotations

import inspect
import os
import sys
import types

if __name__ == "__main__":
    # Only this one package becomes importable, not what lies beside it: that is another interpreter's.
    package = types.ModuleType("registry")
    package.__path__ = [os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))]
    sys.modules["registry"] = package

from typing import Any

from registry.publishing.sources.export_child import ExportRefusal, answer, distance

ROWS = 64
MOST_ELEMENTS = 1 << 22
"""Of an input that is compared: fewer rows of a large one."""
MOST_INSIDE = 1 << 30
"""Bytes of weights inside the ONNX file; more of them go into a file beside it."""
SIZES, OTHER_SIZES = (2, 64), (3, 96)
"""What stands for open sizes of the first axis and of others while the model is traced, since 1 would be taken for a
constant, and while it is looked at which sizes of outputs follow from them."""
DRAWS = 8
"""Inputs that are compared one after the other, where the model takes no other batch."""


def load(order: dict[str, Any]) -> Any:
    """The model, ready to answer."""
    import torch  # noqa: PLC0415 - starts threads, which Landlock holds only when they start after it

    path, kind = order["file"], order["kind"]
    if kind == "torchscript":
        return torch.jit.load(path, map_location="cpu").eval()
    if kind == "program":
        if not order["pickle"]:
            raise ExportRefusal("torch.export.load unpickles; --trust-pickle allows it")
        return torch.export.load(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if not order["pickle"]:
            raise ExportRefusal(
                "it is a pickle with more than tensors in it: reading it runs whatever code its author put into it. "
                "If you trust the author, give --trust-pickle; or save the model as TorchScript: "
                "torch.jit.trace(model, example).save(FILE)"
            ) from error
        held = torch.load(path, map_location="cpu", weights_only=False)
    if isinstance(held, torch.nn.Module):
        return held.eval()
    if isinstance(held, dict):
        names = ", ".join(str(key) for key in list(held)[:5])
        raise ExportRefusal(
            f"it holds a dictionary ({names[:200]}), as a state_dict or a checkpoint of a training is, and not the "
            "code of the network. Build the network, load the weights into it (load_state_dict), and export it: "
            "torch.jit.trace(model.eval(), example).save(FILE), or torch.onnx.export. YOLO models of ultralytics: yolo "
            "export format=onnx"
        )
    raise ExportRefusal(f"it holds a {type(held).__name__}, not a module")


def export(model: Any, kind: str, inputs: Any, out: str) -> None:
    """Writes the ONNX file."""
    import torch  # noqa: PLC0415 - as above

    if kind == "program":
        torch.onnx.export(model, f=out, dynamo=True, external_data=_large(model.state_dict))
        return
    if not inputs:
        raise ExportRefusal(
            "it does not say its inputs: give each with --input NAME:TYPE:DIMS, as x:FP32:-1,3,224,224 (-1: any size)"
        )
    _require_own_order(model, [name for name, _, _ in inputs])
    examples, others = (_examples(inputs, *sizes) for sizes in (SIZES, OTHER_SIZES))
    given, answered = ([value.shape for value in _answered(model, each)] for each in (examples, others))
    if [len(shape) for shape in given] != [len(shape) for shape in answered]:
        raise ExportRefusal("it answers with other outputs for inputs of another size")
    names = [name for name, _, _ in inputs]
    outputs = ["output"] if len(given) == 1 else [f"output_{number}" for number in range(len(given))]
    options: dict[str, Any] = {"input_names": names, "output_names": outputs}
    options["external_data"] = _large(model.state_dict())
    if kind == "torchscript":
        axes = {name: _open(shape, name) for name, _, shape in inputs}
        for name, first, second in zip(outputs, given, answered):
            axes[name] = _open([one if one == two else -1 for one, two in zip(first, second)], name)
        torch.onnx.export(model, examples, out, dynamo=False, dynamic_axes=axes, **options)
    else:
        any_size = torch.export.Dim.DYNAMIC
        shapes = tuple({at: any_size for at, dim in enumerate(shape) if dim < 0} or None for _, _, shape in inputs)
        torch.onnx.export(model, examples, out, dynamo=True, dynamic_shapes=shapes, **options)


def _require_own_order(model: Any, names: list[str]) -> None:
    """The inputs are told by their places: a name that the model has at another place is a mistake."""
    schema = getattr(model.forward, "schema", None)
    if schema is None:
        own = list(inspect.signature(model.forward).parameters)
    else:
        own = [each.name for each in schema.arguments][1:]
    if any(name in own and own.index(name) != at for at, name in enumerate(names)):
        raise ExportRefusal(f"the inputs are said as {', '.join(names)}, and the model takes {', '.join(own)}")


def compare(model: Any, inputs: Any, out: str) -> dict[str, Any]:
    """How far what was written is from the model itself. Raises ExportRefusal: too far, or it answers otherwise."""
    import numpy as np  # noqa: PLC0415 - as above
    import onnx  # noqa: PLC0415

    graph = onnx.load(out, load_external_data=False).graph
    takes = {spec.name: spec.type.tensor_type for spec in graph.input}
    if inputs is None:  # an exported program: its file says what it takes, in the order of its inputs
        kinds = {name: str(onnx.helper.tensor_dtype_to_np_dtype(each.elem_type)) for name, each in takes.items()}
        inputs = [
            (name, kinds[name], [dim.dim_value if dim.HasField("dim_value") else -1 for dim in each.shape.dim])
            for name, each in takes.items()
        ]
    joined = all(shape and shape[0] < 0 for _, _, shape in inputs)
    each = max(int(np.prod([OTHER_SIZES[1] if dim < 0 else dim for dim in shape[1:]])) for _, _, shape in inputs)
    rows = max(2, min(ROWS, MOST_ELEMENTS // max(1, each)))
    draws = [rows] if joined else [SIZES[0]] * min(rows, DRAWS)
    runs, largest, compared = _runner(out), 0.0, [0]
    for number, size in enumerate(draws):
        given = _examples(inputs, size, OTHER_SIZES[1], seed=number)
        wanted = _answered(model, given)
        if number == 0:
            _require_same(wanted, _answered(model, given))
            compared = [0] * len(wanted)
        named = zip((name for name, _, _ in inputs), given)
        found = runs({name: value.numpy() for name, value in named if name in takes})
        if len(found) != len(wanted):
            raise ExportRefusal(f"the exported model has {len(found)} outputs, and the model itself {len(wanted)}")
        for index, (mine, its) in enumerate(zip(wanted, found)):
            if mine.shape != its.shape:
                raise ExportRefusal(f"output {index} is {list(its.shape)}, and {list(mine.shape)} of the model itself")
            largest = max(largest, distance(mine, its))
            compared[index] += mine.size
    empty = [index for index, count in enumerate(compared) if not count]
    return {"compared": rows if joined else len(draws), "difference": largest, "empty": empty}


def _answered(model: Any, given: Any) -> list[Any]:
    """What the model itself answers; it may write into its inputs, so it gets copies."""
    import torch  # noqa: PLC0415 - as above

    with torch.no_grad():
        return [value.numpy() for value in _flat(model(*(each.clone() for each in given)))]


def _require_same(first: list[Any], second: list[Any]) -> None:
    """A model that keeps a state would be exported with that of this moment."""
    same = [each.shape for each in first] == [each.shape for each in second]
    try:
        for one, other in zip(first, second) if same else ():
            distance(one, other)
    except ExportRefusal:
        same = False
    if not same:
        raise ExportRefusal(
            "it answers the same inputs otherwise the second time: it keeps a state, or draws random numbers, as "
            "dropout in training does. Save it after model.eval(), with its state among the inputs"
        )


def _runner(out: str) -> Any:
    """Computes the written model: a call from named inputs to outputs."""
    try:
        import onnxruntime  # noqa: PLC0415 - as above; not everywhere
    except ImportError:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - as above

        reference = ReferenceEvaluator(out)
        return lambda feeds: reference.run(None, feeds)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _examples(inputs: Any, first: int, others: int, seed: int = 0) -> tuple[Any, ...]:
    """Random tensors: `first` along an open first axis, `others` along other open ones."""
    import numpy as np  # noqa: PLC0415 - as above
    import torch  # noqa: PLC0415

    random = np.random.default_rng(seed)

    def one(kind: str, shape: Any) -> Any:
        sizes = [dim if dim >= 0 else first if at == 0 else others for at, dim in enumerate(shape)]
        if np.dtype(kind).kind == "f":
            return torch.from_numpy(np.asarray(random.standard_normal(sizes)).astype(kind))
        return torch.from_numpy(random.integers(0, 2, sizes).astype(kind))  # an index of a table has to be in it

    return tuple(one(kind, shape) for _, kind, shape in inputs)


def _flat(answered: Any) -> list[Any]:
    """The tensors of an answer. Raises ExportRefusal: there are others."""
    import torch  # noqa: PLC0415 - as above

    values = torch.utils._pytree.tree_leaves(answered)  # noqa: SLF001 - torch.onnx flattens so
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        raise ExportRefusal("it answers with something else than tensors")
    return [value.detach() for value in values]


def _open(shape: Any, name: str) -> dict[int, str]:
    return {at: "batch" if at == 0 else f"{name}_{at}" for at, dim in enumerate(shape) if dim < 0}


def _large(weights: Any) -> bool:
    sizes = (each.numel() * each.element_size() for each in weights.values() if hasattr(each, "numel"))
    return bool(sum(sizes) > MOST_INSIDE)


def _callable(model: Any) -> Any:
    """An exported program, as a call with its inputs in order."""
    from torch.utils import _pytree  # noqa: PLC0415 - as above

    module, form = model.module(), model.call_spec.in_spec

    def call(*flat: Any) -> Any:
        if len(flat) != form.num_leaves:
            raise ExportRefusal(f"the exported model has {len(flat)} inputs, and the program itself {form.num_leaves}")
        args, kwargs = _pytree.tree_unflatten(list(flat), form)
        return module(*args, **kwargs)

    return call


def exported(order: dict[str, Any]) -> dict[str, Any]:
    """One model."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the comparison is on the CPU; a GPU's driver needs what is closed
    if not order["pickle"]:
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    import torch  # noqa: PLC0415 - only now: see `load`

    model = load(order)
    program = order["kind"] == "program"
    if program and order["inputs"]:
        raise ExportRefusal("an exported program says its inputs itself: leave out --input")
    with torch.no_grad():
        export(model, order["kind"], order["inputs"], order["out"])
        said = compare(_callable(model) if program else model, order["inputs"] or None, order["out"])
    return {"version": torch.__version__, **said}


if __name__ == "__main__":
    answer(exported)
