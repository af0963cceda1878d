"""Which numbers of an output are scores of classes: the same for publisher, device and registry. Pure.

Scores have the shape [N, classes]; dimensions of 1 beside these two do not matter, as a pooling layer leaves them:
[N, classes, 1, 1], [N, 1, classes]. A model without a batch dimension gives [classes].

One number for each item, [N, 1] or [N], is the score of the second of two classes: a probability where the manifest
says `softmax = false`, else a logit, whose softmax against 0 is its sigmoid. With one label it is that label's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registry.contracts.catalogue.manifest import Classification, Manifest, TensorSpec
from registry.contracts.tensors import FLOAT8, Datatype

ROUNDING = 1e-3
"""A probability may lie outside 0 to 1 by that much: a sum of a hundred votes of 0.01 is no 1 in FP16 or FP32."""
_NO_SCORES = (Datatype.BYTES, Datatype.BOOL)
_FLOATS = FLOAT8 | {Datatype.FP16, Datatype.FP32, Datatype.FP64, Datatype.BF16}


class Scores(NamedTuple):
    """An output's shape as scores: dimensions that are not known yet are -1."""

    items: int
    each: int
    """Numbers of one item; 1: the score of the second of two classes."""


def scores_of(shape: Sequence[int], labels: int, declared: Sequence[int] | None = None) -> Scores | None:
    """How an output of that shape holds scores for so many labels; None: it does not.

    [n] is one item with n classes, unless two labels or fewer say that it has one number for each of n items; where it
    is declared as [2] it is one item with two.
    """
    if len(shape) == 1 and (labels > 2 or (labels == 2 and (declared or shape)[0] == 2)):
        return Scores(1, shape[0])
    wide = [dim for dim in shape[1:] if dim != 1]
    if not shape or len(wide) > 1:
        return None
    return Scores(shape[0], wide[0] if wide else 1)


def classification_faults(manifest: Manifest) -> tuple[str, ...]:
    """Why a device could not classify as the manifest says, one sentence each, by what its variants declare."""
    declared = manifest.classification
    if declared is None:
        return ()
    found: list[str] = []
    for variant in manifest.variants:
        if not variant.outputs:
            continue
        spec = next((spec for spec in variant.outputs if spec.name == declared.output), None)
        if spec is None:
            have = ", ".join(spec.name for spec in variant.outputs)
            found.append(f"classification: there is no output {declared.output!r}; the model has: {have}")
        elif fault := scores_fault(declared, spec.datatype, None if spec.any_rank else spec.shape, variant.inputs):
            found.append(f"classification: output {spec.name!r} {fault}")
    return tuple(dict.fromkeys(found))


def scores_fault(
    declared: Classification, datatype: Datatype, shape: Sequence[int] | None, inputs: Sequence[TensorSpec] = ()
) -> str:
    """Why an output cannot be classified so, in words that follow its name; empty: it can, as far as is known.

    Args:
        declared: What the manifest says.
        datatype: Of the output.
        shape: Declared or real; -1 where a dimension, None where nothing of it is known.
        inputs: As declared: they tell whether requests have a batch dimension.
    """
    if datatype in _NO_SCORES:
        return f"is {datatype}; scores are numbers"
    if shape is None:
        return ""
    labels = len(declared.labels)
    if len(shape) == 1:
        return _flat_fault(datatype, shape[0], labels, inputs)
    wide = [dim for dim in shape[1:] if dim != 1]
    known = [dim for dim in wide if dim != -1]
    if not shape or len(known) > 1:
        return f"is {list(shape)}; scores are [N, classes], with nothing but 1 in other dimensions"
    if not wide:
        return _single_fault(datatype, labels)
    return _count_fault(known[0], labels) if known else ""


def _flat_fault(datatype: Datatype, dim: int, labels: int, inputs: Sequence[TensorSpec]) -> str:
    """Of an output [dim]."""
    batched = any(spec.shape[:1] == (-1,) for spec in inputs)
    if dim == -1 and labels == 2 and inputs and not batched:
        return "is [-1], and no input has a batch dimension: is that one item with two scores, or one score of each?"
    if dim == 1 or labels < 2 or (labels == 2 and dim != 2) or (dim == -1 and batched):
        return _single_fault(datatype, labels)
    return _count_fault(dim, labels) if dim != -1 else ""


def _single_fault(datatype: Datatype, labels: int) -> str:
    if labels > 2:
        return f"has one number for each item: the score of the second of two labels, and there are {labels}"
    if datatype not in _FLOATS:
        return f"has one number for each item, and it is {datatype}: a class's number is no score"
    return ""


def _count_fault(classes: int, labels: int) -> str:
    if classes == labels:
        return ""
    return f"has {classes} classes, and there are {labels} labels: each class needs its own, in the model's order"
