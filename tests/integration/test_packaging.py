"""What is built and installed holds our two packages and nothing else, and each side imports without the other's."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import paho
import pytest

from registry.config import load_config
from tests.fakes.workers import FakeWorker
from tests.support.clients.serving import Serving
from tests.support.network.broker import Mosquitto
from tests.support.paths import ROOT

BANNED = """
import sys
class Ban:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {banned!r}:
            raise ImportError(name + " is not installed on this kind of host")
sys.meta_path.insert(0, Ban())
import {module}
"""
SERVER_ONLY = {
    *("sqlalchemy", "alembic", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "onnx"),
    *("jinja2", "markupsafe", "python_multipart"),
}
AGENT_ONLY = {"paho", "apscheduler", "msgspec", "PIL", "onnxruntime"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_two_packages_and_their_data(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"agent", "registry"}
    assert any(name.startswith("registry/db/migrations/versions/") for name in names)
    console = {name for name in names if name.startswith("registry/server/console/")}
    assert {f"registry/server/console/{file}" for file in ("static/console.css", "templates/page.html")} <= console


def test_the_wheel_is_never_uploaded_by_accident(wheel: zipfile.ZipFile) -> None:
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    assert b"Private :: Do Not Upload" in wheel.read(metadata)


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("agent.app.agent", SERVER_ONLY),
        ("agent.cli.main", SERVER_ONLY),
        ("registry.cli.main", SERVER_ONLY | AGENT_ONLY),
        ("registry.cli.catalogue.publish", (SERVER_ONLY - {"onnx"}) | AGENT_ONLY),
        ("registry.server.app", {"msgspec", "PIL", "onnxruntime", "onnx"}),
    ],
)
def test_a_side_imports_without_what_only_the_other_needs(module: str, banned: set[str]) -> None:
    code = BANNED.format(banned=banned, module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_example_settings_of_the_registry_are_valid_when_uncommented(tmp_path: Path) -> None:
    lines = (ROOT / "docs" / "registry.toml").read_text().splitlines()
    live = [line[1:] if line.startswith("#") and not line.startswith(("# ", "##")) else line for line in lines]
    example = tmp_path / "registry.toml"
    example.write_text("\n".join(line for line in live if not line.endswith("=")))
    assert load_config(example).port == 8470


ASK = """
import sys
sys.path[:0] = {folders!r}
import numpy
from modelfleet_client import Client, UnknownDeviceError
with Client("mqtt://127.0.0.1:{port}", prefix={prefix!r}) as fleet:
    answers = fleet.infer_many(({{"x": [[n, 2, 3, 4]]}} for n in range(100)), device={device!r}, model="double")
    print([int(answer["y"][0, 0]) for answer in answers] == list(range(0, 200, 2)))
    print(repr(fleet.statistics().slow_reason))
    try:
        fleet.infer("nobody", "double", {{"x": [[1, 2, 3, 4]]}})
    except UnknownDeviceError as error:
        print(error.code)
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"registry", "agent", "msgspec", "pydantic", "httpx"}}))
"""


def test_the_wheel_of_the_client_asks_a_device_without_the_product(broker: Mosquitto, tmp_path: Path) -> None:
    built, site, needs = tmp_path / "dist", tmp_path / "site", tmp_path / "needs"
    for argv, folder in (
        (["hatchling", "build", "-t", "wheel", "-d", str(built)], ROOT / "packaging" / "client"),
        (["pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site), "--find-links", str(built),
          "modelfleet-client"], tmp_path),
    ):  # fmt: skip
        subprocess.run([sys.executable, "-m", *argv], cwd=folder, check=True, capture_output=True, timeout=120)
    needs.mkdir()
    for module in (numpy, paho):
        found = Path(next(iter(module.__path__)))
        (needs / found.name).symlink_to(found)
        libraries = found.with_name(found.name + ".libs")
        if libraries.exists():
            (needs / libraries.name).symlink_to(libraries)
    device = Serving(broker.port, tmp_path)
    device.serve(FakeWorker())
    device.start()
    code = ASK.format(
        folders=[str(site), str(needs)], port=broker.port, prefix=device.topics.prefix, device=device.name
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    device.stop()
    assert done.stdout == "True\n''\nno_such_device\n[]\n", done.stderr
    assert {each.name.split("-")[0] for each in site.iterdir()} == {"modelfleet_client"}
