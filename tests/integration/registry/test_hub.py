"""The Python client: models that predict, weights for a network, a cache that is right or fetched again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import hub
from registry.client.errors import ClientError, NoAnswerError
from registry.contracts.catalogue import networks
from registry.contracts.catalogue.manifest import FileRef, Format, Manifest, Network, Target, Variant
from registry.contracts.wire import digest_of, hex_of
from registry.hub.model import choose
from registry.hub.source import Cache, opened
from tests.support.models import checkpoints, onnx_models
from tests.support.models.mindspore_python import PYTHON, ROOT, needs_mindspore
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

LENET = networks.parameters(Network(name="lenet5"))
X = np.array([[1, 0, 0], [1, 1, 1]], np.float32)


@pytest.fixture(scope="module")
def published(server: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> RegistryProcess:
    """`linear@1` in ONNX; `lenet` 0.4.0 (weights 0.25, on fashion) and 0.5.0 (weights 0.5, on mnist)."""
    folder = tmp_path_factory.mktemp("models")
    cli = Cli(folder, server.url, server.admin_token)
    (folder / "linear.onnx").write_bytes(onnx_models.linear())
    cli("publish", "linear", "linear.onnx", "--version", "1", "--target", "cpu", "--alias", "stable")
    (folder / "tripled.onnx").write_bytes(onnx_models.with_default())
    cli("publish", "tripled", "tripled.onnx", "--version", "1", "--target", "cpu")
    for version, value, dataset in (("0.5.0", 0.5, "mnist"), ("0.4.0", 0.25, "fashion")):
        (folder / "lenet.safetensors").write_bytes(checkpoints.safetensors(LENET, value))
        options = (
            "--version",
            version,
            "--target",
            "ascend910,cpu",
            "--network",
            "lenet5",
            "--label",
            f"dataset={dataset}",
        )
        cli("publish", "lenet", "lenet.safetensors", *options)
    return server


@pytest.fixture
def cache(published: RegistryProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is a user's: the registry in the environment, an empty cache; its folder."""
    monkeypatch.setenv("MODELFLEET_REGISTRY", published.url)
    monkeypatch.setenv("MODELFLEET_TOKEN", published.admin_token)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "modelfleet" / "hub"


def refused(code: str, call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(hub.HubError) as caught:
        call(*arguments, **named)
    assert caught.value.code == code, caught.value
    return str(caught.value)


@pytest.mark.usefixtures("cache")
def test_what_is_published_is_listed() -> None:
    found = {model.name: model for model in hub.list()}
    assert found["linear"].variants == ("onnx-cpu",)
    assert found["linear"].aliases == {"stable": "1"}
    assert found["lenet"].version == "0.4.0"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["linear", "linear@1", "linear@stable"])
def test_a_model_predicts_on_this_machine(name: str) -> None:
    with hub.load(name) as model:
        assert (model.version, model.variant, model.backend) == ("1", "onnx-cpu", "onnxruntime/CPUExecutionProvider")
        assert np.asarray(model.predict(X)).tolist() == [[1, 10], [6, 60]]
        assert np.asarray(model.predict({"x": X.tolist()})).tolist() == [[1, 10], [6, 60]]


@pytest.mark.usefixtures("cache")
def test_an_input_with_a_default_may_be_left_out() -> None:
    with hub.load("tripled") as model:
        assert np.asarray(model.predict([1, 2])).tolist() == [3, 6]
        assert np.asarray(model.predict({"x": [1, 2]})).tolist() == [3, 6]
        assert np.asarray(model.predict({"k": [2], "x": [1, 2]})).tolist() == [2, 4]


@pytest.mark.usefixtures("cache")
def test_a_value_that_the_models_type_cannot_hold_is_refused() -> None:
    with hub.load("linear") as model:
        assert "1e+300 at [0, 2] does not fit FP32" in refused("out_of_range", model.predict, [[1, 2, 1e300]])


@pytest.mark.usefixtures("cache")
def test_a_batch_that_does_not_fit_is_refused_with_words() -> None:
    with hub.load("linear") as model:
        assert "has shape [-1, 3], not [2]" in refused("wrong_shape", model.predict, [1.0, 2.0])
        assert "is FP32, not complex128" in refused("wrong_datatype", model.predict, X.astype(complex))
        assert "no input 'z'; it has x" in refused("unknown_input", model.predict, {"z": X})
        assert "'x' is missing" in refused("missing_input", model.predict, {})


@pytest.mark.usefixtures("cache")
def test_a_model_that_is_closed_says_so() -> None:
    model = hub.load("linear")
    model.close()
    model.close()
    assert "is closed" in refused("closed", model.predict, X)


@pytest.mark.usefixtures("cache")
def test_what_is_not_there_or_cannot_run_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELFLEET_MINDSPORE_PYTHON", raising=False)
    refused("not_found", hub.load, "nothing")
    refused("not_found", hub.load, "linear@2")
    refused("invalid", hub.load, "linear@1", version="1")
    assert "names no Python that has MindSpore" in refused("cannot_run", hub.load, "lenet")


@needs_mindspore
@pytest.mark.usefixtures("cache")
def test_a_checkpoint_of_the_catalogue_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_MINDSPORE_PYTHON", PYTHON)
    with hub.load("lenet") as model:
        assert model.backend == "mindspore/CPU"
        answer = model.predict(np.ones((2, 1, 32, 32), np.float32))
    assert isinstance(answer, np.ndarray)
    assert answer.shape == (2, 10)


def test_a_spoilt_file_in_the_cache_is_never_used(cache: Path) -> None:
    hub.load("linear").close()
    (file,) = cache.glob("artifacts/*/linear.onnx")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"!")
    hub.load("linear").close()
    assert file.read_bytes() == whole


def test_what_else_lies_where_a_model_should_is_replaced_and_never_followed(cache: Path, tmp_path: Path) -> None:
    hub.load("linear").close()
    (place,) = (cache / "artifacts").iterdir()
    elsewhere = place.rename(tmp_path / "elsewhere")
    place.symlink_to(elsewhere)
    hub.load("linear").close()
    assert place.is_dir()
    assert not place.is_symlink()
    assert any(elsewhere.iterdir())
    shutil.rmtree(place)
    place.write_bytes(b"half")
    hub.load("linear").close()
    assert place.is_dir()


@pytest.mark.parametrize("content", [b"", b'{"half', b"{}", b"\xff"])
def test_a_spoilt_answer_is_asked_for_again(cache: Path, content: bytes) -> None:
    with opened() as source:
        source.manifest("linear", "1", None)
        for kept in (cache / "answers").iterdir():
            kept.write_bytes(content)
        assert source.manifest("linear", "1", None, ask=False).version == "1"


def test_a_download_goes_on_where_another_process_was_killed(cache: Path) -> None:
    whole = onnx_models.linear()
    (cache / "partial").mkdir(parents=True)
    (cache / "partial" / hex_of(digest_of(whole))).write_bytes(whole[:50])
    with hub.load("linear") as model:
        assert np.asarray(model.predict(X)).tolist() == [[1, 10], [6, 60]]
    assert list((cache / "partial").iterdir()) == []


@pytest.mark.usefixtures("cache")
def test_an_earlier_answer_does_without_the_registry_when_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as source:
        first = source.manifest("lenet", None, "mnist")
        assert first.version == "0.5.0"
    monkeypatch.setattr("registry.client.api.ApiClient.call", unreachable)
    with opened() as source:
        assert source.manifest("lenet", None, "mnist", ask=False) == first
    with pytest.raises(hub.HubError) as caught, opened() as source:
        source.manifest("lenet", None, "fashion", ask=False)
    assert caught.value.code == "unreachable"


def unreachable(*_arguments: object, **_named: object) -> None:
    raise NoAnswerError("the registry is away")


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("version", "dataset", "code"),
    [("0.5.0", "fashion", "dataset_mismatch"), (None, "cifar", "not_found"), ("9", "mnist", "not_found")],
)
def test_a_dataset_that_the_version_was_not_trained_on_is_an_error(
    version: str | None, dataset: str, code: str
) -> None:
    with pytest.raises(hub.HubError) as caught, opened() as source:
        source.manifest("lenet", version, dataset)
    assert caught.value.code == code


def variant(name: str, content: bytes, model_format: Format = Format.ONNX, target: Target = Target.CPU) -> Variant:
    file = FileRef(path=f"{name}.bin", digest=digest_of(content), size=len(content))
    return Variant(name=name, format=model_format, target=target, entry=file.path, files=(file,))


def test_the_cache_is_bounded_and_what_was_used_last_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 250)
    for index, name in enumerate("abc"):
        content = name.encode() * 100
        place = cache.artifact(variant(name, content), lambda _, part, content=content: part.write_bytes(content))  # type: ignore[misc]
        os.utime(place, (index, index))
    assert sorted(file.name for file in tmp_path.glob("artifacts/*/*")) == ["b.bin", "c.bin"]


def test_threads_and_processes_that_want_the_same_fetch_it_once(tmp_path: Path) -> None:
    fetched = []

    def fetch(file: FileRef, part: Path) -> None:
        fetched.append(file.path)
        part.write_bytes(b"weights")

    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda _: Cache(tmp_path, 1000).artifact(variant("a", b"weights"), fetch), range(8)))
    assert fetched == ["a.bin"]
    assert {place.joinpath("a.bin").read_bytes() for place in places} == {b"weights"}


def test_a_cache_that_another_process_keeps_is_waited_for_only_so_long(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ClientError) as caught:
            Cache(tmp_path, 1000, patience_s=0.0).artifact(variant("a", b"a"), lambda _, part: None)
    assert caught.value.code == "busy"


@pytest.mark.usefixtures("cache")
def test_a_bound_that_is_no_number_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_HUB_CACHE_BYTES", "20 GB")
    assert "a number of bytes, not '20 GB'" in refused("usage", hub.load, "linear")


def test_a_checkpoint_for_the_device_is_preferred_but_weights_are_the_same_everywhere() -> None:
    kind = Format.MINDSPORE_CKPT
    npu, cpu = variant("npu", b"1", kind, Target.ASCEND910), variant("cpu", b"2", kind)
    both = Manifest(model="m", version="1", variants=(npu, cpu, variant("onnx", b"3")))
    assert choose(both, (Target.ASCEND910, Target.ASCEND310)).name == "npu"
    assert choose(both, (Target.CPU,)).name == "cpu"
    refused("ambiguous", choose, both, ())
    assert choose(Manifest(model="m", version="1", variants=(npu,)), (Target.CPU,)).name == "npu"
    assert "it has onnx (onnx)" in refused(
        "not_found", choose, Manifest(model="m", version="1", variants=(variant("onnx", b"3"),)), ()
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"device": "cpu"}, "Did you mean device_target"),
        ({"device_target": "tpu"}, "none of cpu, gpu"),
        ({"version": 5}, "is text"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_asked(arguments: dict[str, Any], said: str) -> None:
    assert said in refused("invalid", hub.load_weights, object(), "lenet", **arguments)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "arguments",
    [(None,), (5,), ("",), ("..",), ("../..",), ("@1",), ("linear", ".."), ("linear", "../.."), ("linear", 1)],
)
def test_what_is_no_name_is_refused_with_the_same_code_as_other_bad_names(arguments: tuple[Any, ...]) -> None:
    refused("invalid", hub.load, *arguments)


@needs_mindspore
@pytest.mark.parametrize(
    ("classes", "arguments", "values", "code"),
    [
        (10, {"device_target": "ascend", "dataset": "mnist", "version": "0.5.0"}, [0.5], ""),
        (10, {"device_target": "CPU", "dataset": "fashion"}, [0.25], ""),
        (5, {"dataset": "mnist"}, [7.0], "checkpoint_mismatch"),
        (10, {"dataset": "cifar"}, [7.0], "not_found"),
    ],
)
def test_weights_fill_the_users_own_network_or_leave_it_as_it_was(
    cache: Path, classes: int, *, arguments: dict[str, str], values: list[float], code: str
) -> None:
    script = ROOT / "tests" / "support" / "models" / "mindspore_hub.py"
    command = [PYTHON, str(script), str(classes), json.dumps({"network_name": "lenet", **arguments})]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, timeout=100, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"values": values, "code": code}
    assert bool(list(cache.glob("artifacts/*/lenet.safetensors"))) is (code != "not_found")
