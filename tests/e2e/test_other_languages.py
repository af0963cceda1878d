"""The examples of docs/clients ask a real fleet, are told of errors, and go on after the broker was away."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.demo.processes import free_port, listens
from tests.e2e.conftest import DEVICE
from tests.support.clients.serving import until
from tests.support.paths import LENET_FOLDER, ROOT
from tests.support.programs.fleet import Fleet

EXAMPLES = ROOT / "docs" / "clients"
PICTURE = LENET_FOLDER / "digits" / "digit-0-1.png"
DIGIT = PICTURE.stem.split("-")[1]
ASKS = 20


@pytest.fixture(scope="module", autouse=True)
def _asked_for(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--languages"):
        pytest.skip("half a minute, and packages of npm: run with --languages")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """LeNet serves on `edge-1`."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        running.start_agent(DEVICE, running.add_device(DEVICE))
        running.registry("publish", str(LENET_FOLDER / "lenet.toml"))
        running.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")
        yield running


@pytest.fixture(scope="module")
def packages(_asked_for: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with node_modules, installed once per run."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"private": true}')
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "mqtt@5", "node-red@4"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def run(*argv: str, cwd: Path | None = None) -> tuple[int, str, str]:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def goes_on_without_the_broker_for_a_while(fleet: Fleet, *argv: str, cwd: Path | None = None) -> list[str]:
    """The lines of a program that asks ASKS times, during which the broker is killed and started again."""
    with subprocess.Popen(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        first = [program.stdout.readline() for _ in range(5)]
        fleet.processes["broker"].kill()
        fleet.processes["broker"].start(lambda: listens(fleet.broker_port))
        rest, errors = program.communicate(timeout=100)
    assert program.returncode == 0, errors
    return [*first, *rest.splitlines(keepends=True)]


# --- C ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program_in_c(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(the compiled example, a file with the picture as FP32)."""
    folder = tmp_path_factory.mktemp("c")
    argv = ["cc", "-Wall", "-Wextra", "-Werror", "-o", str(folder / "ask"), str(EXAMPLES / "ask.c"), "-lmosquitto"]
    if shutil.which("cc") is None or not any(
        Path(p, "mosquitto.h").exists() for p in ("/usr/include", "/usr/local/include")
    ):
        pytest.skip("no C compiler, or no mosquitto.h: apt-get install gcc libmosquitto-dev")
    code, _, errors = run(*argv)
    assert code == 0, errors
    pixels = np.asarray(Image.open(PICTURE).convert("L"), "<f4") / 255
    (folder / "x.f32").write_bytes(pixels.astype("<f4").tobytes())
    return str(folder / "ask"), str(folder / "x.f32")


def test_the_program_in_c_is_answered_and_told_of_errors(fleet: Fleet, program_in_c: tuple[str, str]) -> None:
    program, tensor = program_in_c
    where = (program, "127.0.0.1", str(fleet.broker_port), DEVICE)
    code, out, errors = run(*where, "lenet", "x", "1,1,28,28", tensor)
    assert (code, errors) == (0, "")
    assert np.argmax([float(each) for each in out.split()]) == int(DIGIT)
    for model, shape, expected in (("nosuch", "1,1,28,28", "unknown_model"), ("lenet", "28,28", "wrong_shape")):
        code, out, errors = run(*where, model, "x", shape, tensor)
        assert (code, out) == (1, "")
        assert json.loads(errors)["code"] == expected


def test_the_program_in_c_goes_on_after_the_broker_was_away(fleet: Fleet, program_in_c: tuple[str, str]) -> None:
    program, tensor = program_in_c
    argv = (program, "127.0.0.1", str(fleet.broker_port), DEVICE, "lenet", "x", "1,1,28,28", tensor, str(ASKS))
    lines = goes_on_without_the_broker_for_a_while(fleet, *argv)
    assert [np.argmax([float(each) for each in line.split()]) for line in lines] == [int(DIGIT)] * ASKS


# --- JavaScript -------------------------------------------------------------------------------------------------------


def javascript(packages: Path, fleet: Fleet, *arguments: str) -> list[str]:
    shutil.copy(EXAMPLES / "ask.mjs", packages)
    return ["node", "ask.mjs", f"mqtt://127.0.0.1:{fleet.broker_port}", *arguments]


def test_the_program_in_javascript_is_answered_and_told_of_errors(fleet: Fleet, packages: Path) -> None:
    code, out, errors = run(*javascript(packages, fleet, DEVICE, "lenet", str(PICTURE)), cwd=packages)
    assert (code, out, errors) == (0, f"ready: true\nlabel: {DIGIT}\n", "")
    code, out, errors = run(*javascript(packages, fleet, DEVICE, "nosuch", str(PICTURE)), cwd=packages)
    assert (code, out, errors.partition(":")[0]) == (1, "", "unknown_model")
    not_one = str(LENET_FOLDER / "lenet.toml")
    code, _, errors = run(*javascript(packages, fleet, DEVICE, "lenet", not_one), cwd=packages)
    assert (code, errors.partition(":")[0]) == (1, "bad_image")
    code, out, errors = run(*javascript(packages, fleet, "edge-9", "lenet", str(PICTURE)), cwd=packages)
    assert (code, out, errors) == (1, "", "no_such_device: no agent takes requests as edge-9\n")


def test_the_program_in_javascript_says_what_it_lacks_in_one_line(packages: Path) -> None:
    shutil.copy(EXAMPLES / "ask.mjs", packages)
    code, out, errors = run("node", "ask.mjs", "mqtt://127.0.0.1:1", DEVICE, "lenet", str(PICTURE), cwd=packages)
    assert (code, out, errors.partition(":")[0], errors.count("\n")) == (1, "", "not_connected", 1)
    code, out, errors = run("node", "ask.mjs", "mqtt://127.0.0.1:1", cwd=packages)
    assert (code, out, errors.partition(":")[0], errors.count("\n")) == (2, "", "usage", 1)


def test_the_program_in_javascript_goes_on_after_the_broker_was_away(fleet: Fleet, packages: Path) -> None:
    argv = javascript(packages, fleet, DEVICE, "lenet", str(PICTURE), str(ASKS))
    lines = goes_on_without_the_broker_for_a_while(fleet, *argv, cwd=packages)
    assert lines == ["ready: true\n", *[f"label: {DIGIT}\n"] * ASKS]


# --- Node-RED ---------------------------------------------------------------------------------------------------------


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()  # of Node-RED itself while it has not loaded the flow
            return error.code, json.loads(text) if text.startswith(b"{") else {}


def test_the_flow_of_node_red_answers_over_http(fleet: Fleet, packages: Path, tmp_path: Path) -> None:
    port = free_port()
    settings = (
        f"module.exports = {{ uiHost: '127.0.0.1', uiPort: {port}, flowFile: 'flow.json', httpAdminRoot: false }};"
    )
    (tmp_path / "settings.js").write_text(settings)
    shutil.copy(EXAMPLES / "node-red.json", tmp_path / "flow.json")
    script = packages / "node_modules" / "node-red" / "red.js"
    argv = ["node", str(script), "--userDir", str(tmp_path), "--settings", str(tmp_path / "settings.js")]
    node_red = fleet.program(
        "node-red", argv, tmp_path, {"BROKER_HOST": "127.0.0.1", "BROKER_PORT": str(fleet.broker_port)}
    )
    node_red.start(lambda: listens(port))
    url = f"http://127.0.0.1:{port}/ask/{DEVICE}"
    picture = PICTURE.read_bytes()
    try:
        until(lambda: post(f"{url}/lenet", picture)[0] == 200)  # the flow has connected
        status, answer = post(f"{url}/lenet", picture)
        assert (status, answer["label"], answer["model_version"]) == (200, DIGIT, "1.0.0")
        status, answer = post(f"{url}/nosuch", picture)
        assert (status, answer["code"]) == (422, "unknown_model")
        fleet.processes["broker"].kill()
        fleet.processes["broker"].start(lambda: listens(fleet.broker_port))
        until(lambda: post(f"{url}/lenet", picture)[0] == 200)
    finally:
        node_red.stop(10)
