"""`registry ask` and `registry bench`: which broker, what is sent, what is counted."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from registry.cli.inference.bench import BenchFigures, errors_text, random_tensor
from registry.cli.inference.broker import BrokerOptions, as_cli_error, client_arguments
from registry.cli.inference.inputs import completed, read_inputs
from registry.cli.output import ExitCode
from registry.client.devices.arrays import to_wire
from registry.client.devices.errors import BadRequestError, error_of
from registry.client.errors import UsageFault
from registry.contracts.tensors import Datatype


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELFLEET_BROKER", "MODELFLEET_REGISTRY_CONFIG", "MODELFLEET_REGISTRY_MQTT__HOST"):
        monkeypatch.delenv(name, raising=False)


def test_the_option_wins_over_the_environment_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFLEET_REGISTRY_MQTT__HOST", "::1")
    monkeypatch.setenv("MODELFLEET_REGISTRY_MQTT__PASSWORD", "secret")
    monkeypatch.setenv("MODELFLEET_REGISTRY_MQTT__USERNAME", "registry")
    settings = client_arguments(BrokerOptions(prefix="mine"), {})
    assert settings == {"url": "mqtt://[::1]:1883", "prefix": "mine", "username": "registry", "password": "secret"}
    environment = {"MODELFLEET_BROKER": "mqtts://environment"}
    assert client_arguments(BrokerOptions(), environment) == {"url": "mqtts://environment"}
    assert client_arguments(BrokerOptions(broker="mqtt://option"), environment) == {"url": "mqtt://option"}


def test_without_a_broker_the_error_says_what_to_set() -> None:
    with pytest.raises(UsageFault) as refused:
        client_arguments(BrokerOptions(), {})
    for said in ("--broker", "MODELFLEET_BROKER", "MODELFLEET_REGISTRY_CONFIG"):
        assert said in refused.value.hint


def test_a_request_is_arrays_by_name_or_one_of_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, protocol = tmp_path / "plain.json", tmp_path / "protocol.json"
    plain.write_text('{"x": [[1, 2]]}')
    inputs = [
        {"name": "x", "datatype": "FP16", "shape": [1, 2], "data": [1, 2]},
        {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["ä"]},
    ]
    protocol.write_text(json.dumps({"inputs": inputs}))
    assert read_inputs(None, None, str(plain)) == {"inputs": {"x": [[1, 2]]}}
    found = read_inputs(None, None, str(protocol))
    assert found is not None
    wire = {name: to_wire(name, value) for name, value in found["inputs"].items()}
    assert wire["x"].data == np.array([1, 2], "<f2").tobytes()
    assert (wire["x"].shape, wire["t"].data) == ((1, 2), b"\x02\x00\x00\x00\xc3\xa4")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"y": 1}')))
    assert read_inputs(None, None, "-") == {"inputs": {"y": 1}}
    assert read_inputs(None, None, None) is None


def test_arrays_come_by_name_from_a_file_without_code_in_it(tmp_path: Path) -> None:
    named, single, pickled = tmp_path / "a.npz", tmp_path / "b.npy", tmp_path / "c.npz"
    np.savez(named, x=np.arange(3))
    np.save(single, np.arange(3))
    np.savez(pickled, x=np.array([{}], dtype=object))
    found = read_inputs(None, named, None)
    assert found is not None
    assert found["inputs"]["x"].tolist() == [0, 1, 2]
    picture, cut = tmp_path / "a.png", tmp_path / "cut.npz"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    cut.write_bytes(named.read_bytes()[:40])
    for file, said in (
        (single, "holds one array without a name"),
        (pickled, "holds Python objects"),
        (tmp_path / "none.npz", "cannot be read: No such file or directory"),
        (picture, "is no .npz file"),
        (cut, "is no .npz file"),
    ):
        with pytest.raises(UsageFault) as refused:
            read_inputs(None, file, None)
        assert refused.value.what.startswith(f"{file} {said}")


@pytest.mark.parametrize("text", ["", "[1]", '{"inputs": [{"name": "x"}]}', '{"inputs": [1]}', "{" * 100_000])
def test_what_is_no_request_is_refused_with_an_example(text: str, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(text)
    with pytest.raises(UsageFault) as refused:
        read_inputs(None, None, str(file))
    assert '"inputs"' in refused.value.hint
    assert "Error" not in refused.value.what


def tensor(**said: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **said}


def read_request(tmp_path: Path, **said: Any) -> dict[str, Any]:
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"inputs": [tensor()], **said}))
    found = read_inputs(None, None, str(file))
    assert found is not None
    return found


def test_all_that_a_request_of_the_protocol_says_is_sent(tmp_path: Path) -> None:
    said = {"model_name": "m", "model_version": "1.0.0", "id": "a", "outputs": [{"name": "y"}]}
    found = read_request(tmp_path, **said)
    del found["inputs"]
    assert found == {"model": "m", "version": "1.0.0", "request_id": "a", "outputs": ["y"]}
    assert completed(found, "m", None) == found
    for model, version, outputs in (("n", None, None), ("m", "2.0.0", None), ("m", None, ["z"])):
        with pytest.raises(UsageFault):
            completed(found, model, version, outputs)
    assert completed({}, "m", "1.0.0", ["y"]) == {"model": "m", "version": "1.0.0", "outputs": ["y"]}


@pytest.mark.parametrize(
    "said",
    [
        {"inputs": [tensor(), tensor()]}, {"inputs": [tensor(shape=[-1, 2])]}, {"inputs": [tensor(shape=[2, 2])]},
        {"inputs": [tensor(parameters={"binary_data_size": 8})]}, {"priority": 1}, {"id": 7}, {"model_version": 1},
        {"parameters": {"response_topic": "t"}}, {"outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        {"outputs": ["y"]}, {"inputs": [tensor(shape=[1, 2.0])]},
    ],
)  # fmt: skip
def test_what_a_request_says_and_is_not_sent_is_refused(said: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageFault):
        read_request(tmp_path, **said)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text('{"x": [1], "x": [2]}')
    with pytest.raises(UsageFault, match="twice"):
        read_inputs(None, None, str(file))


@pytest.mark.parametrize("data", [[9007199254740993, 0.5], [9007199254740993, 1]])
def test_a_whole_number_of_a_request_is_not_rounded(data: list[Any], tmp_path: Path) -> None:
    value = read_request(tmp_path, inputs=[tensor(datatype="FP64", data=data)])["inputs"]["x"]
    with pytest.raises(BadRequestError, match="9007199254740993"):
        to_wire("x", value)


def test_an_input_without_elements_keeps_its_shape(tmp_path: Path) -> None:
    for kind in ("FP32", "INT64", "BYTES", "BF16"):
        value = read_request(tmp_path, inputs=[tensor(datatype=kind, shape=[0, 3], data=[])])["inputs"]["x"]
        assert to_wire("x", value)[:2] == (kind, (0, 3))


def test_a_file_of_arrays_that_is_damaged_is_a_fault_of_usage(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, x=np.arange(1000))
    whole = file.read_bytes()
    for at in range(40, 200, 7):
        file.write_bytes(whole[:at] + b"\xff\xfe\xff" + whole[at + 3 :])
        with contextlib.suppress(UsageFault):
            read_inputs(None, file, None)
    other = tmp_path / "b.npz"
    with zipfile.ZipFile(other, "w") as written:
        written.writestr("readme.txt", "text")
    with pytest.raises(UsageFault, match="readme"):
        read_inputs(None, other, None)


def test_a_password_that_is_no_text_is_a_fault_of_usage(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"\xff")
    with pytest.raises(UsageFault, match="UTF-8"):
        client_arguments(BrokerOptions(broker="mqtt://b", password_file=file), {})


def test_only_one_source_of_inputs_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(UsageFault):
        read_inputs(tmp_path / "a.png", None, "-")


@pytest.mark.parametrize("datatype", list(Datatype))
def test_random_data_can_be_sent_in_every_datatype(datatype: Datatype) -> None:
    wire = to_wire("x", random_tensor(datatype, (-1, 3)), datatype)
    assert (wire.datatype, wire.shape) == (datatype, (1, 3))


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("unknown_model", ExitCode.NOT_FOUND),
        ("no_such_device", ExitCode.NOT_FOUND),
        ("device_offline", ExitCode.UNREACHABLE),
        ("not_connected", ExitCode.UNREACHABLE),
        ("no_answer", ExitCode.DEADLINE),
        ("wrong_shape", ExitCode.FAILURE),
        ("a_newer_one", ExitCode.FAILURE),
    ],
)
def test_a_device_s_error_ends_the_command_with_its_code(code: str, exit_code: ExitCode) -> None:
    error = as_cli_error(error_of(code, "why", device="edge-1"))
    assert (error.code, error.exit_code, error.what) == (code, exit_code, "edge-1: why")
    assert as_cli_error(error_of(code, "edge-1 is away", device="edge-1")).what == "edge-1 is away"


def test_the_advice_for_a_device_that_is_away_is_for_the_command_line() -> None:
    error = as_cli_error(error_of("device_offline", "away", device="edge-1"))
    assert "registry devices show edge-1" in error.hint
    assert "when_offline" not in error.hint


def test_errors_are_counted_by_code_and_a_full_device_is_noticed() -> None:
    tally = BenchFigures(errors=Counter({"no_answer": 1, "overloaded": 14047}))
    assert errors_text(tally.errors) == "14,048 errors: overloaded 14,047, no_answer 1"
    assert tally.mostly_overloaded
    tally.seconds.extend([0.1] * 20_000)
    assert not tally.mostly_overloaded
    assert not BenchFigures().mostly_overloaded


def test_rate_and_quantiles_are_of_the_answers_alone() -> None:
    tally = BenchFigures()
    answers: list[Any] = [SimpleNamespace(seconds=number / 1000) for number in range(1, 101)]
    for number, answer in enumerate(answers):
        tally.add(answer, number / 100)
    tally.add(error_of("overloaded", "full"), 2.0)
    assert tally.rate == pytest.approx(50)
    assert tally.quantiles() == {"p50": 51.0, "p90": 91.0, "p99": 100.0, "max": 100.0}
    assert tally.errors == {"overloaded": 1}
    assert BenchFigures().quantiles() == {}
