"""`registry publish` and `pull`, as processes, against a real registry: what arrives, is refused, is resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from registry.contracts.wire import digest_of
from tests.support.models import onnx_models
from tests.support.network.cutting_proxy import CuttingProxy
from tests.support.paths import ROOT
from tests.support.programs.cli import Cli
from tests.support.programs.fleet_registry import eventually
from tests.support.programs.registry_process import RegistryProcess

LENET = ROOT / "scripts" / "models" / "lenet" / "lenet.onnx"


def through(cli: Cli, proxy: CuttingProxy) -> Cli:
    return Cli(cli.folder, proxy.url, cli.environment["MODELFLEET_TOKEN"])


def big_model(folder: Path, size: int = 8 << 20) -> Path:
    """Weights beside the model, `size` random bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(os.urandom(size))
    (folder / "model.onnx").write_bytes(onnx_models.external("weights.bin", length=size))
    return folder / "model.onnx"


def test_one_command_publishes_and_says_what_it_found(cli: Cli) -> None:
    ran = cli("publish", "first", LENET, "--version", "1.0.0", "--target", "cpu", "--alias", "stable", "--label", "a=b")
    assert "first@1.0.0" in ran.out
    for finding in ("x FP32 [?, 1, 28, 28]", "y FP32 [?, 10]", "IR 9, opset 17", "sending lenet.onnx"):
        assert finding in ran.err
    shown = cli("show", "first@stable", "--json").document
    assert shown["manifest"]["labels"] == {"a": "b"}
    assert shown["version"]["aliases"] == ["stable"]
    assert "first" in cli("models").out


def test_the_same_content_again_sends_nothing_and_other_content_is_refused(cli: Cli) -> None:
    arguments = ("publish", "again", LENET, "--version", "1", "--target", "cpu")
    first = cli(*arguments, "--json").document
    second = cli(*arguments, "--json").document
    assert (first["created"], second["created"], second["sent_bytes"]) == (True, False, 0)
    assert first["digest"] == second["digest"]
    assert "nothing to do" in cli(*arguments).out
    refused = cli(*arguments, "--licence", "MIT", code=4)
    assert 'licence: published nothing, offered "MIT"' in refused.err
    assert cli(*arguments, "--licence", "MIT", "--json", code=4).error["code"] == "conflict"


def test_a_blob_that_the_registry_has_is_not_sent(cli: Cli) -> None:
    cli("publish", "twin-a", LENET, "--version", "1", "--target", "cpu")
    twin = cli("publish", "twin-b", LENET, "--version", "1", "--target", "gpu", "--json").document
    assert (twin["sent_bytes"], twin["present_bytes"]) == (0, LENET.stat().st_size)
    assert "sending" not in cli("publish", "twin-c", LENET, "--version", "1", "--target", "cpu").err


def test_a_dry_run_changes_nothing(cli: Cli) -> None:
    told = cli("publish", "dry", LENET, "--version", "1", "--target", "cpu", "--dry-run", "--json").document
    assert told["dry_run"]
    assert told["manifest"]["variants"][0]["inputs"][0]["name"] == "x"
    cli("show", "dry", code=3)


def test_a_dry_run_without_a_registry_says_that_what_would_be_sent_is_not_known(tmp_path: Path) -> None:
    cli = Cli(tmp_path, "http://127.0.0.1:1", None)
    words = ("publish", "dry", LENET, "--version", "1", "--target", "cpu", "--dry-run")
    assert "what would be sent is not known" in cli(*words).out
    told = cli(*words, "--json").document
    assert (told["sent_bytes"], told["present_bytes"]) == (None, None)


def test_a_model_file_that_is_not_there_is_said_without_advice_about_the_registry(cli: Cli) -> None:
    ran = cli("publish", "gone", "nofile.onnx", "--version", "1", "--target", "cpu", code=3)
    assert "Check the path." in ran.err


def test_a_publish_file_describes_variants_pictures_and_card(cli: Cli) -> None:
    shutil.copy(LENET, cli.folder / "lenet.onnx")
    (cli.folder / "lenet.om").write_bytes(b"IMOD\x00\x01\x00\x00" + bytes(248))
    (cli.folder / "weight").mkdir()
    (cli.folder / "weight" / "lenet_weight").write_bytes(b"w")
    (cli.folder / "README.md").write_text("# LeNet\n")
    shutil.copy(ROOT / "docs" / "publish.toml", cli.folder)
    cli("publish", "publish.toml", "--version", "2.0.0")
    manifest = cli("show", "lenet@stable", "--json").document["manifest"]
    assert [(v["name"], len(v["files"])) for v in manifest["variants"]] == [("onnx-cpu", 1), ("om-ascend310", 2)]
    assert manifest["image"]["channels"] == "L"
    assert len(manifest["classification"]["labels"]) == 10
    assert manifest["card"]["path"] == "README.md"


def test_pulled_files_are_the_published_ones(cli: Cli) -> None:
    model = big_model(cli.folder / "source", 1 << 20)
    cli("publish", "pulled", model, "--version", "1", "--target", "cpu")
    told = cli("pull", "pulled", "--json").document
    assert told["pulled_bytes"] == model.stat().st_size + (1 << 20)
    folder = cli.folder / "pulled-1"
    assert (folder / "onnx-cpu" / "weights.bin").read_bytes() == (model.parent / "weights.bin").read_bytes()
    assert json.loads((folder / "manifest.json").read_text())["model"] == "pulled"
    assert not (folder / ".partial").exists()
    assert cli("pull", "pulled", "--json").document["pulled_bytes"] == 0
    (folder / "onnx-cpu" / "weights.bin").write_bytes(b"mine")
    assert "not overwritten" in cli("pull", "pulled", code=4).err
    cli("pull", "pulled", "--variant", "other", code=3)


def test_an_upload_that_is_cut_goes_on_at_the_servers_offset(cli: Cli, server: RegistryProcess) -> None:
    model = big_model(cli.folder / "source")
    with CuttingProxy(server.port, upstream=True, after=3 << 20, cuts=2) as proxy:
        ran = through(cli, proxy)("publish", "cut", model, "--version", "1", "--target", "cpu")
        assert proxy.happened == 2
        assert proxy.carried < 12 << 20
    assert "going on in" in ran.err
    assert cli("show", "cut@1", "--json").document["version"]["size"] > 8 << 20


def test_a_command_killed_in_an_upload_is_finished_by_the_next_one(cli: Cli, server: RegistryProcess) -> None:
    model = big_model(cli.folder / "source")
    arguments = ("publish", "killed", model, "--version", "1", "--target", "cpu", "--json")
    with CuttingProxy(server.port, upstream=True, after=5 << 20, cuts=1000) as proxy:
        with through(cli, proxy).start(*arguments) as process:
            eventually(lambda: proxy.happened)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=20)
    cli("show", "killed", code=3)
    told = cli(*arguments).document
    assert told["created"]
    assert told["sent_bytes"] < 8 << 20


def test_a_pull_that_is_cut_goes_on_where_it_stopped(cli: Cli, server: RegistryProcess) -> None:
    model = big_model(cli.folder / "source")
    cli("publish", "cut-pull", model, "--version", "1", "--target", "cpu")
    with CuttingProxy(server.port, upstream=False, after=3 << 20, cuts=2) as proxy:
        ran = through(cli, proxy)("pull", "cut-pull", "-o", "here")
        assert proxy.happened == 2
    assert "going on in" in ran.err
    pulled = (cli.folder / "here" / "onnx-cpu" / "weights.bin").read_bytes()
    assert digest_of(pulled) == digest_of((model.parent / "weights.bin").read_bytes())


def test_wrong_bytes_of_an_earlier_pull_are_thrown_away(cli: Cli) -> None:
    model = big_model(cli.folder / "source", 1 << 20)
    cli("publish", "rotten", model, "--version", "1", "--target", "cpu")
    name = digest_of((model.parent / "weights.bin").read_bytes()).removeprefix("sha256:")
    (cli.folder / "rotten-1" / ".partial").mkdir(parents=True)
    (cli.folder / "rotten-1" / ".partial" / name).write_bytes(b"rotten")
    assert "not those of its digest" in cli("pull", "rotten", code=1).err
    cli("pull", "rotten")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("publish", "m", LENET, "--target", "cpu"), 2, "Which version"),
        (("publish", "m", LENET, "--version", "1"), 2, "Give --target"),
        (("publish", "m"), 2, "Which file"),
        (("publish", "m.toml"), 3, "does not exist"),
        (("publish", "m", "missing.onnx", "--version", "1", "--target", "cpu"), 3, "does not exist"),
        (("publish", "Capital", LENET, "--version", "1", "--target", "cpu"), 2, "model: "),
        (("publish", "m", LENET, "--version", "1", "--target", "cpu", "--format", "om"), 1, "is onnx by its content"),
        (("publish", "m", __file__, "--version", "1", "--target", "cpu"), 2, "cannot be told"),
        (
            ("publish", "m", __file__, "--version", "1", "--target", "cpu", "--format", "onnx"),
            1,
            "not a file of format",
        ),
        (("publish", "m", __file__, "--version", "1", "--target", "gpu", "--format", "tensorrt-plan"), 2, "built for"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_is_sent(
    cli: Cli, arguments: tuple[str, ...], code: int, said: str
) -> None:
    assert said in cli(*arguments, code=code).err


def test_an_alias_that_cannot_be_is_told_before_or_with_what_was_done(cli: Cli) -> None:
    publish = ("publish", "aliased", LENET, "--target", "cpu")
    assert "own name" in cli(*publish, "--version", "1", "--alias", "1", code=2).err
    cli("show", "aliased", code=3)
    cli(*publish, "--version", "1")
    refused = cli(*publish, "--version", "2", "--label", "a=b", "--alias", "1", code=2)
    assert "aliased@2 is published, but the alias 1 was not set" in refused.err
    cli("show", "aliased@2")


def test_a_hostile_model_leaves_nothing_in_the_registry(cli: Cli) -> None:
    (cli.folder / "secret").write_text("secret")
    (cli.folder / "in").mkdir()
    os.link(cli.folder / "secret", cli.folder / "in" / "w.bin")
    (cli.folder / "in" / "model.onnx").write_bytes(onnx_models.external("w.bin", length=4))
    error = cli("publish", "hostile", "in/model.onnx", "--version", "1", "--target", "cpu", "--json", code=1).error
    assert error["code"] == "invalid_model"
    assert "hard links" in error["message"]
    cli("show", "hostile", code=3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = ", "not valid TOML"),
        ("model = 'm'", "variant: Field required"),
        ("model = 'm'\nlicense = 'MIT'\n[[variant]]\nfile='f'\ntarget='cpu'", "did you mean 'licence'?"),
        ("model = 'm'\n[[variant]]\nfile='f'\ntarget='tpu'", "variant.0.target"),
        ("model = 'm'\n[image]\ninput='x'\nheight=1\nwidth=1\nnormalise=true\n[[variant]]\nfile='f'\ntarget='cpu'",
         "image.normalise: unknown key"),
        ("model = 'm'\nversion = '1'\n[[variant]]\nfile='f'\ntarget='cpu'", "f does not exist"),
    ],
)  # fmt: skip
def test_a_wrong_publish_file_is_refused_with_each_fault(cli: Cli, text: str, said: str) -> None:
    (cli.folder / "m.toml").write_text(text)
    assert said in cli("publish", "m.toml", code=None).err


def test_a_fault_is_said_once_and_in_our_own_words(cli: Cli) -> None:
    (cli.folder / "m.toml").write_text("model = 'm'\n[[variant]]\nfile='f'\ntarget='tpu'")
    faults = cli("publish", "m.toml", "--json", code=2).error["errors"]
    assert [fault.partition(":")[0] for fault in faults] == ["variant.0.target"]
    (cli.folder / "other.onnx").write_bytes(onnx_models.one_op("Relu", [1, 3]))
    variants = "".join(f"[[variant]]\nfile='{name}'\ntarget='{kind}'\n" for name, kind in (
        (LENET, "cpu"), ("other.onnx", "gpu"),
    ))  # fmt: skip
    (cli.folder / "m.toml").write_text(f"model = 'm'\nversion = '1'\n{variants}")
    (fault,) = cli("publish", "m.toml", "--json", code=2).error["errors"]
    assert fault.startswith("variants onnx-cpu and onnx-gpu disagree in inputs or outputs: input 1 of onnx-cpu is '")
    assert fault.endswith("of onnx-gpu 'x' FP32 [1, 3]")


def test_pictures_that_the_model_cannot_take_are_noticed(cli: Cli) -> None:
    def publish_file(image: str) -> None:
        variant = f"[[variant]]\nfile = '{LENET}'\ntarget = 'cpu'\n"
        (cli.folder / "p.toml").write_text(f"model = 'pictures'\nversion = '1'\n{image}{variant}")

    publish_file("[image]\ninput = 'pixels'\nheight = 28\nwidth = 28\nchannels = 'L'\n")
    assert "the model has: x" in cli("publish", "p.toml", code=2).err
    publish_file("[image]\ninput = 'x'\nheight = 32\nwidth = 32\n")
    refused = cli("publish", "p.toml", "--dry-run", code=2).err
    assert "a picture makes [3, 32, 32], with any dimensions of 1, and input 'x' is [-1, 1, 28, 28]" in refused
