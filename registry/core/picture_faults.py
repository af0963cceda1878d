"""Whether a picture can become the input as `image` says. Pure. The steps are those of the agent's decoder."""

from __future__ import annotations

from collections.abc import Iterator

from registry.contracts.catalogue.manifest import ImageInput, Manifest, TensorSpec
from registry.contracts.tensors import Datatype

_LARGEST = {Datatype.FP16: 65504.0, Datatype.FP32: 3.4028234663852886e38, Datatype.BF16: 3.3895313892515355e38}
_INTEGERS = frozenset(kind for kind in Datatype if "INT" in kind)


def picture_faults(manifest: Manifest) -> tuple[str, ...]:
    """Why a device would refuse every picture, one sentence each, by what the variants declare."""
    image = manifest.image
    if image is None:
        return ()
    found: list[str] = []
    for variant in manifest.variants:
        if variant.inputs:
            found += [f"image: {fault}" for fault in _faults(image, variant.inputs)]
    return tuple(dict.fromkeys(found))


def picture_warnings(manifest: Manifest) -> tuple[str, ...]:
    """What a device would do, though hardly anybody means it."""
    image = manifest.image
    for spec in manifest.variants[0].inputs if image is not None else ():
        if image is not None and spec.name == image.input and spec.datatype in _INTEGERS:
            values = [value for channel in _extremes(image) for value in channel]
            low, high = min(values), max(values)
            if high - low < 2:
                said = f"image: its scale, mean and std leave values from {low:g} to {high:g}"
                return (f"{said}, which are rounded to {spec.datatype}: for the pixels as they are, scale = 1",)
    return ()


def _faults(image: ImageInput, inputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    names = ", ".join(spec.name for spec in inputs)
    spec = next((spec for spec in inputs if spec.name == image.input), None)
    if spec is None:
        yield f"there is no input {image.input!r}; the model has: {names}"
        return
    if len(inputs) != 1:
        yield f"{image.input!r} must be the only input, and the model has: {names}"
    if spec.datatype in (Datatype.BOOL, Datatype.BYTES):
        yield f"a picture cannot become {spec.datatype}"
    shape = picture_shape(image)
    item = shape if len(spec.shape) == 4 else shape[1:]
    if spec.any_rank:
        pass
    elif len(item) != len(spec.shape) or any(w not in (-1, g) for w, g in zip(spec.shape, item, strict=True)):
        yield f"a picture makes {item}, and input {spec.name!r} is {list(spec.shape)}"
    largest = _LARGEST.get(spec.datatype)
    if largest is not None and any(abs(value) > largest for channel in _extremes(image) for value in channel):
        yield f"its scale, mean and std make values that {spec.datatype} cannot hold"


def picture_shape(image: ImageInput) -> list[int]:
    """Of a batch of one."""
    channels = 1 if image.channels == "L" else 3
    size = [image.height, image.width]
    return [1, channels, *size] if image.layout == "NCHW" else [1, *size, channels]


def _extremes(image: ImageInput) -> list[tuple[float, float]]:
    """What pixels of 0 and 255 become, by channel."""
    channels = 1 if image.channels == "L" else 3
    pairs = zip(image.mean or (0.0,) * channels, image.std or (1.0,) * channels, strict=True)
    return [((0 * image.scale - mean) / std, (255 * image.scale - mean) / std) for mean, std in pairs]
