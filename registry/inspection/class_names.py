"""The names of classes in a file of another form than one a line: JSON and YAML, as other tools write them.

What is read, by the file's ending:

- `.json`: a list of names; names by number, as Keras has them for ImageNet (`{"0": ["n01440764", "tench"], …}`, whose
  second text is the name); numbers by name (`class_to_idx` of torchvision, `class_indices` of Keras); a `config.json`
  of transformers, whose `id2label` counts.
- `.yaml`, `.yml`: a list or names by number, alone or as `names`, as ultralytics' data sets have them.
- any other: one name a line, `labels.read_labels`.

Every number from 0 on has to be there once. A name is the text as it stands; what is no text (true, 1.5, null) is
refused instead of being written out as one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.inspection.facts import InspectionError
from registry.inspection.labels import read_labels, read_text
from registry.installation import install_command

MAX_YAML_BYTES = 4 << 20
"""PyYAML takes seconds for a megabyte."""
_YAML_TEXTS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:int")
"""Scalars whose text is taken; what others mean differs between readers."""
_WHAT = {bool: "true or false", type(None): "null", list: "a list", dict: "an object", float: "a fraction"}
Pairs = Sequence[tuple[Any, Any]]


class _Object:
    """A JSON object or a YAML mapping with every pair that stands there: a key may come twice."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def get(self, key: str) -> Any:
        return next((value for name, value in self.pairs if name == key), None)


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of the classes in a file, in the order of their numbers.

    Raises:
        InspectionError: it cannot be read, is too long, or is not of one of the forms.
    """
    ending = path.suffix.lower()
    if ending not in (".json", ".yaml", ".yml"):
        return read_labels(path)
    text = read_text(path)
    try:
        said = _json(text) if ending == ".json" else _yaml(text)
        return _names(said)
    except (ValueError, RecursionError) as error:
        raise InspectionError(f"the labels file {path}: {str(error)[:300]}") from None


def _json(text: str) -> Any:
    said = json.loads(text, object_pairs_hook=_Object)
    return said.get("id2label") or said if isinstance(said, _Object) else said


def _yaml(text: str) -> Any:
    try:
        import yaml  # noqa: PLC0415 - only of this form
    except ModuleNotFoundError:
        raise ValueError(f"reading YAML needs PyYAML: {install_command('publish')}") from None
    if len(text.encode()) > MAX_YAML_BYTES:
        raise ValueError(f"it has over {MAX_YAML_BYTES} bytes: write one label a line")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    if isinstance(root, yaml.MappingNode):
        named = next((value for key, value in root.value if key.value == "names"), None)
        root = root if named is None else named

    def plain(node: Any) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return []
        return node.value if node.tag in _YAML_TEXTS else node.tag.rpartition(":")[2] == "bool" or None

    if isinstance(root, yaml.SequenceNode):
        return [plain(node) for node in root.value]
    if isinstance(root, yaml.MappingNode):
        return _Object([(plain(key), plain(value)) for key, value in root.value])
    return None


def _names(said: Any) -> tuple[str, ...]:
    """Raises ValueError: it is none of the forms, or a number is missing or comes twice."""
    if isinstance(said, list):
        said = _Object(list(enumerate(said)))
    if not isinstance(said, _Object) or not said.pairs:
        raise ValueError("it is neither a list of names nor names by number")
    if all(isinstance(value, int) and not isinstance(value, bool) for _, value in said.pairs):
        said = _Object([(number, name) for name, number in said.pairs])
    found: dict[int, str] = {}
    for key, value in said.pairs:
        number = _number(key)
        if number in found:
            raise ValueError(f"class {number} is there twice")
        found[number] = _text(number, value)
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None:
        raise ValueError(f"class {missing} is missing: the numbers have to be 0 to {len(found) - 1}")
    return tuple(found[number] for number in range(len(found)))


def _number(key: Any) -> int:
    text = str(key)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and (text == "0" or text[0] != "0")):
        raise ValueError(f"{text[:80]!r} is not the number of a class")
    return int(text)


def _text(number: int, value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str):  # Keras: WordNet's id and the name
        return value[1]
    if isinstance(value, str):
        return value
    what = _WHAT.get(type(value), "no text")
    raise ValueError(f"the name of class {number} is {what}: put a name into quotes")
