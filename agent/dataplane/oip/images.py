"""How the pictures of one active worker become its input: what `decode` of registry.pictures is told, and the shape."""

from __future__ import annotations

from math import prod

from registry.contracts.catalogue.manifest import ImageInput, TensorSpec
from registry.contracts.tensors import ITEM_BYTES, Datatype
from registry.pictures.bare import sniff
from registry.pictures.steps import steps_of, value_tables

__all__ = ["PictureInput", "sniff"]


class PictureInput:
    """The steps from a picture to the model's only input."""

    def __init__(self, declared: ImageInput, spec: TensorSpec, max_bytes: int) -> None:
        """Raises ValueError when the declaration does not fit the input, or its tensor is over `max_bytes`."""
        datatype = Datatype(spec.datatype)
        if datatype in (Datatype.BOOL, Datatype.BYTES):
            raise ValueError(f"a picture cannot become {datatype}")
        self.steps = steps_of(declared, str(datatype))
        item = self.steps.shape
        self.datatype = str(datatype)
        self.shape = (1, *item) if len(spec.shape) == 4 else item
        if len(self.shape) != len(spec.shape) or any(
            wanted not in (-1, given) for wanted, given in zip(spec.shape, self.shape, strict=True)
        ):
            raise ValueError(f"a picture makes shape {list(self.shape)}, input {spec.name!r} has {list(spec.shape)}")
        size = prod(item) * ITEM_BYTES[datatype]
        if size > max_bytes:
            raise ValueError(f"a picture makes {size} bytes, over this model's limit of {max_bytes}")
        value_tables(self.steps)
