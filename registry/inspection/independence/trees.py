"""Operators of ai.onnx.ml: rows of features in, a row of results out."""

from __future__ import annotations

from math import prod

from registry.inspection.independence.forms import reformed
from registry.inspection.independence.nodes import ML, ONE, Node, Size, Value, fresh, product, refuse_if, rule


def _rows(node: Node) -> Value:
    """A matrix with the items as rows. A vector is one row to these operators, whatever its length."""
    value = node.only()
    refuse_if(value.is_item and (value.rank != 2 or value.axis != 0), "the items are not the rows of a matrix")
    return value


@rule("Imputer:1", "Scaler:1", "Normalizer:1", domain=ML, note="the items are the rows of a matrix")
def scaled(node: Node) -> list[Value]:
    """By columns, or within each row."""
    value = _rows(node)
    return [value.moved(value.axis, value.shape)]


@rule("TfIdfVectorizer:9", note="the items are the rows of a matrix")
@rule(
    *("LinearRegressor:1", "TreeEnsembleRegressor:5", "TreeEnsemble:5"),
    domain=ML,
    note="the items are the rows of a matrix",
)
def regressor(node: Node) -> list[Value]:
    """A row of targets, or of counts."""
    value = _rows(node)
    return [Value((value.sizes[0], fresh()), value.axis)]


@rule(
    *("LinearClassifier:1", "TreeEnsembleClassifier:5"),
    domain=ML,
    note="the items are the rows of a matrix",
)
def classifier(node: Node) -> list[Value]:
    """A label, and a row of scores."""
    value = _rows(node)
    return [Value((value.sizes[0],), value.axis), Value((value.sizes[0], fresh()), value.axis)][: node.outputs]


@rule("OneHotEncoder:1", domain=ML, note="always: a new last axis")
def one_hot_encoder(node: Node) -> list[Value]:
    """Each element by itself."""
    value = node.need(0)
    return [Value((*value.sizes, fresh()), value.axis)]


@rule("FeatureVectorizer:1", domain=ML, note="the items are the rows of every matrix")
def feature_vectorizer(node: Node) -> list[Value]:
    """Columns beside each other."""
    values = [value for value in node.inputs if value is not None]
    refuse_if(
        any(value.rank != 2 or value.axis != 0 for value in values) and any(value.is_item for value in values),
        "the items are not the rows of every matrix",
    )
    refuse_if(len({value.sizes[0] for value in values}) != 1, "what goes in has different numbers of rows for an item")
    return [Value((values[0].sizes[0], fresh()), values[0].axis)]


@rule(
    "ArrayFeatureExtractor:1", domain=ML, note="the items lie along another axis than the last, or are places in a row"
)
def array_feature_extractor(node: Node) -> list[Value]:
    """Some places of the last axis. A classifier looks its labels up so, by the place of the largest score."""
    value, places = node.need(0), node.need(1)
    if places.is_item:
        refuse_if(
            value.is_item or value.rank not in (1, 2) or value.sizes[:-1] not in ((), (ONE,)),
            "it takes places by the items in more than a row of constants",
        )
        every = reformed(places, (product(places.sizes),))
        return [Value((ONE, *every.sizes), 1)]
    refuse_if(
        value.is_item and (value.rank < 2 or value.axis == value.rank - 1),
        "it takes places along the axis of the items",
    )
    known = [size.number for size in places.sizes]
    count = fresh() if None in known else Size(prod(number or 0 for number in known))
    return [Value((*value.sizes[:-1], count), value.axis)]
