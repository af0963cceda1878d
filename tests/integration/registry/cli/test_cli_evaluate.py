"""`registry dataset` and `registry evaluate` without a device: LeNet and small models through ONNX Runtime, here."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.models import onnx_models
from tests.support.programs.cli import Cli

X = np.array([[1, 0, 0], [-1, 0, 0], [0, 2, 0], [0, 0, -3], [1, 1, 1]], "<f4")
"""Through onnx_models.linear: the second class wins where the sum is positive, else the first."""
CLASSES = [1, 0, 1, 0, 1]


def publish(cli: Cli, model: str, content: bytes | None = None, *more: object) -> None:
    (cli.folder / "model.onnx").write_bytes(content or onnx_models.linear())
    cli("publish", model, "model.onnx", "--version", "1", "--target", "cpu", *more)


def test_a_version_is_scored_here_and_the_score_is_kept(cli: Cli) -> None:
    publish(cli, "scored")
    np.savez(cli.folder / "set.npz", x=np.tile(X, (20, 1)), y=np.array(CLASSES * 20))
    added = cli("dataset", "add", "right", "set.npz", "--json").document
    assert (added["items"], [spec["name"] for spec in added["tensors"]]) == (100, ["in/x", "labels"])
    (score,) = cli("evaluate", "scored@1", "--dataset", "right", "--json").document
    assert (score["value"], score["items"], score["variant"], score["device"]) == (1.0, 100, "onnx-cpu", None)
    assert score["backend"] == "onnxruntime/CPUExecutionProvider"
    np.savez(cli.folder / "set.npz", **{"in/x": X, "labels": np.ones(5, "u1"), "out/y": np.tile([0.9, 0.1], (5, 1))})
    cli("dataset", "add", "wrong", "set.npz")
    for metric, value in (("accuracy", 0.6), ("top5", 1.0), ("macro_f1", 0.375), ("agreement", 0.4)):
        (score,) = cli("evaluate", "scored", "--dataset", "wrong", "--metric", metric, "--json").document
        assert (score["metric"], score["value"]) == (metric, pytest.approx(value))
    listed = cli("evaluate", "scored@1", "--list", "--json").document
    assert len(listed) == 5
    assert "0.3750" in cli("evaluate", "scored@1", "--list").out
    shown = cli("show", "scored@1")
    assert "0.6000" in shown.out
    assert len(cli("show", "scored@1", "--json").document["evaluations"]) == 5


def test_a_variant_of_one_batch_size_gets_full_batches(cli: Cli) -> None:
    publish(cli, "threes", onnx_models.linear(3))
    np.savez(cli.folder / "set.npz", x=X, y=np.array(CLASSES))
    cli("dataset", "add", "five", "set.npz")
    (score,) = cli("evaluate", "threes@1", "--dataset", "five", "--json").document
    assert (score["value"], score["items"]) == (1.0, 5)


def test_validation_sets_are_listed_shown_and_removed(cli: Cli) -> None:
    np.savez(cli.folder / "set.npz", x=X, y=np.array(CLASSES))
    cli("dataset", "add", "shown", "set.npz")
    assert cli("dataset", "add", "shown", "set.npz").code == 0
    assert "shown" in cli("dataset").out
    assert "in/x" in cli("dataset", "show", "shown").out
    np.savez(cli.folder / "set.npz", x=X, y=np.zeros(5, int))
    assert "never changes" in cli("dataset", "add", "shown", "set.npz", code=4).err
    assert cli("dataset", "remove", "shown", code=2).err
    cli("dataset", "remove", "shown", "--yes")
    cli("dataset", "show", "shown", code=3)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": X},
        {"x": X, "y": np.array(CLASSES[:4])},
        {"x": X, "y": np.array(CLASSES, "<f4")},
        {"y": np.array(CLASSES)},
        {"n" * 300: X, "y": np.array(CLASSES)},
        {"\x1b[31m": X, "y": np.array(CLASSES)},
        {"in/": X, "y": np.array(CLASSES)},
    ],
)
def test_a_file_that_is_no_validation_set_is_refused(cli: Cli, arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    np.savez(cli.folder / "set.npz", **arrays)  # type: ignore[arg-type]
    assert "no validation set" in cli("dataset", "add", "bad", "set.npz", code=2).err


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0, 1, -2, 0, -1]), "the label of item 2 is -2; classes are numbered from 0"),
        (np.array(CLASSES, "u8"), "its labels are UINT64; class numbers are UINT8, "),
        (np.array(CLASSES, bool), "its labels are BOOL; class numbers are UINT8, "),
        (np.array([CLASSES]).T, "its labels are [5, 1], not one number for each item"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused_at_once(cli: Cli, labels: np.ndarray, says: str) -> None:  # type: ignore[type-arg]
    np.savez(cli.folder / "set.npz", x=X, y=labels)
    assert says in cli("dataset", "add", "bad", "set.npz", code=2).err


def test_a_file_that_says_the_same_twice_is_refused(cli: Cli) -> None:
    np.savez(cli.folder / "set.npz", x=X, y=np.zeros(5, "u1"), labels=np.ones(5, "u1"))
    assert "holds the same array twice: labels, x, y" in cli("dataset", "add", "twice", "set.npz", code=2).err


def test_what_cannot_be_evaluated_says_why(cli: Cli) -> None:
    publish(cli, "hard")
    np.savez(cli.folder / "set.npz", x=np.zeros((5, 4), "<f4"), y=np.array(CLASSES))
    cli("dataset", "add", "four", "set.npz")
    refused = cli("evaluate", "hard@1", "--dataset", "four", code=1)
    assert "an item of its input 'x' is FP32 [4], the model takes FP32 [3]" in refused.err
    np.savez(cli.folder / "set.npz", x=X, y=np.full(5, 2))
    cli("dataset", "add", "three", "set.npz")
    assert "not all from 0 to 1" in cli("evaluate", "hard@1", "--dataset", "three", code=1).err
    cli("evaluate", "hard@1", code=2)
    cli("evaluate", "hard@1", "--dataset", "absent", code=3)
    assert "Unknown metric 'luck'" in cli("evaluate", "hard@1", "--dataset", "four", "--metric", "luck", code=2).err
    cli("evaluate", "hard@1", "--dataset", "four", "--on", "nobody", code=3)
    assert "No device" in cli("evaluate", "hard@1", "--dataset", "four", "--fleet", "a=b", code=3).err
    cli("evaluate", "hard@1", "--dataset", "four", "--fleet", "((", code=2)
    assert "no variant 'b'" in cli("evaluate", "hard@1", "--dataset", "four", "--variant", "b", code=3).err
    cli("publish", "away", "model.onnx", "--version", "1", "--target", "ascend310")
    refused = cli("evaluate", "away@1", "--dataset", "four", code=1)
    assert "No variant can be run here" in refused.err
    assert "ascend310 runs on such a device only" in refused.err


def test_what_this_machine_has_no_device_for_is_refused_before_it_is_fetched(cli: Cli) -> None:
    np.savez(cli.folder / "set.npz", x=X, y=np.array(CLASSES))
    cli("dataset", "add", "here", "set.npz")
    (cli.folder / "model.onnx").write_bytes(onnx_models.linear())
    cli("publish", "gpus", "model.onnx", "--version", "1", "--target", "gpu")
    refused = cli("evaluate", "gpus@1", "--dataset", "here", code=1)
    assert "No variant can be run here" in refused.err
    assert "onnx-gpu: this onnxruntime has no CUDAExecutionProvider" in refused.err
    assert "pulling" not in refused.err
    both = "".join(f'[[variant]]\nfile = "model.onnx"\ntarget = "{target}"\n' for target in ("gpu", "cpu"))
    (cli.folder / "both.toml").write_text(f'model = "both"\nversion = "1"\n{both}')
    cli("publish", "both.toml")
    ran = cli("evaluate", "both@1", "--dataset", "here")
    assert "running onnx-cpu" in ran.err
    assert ran.err.count("pulling model.onnx") == 1
