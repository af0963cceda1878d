"""Names of classes in the files of other tools are read exactly, or refused: no class gets another one's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.inspection.class_names import MAX_YAML_BYTES, read_class_names
from registry.inspection.facts import InspectionError
from registry.publishing.request import load_publish_file


def read(folder: Path, name: str, text: str) -> tuple[str, ...]:
    (folder / name).write_text(text, encoding="utf-8")
    return read_class_names(folder / name)


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("labels.txt", "cat\n\ndog\n", ("cat", "", "dog")),
        ("names.json", '["cat", "dog"]', ("cat", "dog")),
        ("imagenet_class_index.json", '{"1": ["n2", "dog"], "0": ["n1", "cat"]}', ("cat", "dog")),
        ("class_to_idx.json", '{"dog": 1, "cat": 0}', ("cat", "dog")),
        ("mnist.json", '{"1": 0, "0": 1}', ("1", "0")),
        ("config.json", '\ufeff{"model_type": "x", "id2label": {"0": "cat", "1": "dog"}}', ("cat", "dog")),
        ("coco.yaml", "path: x\nnames:\n  1: dog\n  0: cat\nnc: 2\n", ("cat", "dog")),
        ("data.YML", "names: [cat, dog, 'no', 7]\n", ("cat", "dog", "no", "7")),
        ("plain.yaml", "- cat\n- dog\n", ("cat", "dog")),
    ],
)
def test_the_forms_of_other_tools_are_read(tmp_path: Path, name: str, text: str, names: tuple[str, ...]) -> None:
    assert read(tmp_path, name, text) == names


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"0": "cat", "2": "dog"}', "class 1 is missing"),
        ("a.json", '{"0": "cat", "0": "dog"}', "class 0 is there twice"),
        ("a.json", '{"cat": 0, "dog": 0}', "class 0 is there twice"),
        ("a.json", '{"0": "cat", "01": "dog"}', "'01' is not the number"),
        ("a.json", '{"cat": 0, "dog": true}', "'cat' is not the number"),
        ("a.json", '["cat", null]', "class 1 is null"),
        ("a.json", '["cat", true]', "true or false"),
        ("a.json", '{"0": ["n1", "cat", 1]}', "class 0 is a list"),
        ("a.json", "{}", "neither a list"),
        ("a.json", '"cat"', "neither a list"),
        ("a.json", "[" * 100_000, "labels file"),
        ("a.json", "cat\ndog\n", "labels file"),
        ("a.yaml", "names: {0: cat, 1: no}\n", "put a name into quotes"),
        ("a.yaml", "names: {0: cat, 0: dog}\n", "twice"),
        ("a.yaml", "names: [cat, [dog]]\n", "class 1 is a list"),
        ("a.yaml", "names: cat\n", "neither a list"),
        ("a.yaml", "", "neither a list"),
        ("a.yaml", "names: [cat\n", "labels file"),
        ("a.yaml", "a: &a [x]\nnames: [*a, !!python/object/apply:os.system ['true']]\n", "class 0 is a list"),
        ("a.yaml", "# " + "x" * MAX_YAML_BYTES, "one label a line"),
    ],
)
def test_what_is_not_exactly_one_name_for_each_number_is_refused(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    with pytest.raises(InspectionError, match=said):
        read(tmp_path, name, text)


def test_a_publish_file_names_such_a_file_of_65536_classes(tmp_path: Path) -> None:
    names: dict[str, Any] = {str(number): f"class {number}" for number in range(65_536)}
    (tmp_path / "names.json").write_text(json.dumps(names))
    (tmp_path / "m.toml").write_text(
        'model = "m"\nversion = "1"\n[[variant]]\nfile = "m.onnx"\ntarget = "cpu"\n'
        '[classification]\noutput = "y"\nlabels_file = "names.json"\n'
    )
    said = load_publish_file(tmp_path / "m.toml").classification
    assert said is not None
    assert (len(said.labels), said.labels[-1]) == (65_536, "class 65535")
