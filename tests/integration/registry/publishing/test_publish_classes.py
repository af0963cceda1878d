"""What a publish file says of pictures and classes is read as it stands, and compared with the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.models import onnx_models
from tests.support.programs.cli import Cli, Ran

FILE = """
model = "{name}"
version = "1"
[[variant]]
file = "model.onnx"
target = "cpu"
[classification]
output = "y"
labels_file = "labels.txt"
"""


def publish(cli: Cli, name: str, model: bytes, labels: bytes, more: str = "", *, code: int = 0) -> Ran:
    (cli.folder / "model.onnx").write_bytes(model)
    (cli.folder / "labels.txt").write_bytes(labels)
    (cli.folder / "file.toml").write_text("\ufeff" + FILE.format(name=name) + more, encoding="utf-8")
    return cli("publish", "file.toml", "--json", code=code)


def test_a_blank_line_is_a_class_and_a_byte_order_mark_is_none(cli: Cli) -> None:
    model = onnx_models.one_op("GlobalAveragePool", ["N", 4, 8, 8], out_shape=["N", 4, 1, 1])
    publish(cli, "blank", model, "\ufeffcat\r\n\r\nd\u2028g\r\nfish \r\n".encode())
    manifest = cli("show", "blank@1", "--json").document["manifest"]
    assert manifest["classification"]["labels"] == ["cat", "", "d\u2028g", "fish "]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (b"cat\ndog\nfish\n", "4 classes, and there are 3 labels"),
        (b"cat\ndog\nfish\nbird\n\n", "4 classes, and there are 5 labels"),
        (b"a\n" * (6 << 20) + b"a", "has over 12582912 bytes"),
        ("cat\n".encode("utf-16"), "is UTF-16"),
        (b"cat\nd\xf6g\n", "is not UTF-8 (line 2)"),
    ],
)
def test_labels_that_are_not_the_models_are_refused(cli: Cli, labels: bytes, says: str) -> None:
    error = publish(cli, "refused", onnx_models.one_op("Relu", ["N", 4]), labels, code=2).error
    assert says in error["message"] + "".join(error["errors"])
    cli("show", "refused", code=3)


def test_a_model_may_have_65536_classes(cli: Cli) -> None:
    labels = "".join(f"class number {number} of many\n" for number in range(65_536))
    publish(cli, "wide", onnx_models.one_op("Relu", ["N", 65_536]), labels.encode(), "softmax = false\n")
    manifest = cli("show", "wide@1", "--json").document["manifest"]
    assert manifest["classification"]["labels"][65_535] == "class number 65535 of many"
    more = publish(cli, "wider", onnx_models.one_op("Relu", ["N", 65_537]), labels.encode() + b"more\n", code=2).error
    assert "65536" in more["message"] + "".join(more["errors"])


@pytest.mark.parametrize(
    ("operator", "softmax", "says"),
    [
        ("Relu", "", "say softmax = true where it is a logit"),
        ("Sigmoid", "softmax = true", "a probability by the model's own Sigmoid"),
        ("Sigmoid", "softmax = false", ""),
        ("Relu", "softmax = true", ""),
    ],
)
def test_the_publisher_says_what_one_number_for_each_item_is(cli: Cli, operator: str, softmax: str, says: str) -> None:
    model = onnx_models.one_op(operator, ["N", 1])
    name = f"single-{operator}-{softmax[-5:].strip() or 'unsaid'}".lower()
    if says:
        assert says in "".join(publish(cli, name, model, b"no\nyes\n", softmax, code=2).error["errors"])
    else:
        publish(cli, name, model, b"no\nyes\n", softmax)


def test_a_softmax_of_a_softmax_is_warned_of(cli: Cli) -> None:
    ran = publish(cli, "twice", onnx_models.one_op("Softmax", ["N", 2]), b"a\nb\n")
    assert "softmax once more" in "".join(ran.document["warnings"])


def test_a_picture_that_makes_another_shape_is_refused(cli: Cli, tmp_path: Path) -> None:
    image = '[image]\ninput = "x"\nheight = 8\nwidth = 9\n'
    model = onnx_models.one_op("GlobalAveragePool", ["N", 3, 8, 8], out_shape=["N", 3, 1, 1])
    error = publish(cli, "picture", model, b"a\nb\nc\n", image, code=2).error
    said = "a picture makes [3, 8, 9], with any dimensions of 1, and input 'x' is [-1, 3, 8, 8]"
    assert said in "".join(error["errors"])


def test_a_name_that_cannot_be_is_refused_with_one_that_can(cli: Cli) -> None:
    (cli.folder / "model.onnx").write_bytes(onnx_models.one_op("Relu", ["N", 4]))
    error = cli("publish", "Best Modèle #1", "model.onnx", "--version", "1", "--target", "cpu", "--json", code=2).error
    assert "for example 'best-modele-1'" in error["errors"][0]


def test_a_folder_and_a_text_form_are_named_for_what_they_are(cli: Cli) -> None:
    (cli.folder / "saved").mkdir()
    (cli.folder / "saved" / "saved_model.pb").touch()
    (cli.folder / "net.xml").write_text('<?xml version="1.0"?><net name="n" version="11"></net>')
    words = ("--version", "1", "--target", "cpu", "--json")
    assert "is a TensorFlow SavedModel" in cli("publish", "other", "saved", *words, code=1).error["message"]
    assert "is an OpenVINO IR" in cli("publish", "other", "net.xml", *words, code=1).error["message"]


def test_a_renamed_model_file_takes_no_other_files_place(cli: Cli) -> None:
    (cli.folder / "a model.onnx").write_bytes(onnx_models.external("a-model.onnx"))
    (cli.folder / "a-model.onnx").write_bytes(bytes(12))
    cli("publish", "twins", "a model.onnx", "--version", "1", "--target", "cpu")
    (variant,) = cli("show", "twins@1", "--json").document["manifest"]["variants"]
    assert variant["entry"] == "model-a-model.onnx"
    assert {file["path"] for file in variant["files"]} == {"model-a-model.onnx", "a-model.onnx"}
