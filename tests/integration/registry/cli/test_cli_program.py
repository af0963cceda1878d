"""The program itself: what it imports, what its help teaches, and that its reference is current."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import numpy as np
import pytest

from registry.cli.main import COMMANDS, EXTRAS
from registry.cli.output import MEANING
from registry.contracts.catalogue.detection import DetectionPart
from registry.contracts.catalogue.manifest import Classification, ImageInput
from registry.installation import install_command
from registry.publishing.request import DetectionSection, load_publish_file
from scripts.lib.cli_reference import render
from tests.support.models import onnx_models
from tests.support.paths import LENET, ROOT
from tests.support.programs.cli import Cli, end

DOCS = ROOT / "docs"
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from registry.cli.main import main
"""
HELP_OF_EACH = """
for name in {commands}:
    sys.argv[1:] = [name, "--help"]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{{name}} ended with {{end.code}}")
"""
SERVER_ONLY = ("fastapi", "starlette", "sqlalchemy", "alembic", "uvicorn", "apscheduler", "paho", "prometheus_client")


def run_without(names: tuple[str, ...], *arguments: str, program: str = "main()") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT.format(names=repr(set(names))) + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_command_but_serve_works_without_the_servers_packages() -> None:
    ran = run_without(SERVER_ONLY, program=HELP_OF_EACH.format(commands=list(COMMANDS)))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("Usage: registry ") == len(COMMANDS)
    ran = run_without(SERVER_ONLY, "serve")
    assert ran.returncode == 1
    assert install_command("server") in ran.stderr


def test_publishing_says_what_to_install_where_the_onnx_package_is_missing(tmp_path: Path) -> None:
    model = LENET
    ran = run_without(("onnx",), "publish", "m", str(model), "--version", "1", "--target", "cpu")
    assert ran.returncode == 1
    assert install_command("publish") in ran.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "arguments",
    [("publish", "m", "model.onnx", "--version", "1", "--target", "cpu"), ("dataset", "add", "set", "set.npz")],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_is_told_to_end_leaves_no_files(
    arguments: tuple[str, ...], how: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_models.linear())
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 3), "<f4"), y=np.zeros(2, "<i8"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a registry that never answers
        silent.settimeout(60)
        cli = Cli(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", None)
        with cli.start(*arguments, TMPDIR=str(scratch)) as process:
            try:
                with silent.accept()[0]:  # it asks
                    assert list(scratch.iterdir())
                    end(process, how)
            finally:
                process.kill()
    assert process.returncode == 128 + how
    assert list(scratch.iterdir()) == []


def test_a_light_command_imports_neither_server_nor_publishing(tmp_path: Path) -> None:
    program = "import sys, registry.cli.main, registry.cli.catalogue.models; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {module.split(".")[0] for module in loaded} & {*SERVER_ONLY, "onnx", "numpy"}


def test_every_command_teaches_with_an_example(tmp_path: Path) -> None:
    page = render()
    for name in sorted(set(COMMANDS) - {"serve"}):
        section = page.split(f"## `registry {name}`")[1].split("\n## `")[0]
        assert section.count(f"registry {name}") >= 2, name
    assert all(meaning in page for meaning in MEANING.values())


def test_the_reference_is_current() -> None:
    assert (DOCS / "cli.md").read_text(encoding="utf-8").endswith(render()), "run scripts/docs"


def test_the_commented_publish_file_is_valid_and_leaves_nothing_out() -> None:
    example = load_publish_file(DOCS / "publish.toml")
    text = (DOCS / "publish.toml").read_text(encoding="utf-8")
    assert len(example.variant) == 2
    tables = (ImageInput, Classification, DetectionSection, DetectionPart)
    for field in (*(field for table in tables for field in table.model_fields), "files", "requirements", "labels_file"):
        assert field in text, field


def test_the_program_says_its_version(tmp_path: Path) -> None:
    assert Cli(tmp_path, "http://127.0.0.1:1", None)("--version").out.startswith(
        f"modelfleet {version('modelfleet')}\n"
    )


def test_help_names_the_exit_codes_and_a_typo_its_nearest_command(tmp_path: Path) -> None:
    cli = Cli(tmp_path, "http://127.0.0.1:1", None)
    assert "Exit codes" in cli("--help").out
    assert "models" in cli("mdels", code=2).err


@pytest.mark.parametrize(
    "arguments", [("mdels",), ("models", "--bogus"), ("deploy", "lenet@1"), ("record", "m", "maybe"), ()]
)
def test_a_wrong_command_line_is_one_json_object_for_a_program(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ran = Cli(tmp_path, "http://127.0.0.1:1", None)("--json", *arguments, code=2)
    assert not ran.out
    assert ran.error["code"] == "usage"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_the_usual_shells(tmp_path: Path, shell: str) -> None:
    cli = Cli(tmp_path, "http://127.0.0.1:1", None)
    completed = cli(_REGISTRY_COMPLETE=f"complete_{shell}", COMP_WORDS="registry un", COMP_CWORD="1",
                    _TYPER_COMPLETE_ARGS="registry un", _TYPER_COMPLETE_FISH_ACTION="get-args", code=None)  # fmt: skip
    assert "undeploy" in completed.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", ".."),
        ("show", "."),
        ("show", "a/b"),
        ("show", "lenet@.."),
        ("pull", "../x"),
        ("delete", "lenet@..", "--yes"),
        ("devices", "show", ".."),
        ("devices", "show", ""),
    ],
)
def test_what_is_no_name_never_becomes_a_part_of_an_address(cli: Cli, arguments: tuple[str, ...]) -> None:
    refused = cli(*arguments, "--json", code=2).error
    assert (refused["code"], refused["message"]) == ("invalid", "The request breaks a rule of the API.")
    assert "is no name" in refused["errors"][0]


def test_a_package_that_is_missing_is_no_bug_but_something_to_install() -> None:
    ran = run_without(("numpy",), "publish", "m", str(LENET), "--version", "1", "--target", "cpu")
    assert ran.returncode == 1
    assert "The package numpy is not installed here" in ran.stderr
    assert install_command("publish") in ran.stderr
    assert "bug" not in ran.stderr


def test_every_extra_that_a_command_may_name_is_one() -> None:
    assert set(EXTRAS) <= set(metadata("modelfleet").get_all("Provides-Extra") or ())
