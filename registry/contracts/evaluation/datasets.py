"""A validation set: one safetensors file with `in/<input>` [N, ...] and `labels` [N], or `out/<output>` [N, ...].

Item i is row i of every tensor, as a request of one item carries it, without the leading dimension. Labels are the
right classes, integers from 0. `out/<output>` is what is expected instead, for the metric `agreement`. Pure.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import AwareDatetime, Field

from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.tensor_file import Buffer, TensorFileError, TensorSpan, read_spans
from registry.contracts.tensors import ITEM_BYTES, MAX_TENSORS, Datatype
from registry.contracts.wire import Digest, Name, VersionName, Wire

MAX_DATASET_BYTES = 1 << 30
MAX_ITEMS = 1_000_000
MAX_NAME = 256
LABELS = "labels"
_SIGNED = (Datatype.INT8, Datatype.INT16, Datatype.INT32, Datatype.INT64)
_LABEL_TYPES = (Datatype.UINT8, Datatype.UINT16, Datatype.UINT32, *_SIGNED)
_Count = Annotated[int, Field(ge=1, le=MAX_ITEMS)]


class Dataset(NamedTuple):
    """The tensors of a validation set, as spans of its file."""

    items: int
    """Examples in the set: the first dimension of every tensor."""
    inputs: dict[str, TensorSpan]
    """By the input's name."""
    expected: dict[str, TensorSpan]
    """What an output should be, by its name."""
    labels: TensorSpan | None
    """The right class of each item. None: the set has none."""

    def specs(self) -> tuple[TensorSpec, ...]:
        """What there is, for listings: `in/x`, `labels`."""
        sides = [(f"in/{name}", span) for name, span in self.inputs.items()]
        sides += [(f"out/{name}", span) for name, span in self.expected.items()]
        sides += [(LABELS, self.labels)] if self.labels else []
        return tuple(TensorSpec(name=name, datatype=span.datatype, shape=span.shape) for name, span in sides)


class DatasetCreate(Wire):
    """PUT body. The blob is there."""

    digest: Digest
    """The blob with the set."""
    size: Annotated[int, Field(ge=1, le=MAX_DATASET_BYTES)]
    """Bytes of the blob."""


class DatasetView(Wire):
    """A published validation set."""

    name: Name
    """Unique; people name it by this."""
    digest: Digest
    """The blob with the set."""
    size: int
    """Bytes of the blob."""
    items: int
    """Examples in it."""
    tensors: tuple[TensorSpec, ...]
    """What it holds: names, datatypes and shapes."""
    created_at: AwareDatetime
    """When it was published, UTC."""
    created_by: str = ""
    """Name of the token that published it."""


class EvaluationCreate(Wire):
    """POST body: what a variant scored where no device was asked."""

    variant: Name
    """What was run."""
    dataset: Name
    """On which published set."""
    metric: Annotated[str, Field(max_length=64)]
    """`accuracy`, ..."""
    value: Annotated[float, Field(ge=0, le=1)]
    """The score; 1 is the best."""
    items: _Count
    """Examples that were run."""
    backend: Annotated[str, Field(max_length=128)]
    """Backend and provider, e.g. `onnxruntime/CPUExecutionProvider`."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """How long the runs took."""


class EvaluationView(Wire):
    """What one variant scored on one device. The newest only: the same again replaces it."""

    id: int
    """Rises."""
    model: Name
    """The model."""
    version: VersionName
    """The version."""
    variant: Name
    """What was run."""
    device: Name | None = None
    """None: measured without a device, by whoever `by` is."""
    dataset: Name
    """Name of the set."""
    dataset_digest: Digest
    """Content of the set."""
    metric: str
    """`accuracy`, ..."""
    value: float
    """The score, 0 to 1; 1 is the best."""
    items: int
    """Examples that were run."""
    backend: str
    """Backend and provider that ran it."""
    seconds: float
    """How long the runs took."""
    at: AwareDatetime
    """When it was measured, UTC."""
    by: str = ""
    """Name of the token that reported it, or asked the device for it."""


def read_dataset(head: Buffer, size: int) -> Dataset:
    """What a file of `size` bytes holds; `head` is at least its header. Raises TensorFileError."""
    if size > MAX_DATASET_BYTES:
        raise TensorFileError(f"it has {size} bytes; a validation set has at most {MAX_DATASET_BYTES}")
    spans = read_spans(head, size, 2 * MAX_TENSORS + 1)
    for name in spans:
        if not name.isprintable() or len(name) > MAX_NAME or name in ("in/", "out/"):
            raise TensorFileError(
                f"{name[:64]!r} is no name: 1 to {MAX_NAME} characters, with in/ or out/, that one can see"
            )
    labels = spans.pop(LABELS, None)
    inputs = {name[3:]: span for name, span in spans.items() if name[:3] == "in/"}
    expected = {name[4:]: span for name, span in spans.items() if name[:4] == "out/"}
    if not inputs or len(inputs) + len(expected) != len(spans) or not (labels or expected):
        raise TensorFileError("a validation set has in/<input> and labels, or out/<output>, and nothing else")
    counts = {span.shape[:1] for span in (*spans.values(), *([labels] if labels else []))}
    (items,) = counts.pop() or (0,)
    if counts or not 1 <= items <= MAX_ITEMS:
        raise TensorFileError(f"its tensors do not all have the same number of items, 1 to {MAX_ITEMS}")
    if labels is not None and labels.datatype not in _LABEL_TYPES:
        raise TensorFileError(f"its labels are {labels.datatype}; class numbers are {', '.join(_LABEL_TYPES)}")
    if labels is not None and len(labels.shape) != 1:
        raise TensorFileError(f"its labels are {list(labels.shape)}, not one number for each item")
    return Dataset(items, inputs, expected, labels)


def require_classes(datatype: Datatype, labels: bytes) -> None:
    """None of these labels, little-endian as they are in the file, is negative. Raises TensorFileError."""
    width = ITEM_BYTES[datatype]
    highest = labels[width - 1 :: width]  # its first bit is the sign
    item = next((item for item, byte in enumerate(highest) if byte & 0x80), None) if datatype in _SIGNED else None
    if item is not None:
        label = int.from_bytes(labels[item * width : (item + 1) * width], "little", signed=True)
        raise TensorFileError(f"the label of item {item} is {label}; classes are numbered from 0")
