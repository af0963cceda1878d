"""The shapes an OM was converted for: one, some batches, some image sizes, or some sets of dimensions.

ATC fixes them as gears (--dynamic_batch_size, --dynamic_image_size, --dynamic_dims); before each run ACL is told which
one. An OM has one of the three kinds. A batch between two gears is padded to the next where the manifest says that
items are independent; image sizes and dimensions must be those of a gear exactly, because padding would change what the
model sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from agent.backends.ascend_acl_calls import ask
from agent.backends.base import BackendError

SHAPE_INPUT = "ascend_mbatch_shape_data"
"""ACL_DYNAMIC_TENSOR_NAME: the input that ATC adds to a model with gears; no part of the model's signature."""
AIPP_INPUT = "ascend_dynamic_aipp_data"
"""ACL_DYNAMIC_AIPP_NAME: likewise, of a model whose AIPP parameters come with each run."""
MAX_GEARS = 128
"""ACL_MAX_BATCH_NUM, ACL_MAX_HW_NUM; ATC takes 100."""
_ALL_INPUTS = -1
"""The index that ACL asks for in get_dynamic_hw, get_input_dynamic_gear_count and get_input_dynamic_dims."""

Shape = tuple[int, ...]


class Gear(NamedTuple):
    """One set of input shapes, and how ACL is told of it."""

    inputs: Mapping[str, Shape]
    call: str
    argument: tuple[Any, ...]
    """What follows model, dataset and index."""
    batch: int = 0
    """The batch that it is for; 0: it is not for a batch."""
    batched: tuple[str, ...] = ()
    """The inputs whose leading dimension that is."""
    outputs: tuple[Shape, ...] = ()
    """Once ACL has said them."""


def declared_outputs(gears: Sequence[Gear]) -> list[Shape]:
    """The outputs' shapes for the signature: -1 where gears differ. Raises BackendError(load_failed)."""
    return [_declared(gears, index) for index in range(len(gears[0].outputs))]


def _declared(gears: Sequence[Gear], index: int) -> Shape:
    shapes = [gear.outputs[index] for gear in gears]
    if len({len(shape) for shape in shapes}) != 1:
        raise BackendError("load_failed", "an output of the OM has another rank with another gear")
    if not gears[0].batch:
        return tuple(dims[0] if len(set(dims)) == 1 else -1 for dims in zip(*shapes))
    is_batch = bool(shapes[0]) and all(shape[0] == gear.batch for gear, shape in zip(gears, shapes))
    rest = {shape[1:] if is_batch else shape for shape in shapes}
    if len(rest) != 1:
        raise BackendError("load_failed", "an output's shape follows the batch in another way than being it")
    return (-1, *rest.pop()) if is_batch else rest.pop()


def read_gears(acl: Any, desc: int, inputs: Mapping[str, Shape]) -> tuple[Gear, ...]:
    """The gears of a model that has SHAPE_INPUT, smallest batch first. `inputs`: all others, -1 where dynamic.

    Raises BackendError(load_failed) when they are of none of the three kinds.
    """
    found = ask(acl, "mdl.get_dynamic_batch", desc)
    if found["batchCount"]:
        gears = [_batch_gear(inputs, batch) for batch in sorted(found["batch"][: found["batchCount"]])]
        return _checked(gears, inputs)
    found = ask(acl, "mdl.get_dynamic_hw", desc, _ALL_INPUTS)
    if found["hwCount"]:
        return _checked([_image_gear(inputs, size) for size in found["hw"][: found["hwCount"]]], inputs)
    count = ask(acl, "mdl.get_input_dynamic_gear_count", desc, _ALL_INPUTS)
    if not 0 < count <= MAX_GEARS:
        raise BackendError("load_failed", f"the OM has {count} sets of dynamic dims: it is not one that ATC makes")
    sets = ask(acl, "mdl.get_input_dynamic_dims", desc, _ALL_INPUTS, count)
    return _checked([_dims_gear(inputs, dims) for dims in sets], inputs)


def choose_gear(gears: Sequence[Gear], shapes: Mapping[str, Shape], *, can_pad: bool) -> Gear:
    """The gear for a request's shapes: the very one, or of batches the next. Raises BackendError(wrong_shape)."""
    for gear in gears:
        if gear.inputs == shapes:
            return gear
    if gears[0].batch and can_pad:
        batch = batch_of(gears[0], shapes)
        for gear in gears:
            if 0 < batch <= gear.batch:
                return gear
    raise BackendError(
        "wrong_shape",
        f"{_asked(gears[0], shapes)} does not fit: the OM was converted for {_show(gears)}"
        + ("" if can_pad or not gears[0].batch else "; others are filled up only where items are declared independent"),
    )


def _batch_gear(inputs: Mapping[str, Shape], batch: int) -> Gear:
    shapes = {name: (batch, *shape[1:]) if shape[:1] == (-1,) else shape for name, shape in inputs.items()}
    batched = tuple(name for name, shape in inputs.items() if shape[:1] == (-1,))
    return Gear(shapes, "mdl.set_dynamic_batch_size", (batch,), batch, batched)


def _image_gear(inputs: Mapping[str, Shape], size: Sequence[int]) -> Gear:
    """Height stands before width in NCHW and in NHWC."""
    height, width = int(size[0]), int(size[1])
    shapes = {}
    for name, shape in inputs.items():
        left = [height, width] if shape.count(-1) == 2 else []
        shapes[name] = tuple(left.pop(0) if dim == -1 and left else dim for dim in shape)
    return Gear(shapes, "mdl.set_dynamic_hw_size", (height, width))


def _dims_gear(inputs: Mapping[str, Shape], dims: Mapping[str, Any]) -> Gear:
    """ACL says the dimensions of all inputs in a row, the static ones too."""
    row = [int(dim) for dim in dims["dims"][: dims["dimCount"]]]
    if len(row) != sum(map(len, inputs.values())):
        raise BackendError("load_failed", f"the OM's dynamic dims {row} are not those of its inputs")
    shapes, rest = {}, row
    for name, shape in inputs.items():
        shapes[name], rest = tuple(rest[: len(shape)]), rest[len(shape) :]
    return Gear(shapes, "mdl.set_input_dynamic_dims", ({"name": "", "dimCount": len(row), "dims": row},))


def _checked(gears: Sequence[Gear], inputs: Mapping[str, Shape]) -> tuple[Gear, ...]:
    if not 0 < len(gears) <= MAX_GEARS:
        raise BackendError("load_failed", f"the OM has {len(gears)} gears")
    for gear in gears:
        for name, shape in gear.inputs.items():
            if any(dim < 1 or want not in (-1, dim) for dim, want in zip(shape, inputs[name])):
                raise BackendError("load_failed", f"a gear of the OM gives input {name!r} the shape {list(shape)}")
    return tuple(gears)


def batch_of(gear: Gear, shapes: Mapping[str, Shape]) -> int:
    """The batch that all inputs with one agree on; 0 when they do not, or have none."""
    batches = {shapes[name][0] for name in gear.batched}
    return batches.pop() if len(batches) == 1 else 0


def _asked(gear: Gear, shapes: Mapping[str, Shape]) -> str:
    if gear.batch:
        return f"a batch of {batch_of(gear, shapes)}"
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def _show(gears: Sequence[Gear]) -> str:
    if gears[0].batch:
        return ", ".join(str(gear.batch) for gear in gears)
    shown = [", ".join(f"{name} {list(shape)}" for name, shape in gear.inputs.items()) for gear in gears[:8]]
    return "; ".join(shown) + (f"; and {len(gears) - 8} more" if len(gears) > 8 else "")
