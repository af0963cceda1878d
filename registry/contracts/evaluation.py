"""A validation set: one safetensors file with `in/<input>` [N, ...] and `labels` [N], or `out/<output>` [N, ...].

Item i is row i of every tensor, as a request of one item carries it, without the leading dimension. Labels are the
right classes, integers from 0. `out/<output>` is what is expected instead, for the metric `agreement`. Pure.

A classifier is scored on it the same way on a device and without one, and without an import of NumPy: arrays come in,
only their operators and methods are used. A row of scores with a NaN counts as wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias

from pydantic import AwareDatetime, Field

from registry.contracts.catalogue.classes import scores_of
from registry.contracts.catalogue.manifest import Classification, TensorSpec
from registry.contracts.tensor_file import Buffer, TensorFileError, TensorSpan, read_spans, shape_fits
from registry.contracts.tensors import ITEM_BYTES, MAX_TENSORS, Datatype, numbers
from registry.contracts.wire import Digest, Integer, Name, VersionName, Wire

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
    size: Integer
    """Bytes of the blob."""
    items: Integer
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

    id: Integer
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
    items: Integer
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


Array: TypeAlias = Any
"""A `numpy.ndarray`."""


class TopK:
    """The share of items whose right class is among the k best. Of equal scores the first is the better one."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._right = 0
        self._items = 0

    def add(self, scores: Array, labels: Array) -> None:
        """A batch: scores [N, classes], the right classes [N] (integers in range)."""
        best = (-scores).argsort(-1, kind="stable")[:, : self._k]
        found = (best == labels.reshape(-1, 1)).any(-1)
        self._right += int((found & _whole(scores)).sum())
        self._items += len(labels)

    def value(self) -> float:
        """Of all batches so far; 0..1."""
        return self._right / self._items if self._items else 0.0


class MacroF1:
    """The mean over the classes that occur of 2 TP / (2 TP + FP + FN)."""

    def __init__(self) -> None:
        self._hits: Counter[int] = Counter()
        self._said: Counter[int] = Counter()
        self._true: Counter[int] = Counter()

    def add(self, scores: Array, labels: Array) -> None:
        """As in TopK."""
        said = scores.argmax(-1)
        self._hits.update(labels[(said == labels) & _whole(scores)].tolist())
        self._said.update(said.tolist())
        self._true.update(labels.tolist())

    def value(self) -> float:
        """As in TopK."""
        classes = self._said.keys() | self._true.keys()
        each = [2 * self._hits[c] / (self._said[c] + self._true[c]) for c in classes]
        return sum(each) / len(each) if each else 0.0


METRICS: dict[str, Callable[[], TopK | MacroF1]] = {
    "accuracy": lambda: TopK(1),
    "top5": lambda: TopK(5),
    "macro_f1": MacroF1,
    "agreement": lambda: TopK(1),
}
"""`agreement` takes as right what the set's expected output has as its top class, not the labels."""
BY_EXPECTED = frozenset({"agreement"})
"""Metrics that need an expected output in the validation set; the others need labels."""


def _whole(scores: Array) -> Array:
    """Rows without a NaN."""
    return (abs(scores) >= 0).all(-1)


def input_names(dataset: Dataset, inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Model input to the dataset's: by name, or the only one to the only one. Types and shapes are checked.

    Raises TensorFileError.
    """
    names = {spec.name: spec.name for spec in inputs}
    if len(inputs) == 1 and len(dataset.inputs) == 1:
        names = {inputs[0].name: next(iter(dataset.inputs))}
    for spec in inputs:
        span = dataset.inputs.get(names[spec.name])
        if span is None:
            raise TensorFileError(f"it has no input {spec.name!r}, only {', '.join(dataset.inputs)}")
        if span.datatype != spec.datatype or not spec.shape or not shape_fits(span.shape[1:], spec.shape[1:]):
            have, want = f"{span.datatype} {list(span.shape[1:])}", f"{spec.datatype} {list(spec.shape[1:])}"
            raise TensorFileError(f"an item of its input {names[spec.name]!r} is {have}, the model takes {want}")
    return names


def scores_output(classification: Classification | None, outputs: Sequence[TensorSpec]) -> str:
    """The output with the scores (`catalogue.classes`): the classification's, else the only one of that form.

    Raises TensorFileError.
    """
    if classification is not None:
        return classification.output
    shapes = {spec.name: scores_of(spec.shape, 0) for spec in outputs}
    found = [name for name, scores in shapes.items() if scores is not None and scores.each not in (0, 1)]
    if len(found) != 1:
        raise TensorFileError(f"which of its outputs has the scores? {', '.join(found) or 'none is [N, classes]'}")
    return found[0]


def target_of(dataset: Dataset, metric: str, output: str) -> TensorSpan:
    """What is right, by that metric: the labels, or the expected scores. Raises TensorFileError."""
    target = dataset.expected.get(output) if metric in BY_EXPECTED else dataset.labels
    if target is None:
        needed = f"out/{output}" if metric in BY_EXPECTED else LABELS
        raise TensorFileError(f"the metric {metric} needs {needed} in the validation set")
    return target


class Scoring:
    """One validation set through one model, by one metric; items are added in order."""

    def __init__(
        self,
        dataset: Dataset,
        metric: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        classification: Classification | None,
    ) -> None:
        """Raises TensorFileError: the set does not go with the model or the metric, which is one of METRICS."""
        names = input_names(dataset, inputs)
        self.inputs = {name: dataset.inputs[there] for name, there in names.items()}
        """Model input to where its items are."""
        self.output = scores_output(classification, outputs)
        self.target = target_of(dataset, metric, self.output)
        """Where the right answers are: labels, or expected scores."""
        self.rows = max(1, *(spec.shape[0] for spec in inputs))
        """Items of one request: 1, or as many as a variant was built for."""
        self._datatype = next((spec.datatype for spec in outputs if spec.name == self.output), None)
        self._by_expected = metric in BY_EXPECTED
        self._metric = METRICS[metric]()
        self._classification = classification

    def add(self, output: Array, right: Array) -> None:
        """What the model gave for the next items, and the same items of the target; of more, the rest is not looked at.

        Raises TensorFileError: the output has no scores, or a label is none of its classes.
        """
        scores = self._scores(output)
        if scores is None or scores.shape[1] < 2 or len(scores) < len(right):
            raise TensorFileError(f"the output {self.output!r} is not [N, classes]")
        scores = scores[: len(right)]
        labels = (numbers(self.target.datatype, right).argmax(-1) if self._by_expected else right).astype("<i8")
        if labels.min() < 0 or labels.max() >= scores.shape[1]:
            raise TensorFileError(f"its labels are not all from 0 to {scores.shape[1] - 1}, as the model's classes are")
        self._metric.add(scores, labels)

    def _scores(self, output: Array) -> Array | None:
        """[N, classes] in double precision; None: it has no scores."""
        declared = self._classification
        shape = scores_of(output.shape, len(declared.labels) if declared else 3)
        if self._datatype is None or shape is None:
            return None
        scores = numbers(self._datatype, output).reshape(shape)
        if shape.each != 1 or declared is None or len(declared.labels) > 2:
            return scores
        # The score of the second of two classes: a logit against 0, a probability against 1 - p.
        both = scores.repeat(2, axis=1)
        both[:, 0] = 0 if declared.softmax else 1 - both[:, 1]
        return both

    def value(self) -> float:
        """Of all items so far."""
        return self._metric.value()


def items_at(array: Array, at: int, count: int) -> Array:
    """The items from `at` on, `count` of them: the last one again where there are not so many."""
    return array.take(list(range(at, at + count)), axis=0, mode="clip")
