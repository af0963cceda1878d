"""A version without golden vectors is tried once; another version's vectors, or its model, say what is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.models import onnx_models
from tests.support.programs.cli import Cli, Ran


def publish(cli: Cli, name: str, content: bytes, *words: object, version: str = "1", code: int = 0) -> Ran:
    (cli.folder / "model.onnx").write_bytes(content)
    return cli("publish", name, "model.onnx", "--version", version, "--target", "cpu", "--json", *words, code=code)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nan", onnx_models.one_op("Log", ["N", 3], "FP32", out_shape=["N", 3]), ""),
        ("zeros", onnx_models.scaled(0.0, 3), "output 'y' is 0.0 in all of its 3 elements"),
        ("empty", onnx_models.sliced_away(), "output 'y' is empty"),
        ("not-a-number", onnx_models.scaled(float("nan"), 3), "output 'y' holds NaN"),
        ("infinite", onnx_models.scaled(float("inf"), 3), "output 'y' holds infinity"),
        ("deaf", onnx_models.deaf(), "output 'y' is the same for two different requests"),
        ("fails", onnx_models.reshaped_wrongly(), ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_single_variant_is_tried_once_and_what_is_odd_is_warned_of(
    cli: Cli, name: str, content: bytes, says: str
) -> None:
    ran = publish(cli, name, content)
    warnings = [text for text in ran.document["warnings"] if "output" in text]
    assert len(warnings) == bool(says)
    assert says in "".join(warnings)
    assert ran.document["manifest"].get("golden") is None
    assert publish(cli, name, content).document["created"] is False


def test_nothing_is_tried_where_the_publisher_says_so(cli: Cli) -> None:
    ran = publish(cli, "untried", onnx_models.scaled(0.0, 3), "--golden-random", "0")
    assert ran.document["warnings"] == []


def test_the_vectors_of_another_version_judge_a_new_one(cli: Cli) -> None:
    publish(cli, "of", onnx_models.scaled(2.0, 3), "--golden-random", 3, "--tolerance", "absolute=0.01")
    first = cli("show", "of@1", "--json").document["manifest"]["golden"]
    cli("alias", "set", "of", "stable", "1")
    publish(cli, "of", onnx_models.scaled(2.001, 3), "--golden-of", "of@stable", version="2")
    second = cli("show", "of@2", "--json").document["manifest"]
    assert (second["golden"]["of"], second["golden"]["cases"]) == ("of@1", 3)
    assert second["golden"]["file"] == first["file"]
    assert second["golden"]["tolerance"] == first["tolerance"], "it goes with the vectors"
    assert second["variants"][0]["parity"]["parity"]["passed"]
    again = publish(cli, "of", onnx_models.scaled(2.001, 3), "--golden-of", "of@1", version="2").document
    assert again["created"] is False
    refused = publish(cli, "of", onnx_models.scaled(3.0, 3), "--golden-of", "of@1", version="3", code=1).error
    assert refused["code"] == "golden_mismatch"
    cli("show", "of@3", code=3)


def test_another_versions_model_says_what_is_right(cli: Cli) -> None:
    publish(cli, "with", onnx_models.scaled(2.0, 3))
    same = ("--compare-with", "with@1", "--golden-random", 2)
    publish(cli, "with", onnx_models.scaled(2.0001, 3), *same, version="2")
    golden = cli("show", "with@2", "--json").document["manifest"]["golden"]
    assert (golden["compared_with"], golden["cases"]) == ("with@1", 2)
    assert publish(cli, "with", onnx_models.scaled(2.0001, 3), *same, version="2").document["created"] is False
    other = publish(cli, "with", onnx_models.scaled(2.0001, 3), "--compare-with", "with@2", version="2", code=4)
    assert "golden.compared_with: is with@1; with@2 is asked for" in "".join(other.error["errors"])
    refused = publish(cli, "with", onnx_models.scaled(2.5, 3), *same, version="3", code=1).error
    assert refused["code"] == "golden_mismatch"
    refused = publish(cli, "with", onnx_models.scaled(2.0, 4), *same, version="3", code=None)
    assert refused.code != 0
    np.savez(cli.folder / "inputs.npz", x=np.ones((1, 3), np.float32))
    given = ("--compare-with", "with@1", "--golden-inputs", "inputs.npz")
    publish(cli, "with", onnx_models.scaled(2.0, 3), *given, version="4")
    assert cli("show", "with@4", "--json").document["manifest"]["golden"]["cases"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--golden-of", "plain@1"), "plain@1 has no golden vectors"),
        (("--golden-of", "plain"), "Which version of plain?"),
        (("--compare-with", "plain@9"), "no version or alias '9'"),
        (("--golden-of", "plain@1", "--compare-with", "plain@1"), "--golden-of and --compare-with cannot be combined"),
        (("--golden-from", "onnx-cpu", "--compare-with", "plain@1"), "or by another version"),
    ],
)
def test_what_cannot_be_compared_is_refused(cli: Cli, words: tuple[str, ...], says: str) -> None:
    publish(cli, "plain", onnx_models.scaled(2.0, 3), code=0)
    refused = publish(cli, "plain", onnx_models.scaled(2.0, 3), *words, version="2", code=None)
    assert refused.code != 0
    assert says in refused.error["message"]


def test_classes_are_compared_with_what_the_model_really_answers(cli: Cli, tmp_path: Path) -> None:
    (cli.folder / "model.onnx").write_bytes(onnx_models.one_op("Relu", ["N", "C", 4], out_shape=["N", "C", "D"]))
    (cli.folder / "file.toml").write_text(
        'model = "real"\nversion = "1"\n[[variant]]\nfile = "model.onnx"\ntarget = "cpu"\n'
        '[classification]\noutput = "y"\nlabels = ["a", "b"]\n'
    )
    error = cli("publish", "file.toml", "--json", code=2).error
    assert "a trial request was answered" in error["message"]
    assert "scores are [N, classes]" in error["errors"][0]


@pytest.mark.parametrize(("factor", "code"), [(1000, 2), (0, 0)])
def test_a_number_beyond_0_to_1_is_published_as_no_probability(cli: Cli, factor: float, code: int) -> None:
    (cli.folder / "model.onnx").write_bytes(onnx_models.scaled(factor, 1))
    (cli.folder / "file.toml").write_text(
        'model = "logit"\nversion = "1"\n[[variant]]\nfile = "model.onnx"\ntarget = "cpu"\n'
        '[classification]\noutput = "y"\nlabels = ["no", "yes"]\nsoftmax = false\n'
    )
    published = cli("publish", "file.toml", "--json", code=code)
    assert not code or "is no probability" in published.error["errors"][0]


def test_what_is_no_version_is_told_what_one_is(cli: Cli) -> None:
    (cli.folder / "model.onnx").write_bytes(onnx_models.scaled(2, 1))
    refused = cli("publish", "odd", "model.onnx", "--version", "v 1", "--target", "cpu", "--json", code=2).error
    assert refused["errors"][0].startswith("version: 'v 1' is no version: 1 to 64 of A-Z a-z 0-9")
