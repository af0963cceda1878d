"""A yanked version, as a person sees it: refused, passed over, and shown with who, when and why."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest

from registry import hub
from tests.support.models import onnx_models
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

WHY = "reads 7 as 1"


@pytest.fixture
def model(cli: Cli, request: pytest.FixtureRequest) -> str:
    """A model of the test's own with the versions 1 and 2, the second under the alias `next`; 2 is yanked."""
    name = f"m{crc32(request.node.name.encode()):08x}"
    (cli.folder / "linear.onnx").write_bytes(onnx_models.linear())
    for version, more in (("1", ()), ("2", ("--alias", "next", "--label", "round=2"))):
        cli("publish", name, "linear.onnx", "--version", version, "--target", "cpu", *more)
    assert f"{name}@2 is yanked" in cli("yank", f"{name}@2", "--reason", WHY).out
    return name


def test_it_is_shown_wherever_the_version_is(cli: Cli, model: str) -> None:
    cli("devices", "add", "edge-9")
    shown = cli("show", f"{model}@2").out
    assert "it was yanked by admin, 20" in shown
    assert shown.splitlines()[1].endswith(WHY)
    versions = cli("show", model).out
    assert "yanked" in versions
    assert "2 was yanked by admin" in versions
    assert [row.split()[2] for row in cli("models").out.splitlines() if row.startswith(f"{model} ")] == ["1"]
    for command in (("explain", "edge-9", f"{model}@2"), ("coverage", f"{model}@2")):
        assert f"warning: {model}@2 was yanked by admin" in cli(*command, code=None).err
    view = cli("show", f"{model}@2", "--json").document["version"]
    assert (view["yanked"]["by"], view["yanked"]["reason"]) == ("admin", WHY)


def test_pull_passes_it_over_and_refuses_it_unless_told_otherwise(cli: Cli, model: str) -> None:
    assert f"{model}@1 " in cli("pull", model).out
    for reference in ("2", "next"):
        ran = cli("pull", f"{model}@{reference}", code=4)
        assert f"was yanked by admin: {WHY}" in ran.err
        assert "--yanked" in ran.err
    assert f"{model}@2 " in cli("pull", f"{model}@2", "--yanked").out


def test_nothing_new_gets_it_until_the_undo(cli: Cli, model: str) -> None:
    cli("devices", "add", "edge-8")
    ran = cli("deploy", f"{model}@2", "--device", "edge-8", "--force", "--json", code=4)
    assert ran.error["code"] == "yanked"
    assert WHY in ran.error["message"]
    cli("alias", "set", model, "stable", "2", code=4)
    assert "may be deployed again" in cli("yank", f"{model}@2", "--undo").out
    cli("deploy", f"{model}@2", "--device", "edge-8", "--force")
    answer = cli("yank", f"{model}@2", "--reason", WHY, "--json").document
    assert (answer["devices"], answer["version"]["aliases"]) == (1, ["next"])


def test_a_reason_and_an_exact_version_are_needed(cli: Cli, model: str) -> None:
    cli("yank", f"{model}@1", code=2)
    cli("yank", f"{model}@1", "--reason", " ", code=2)
    cli("yank", f"{model}@1", "--reason", WHY, "--undo", code=2)
    assert "name the version itself" in cli("yank", f"{model}@next", "--reason", WHY, code=2).err
    cli("yank", f"{model}@9", "--reason", WHY, code=3)


def test_where_every_version_was_withdrawn_the_newest_is_said_to_be_none(cli: Cli, model: str) -> None:
    cli("yank", f"{model}@1", "--reason", WHY)
    assert "each was yanked, or taken back" in cli("pull", model, code=3).err
    assert [row.split()[2] for row in cli("models").out.splitlines() if row.startswith(f"{model} ")] == ["withdrawn"]


def test_the_hub_passes_it_over_and_refuses_it_unless_told_otherwise(
    cli: Cli, model: str, server: RegistryProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFLEET_REGISTRY", server.url)
    monkeypatch.setenv("MODELFLEET_TOKEN", server.admin_token)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert {each.name: each.version for each in hub.list()}[model] == "1"
    with hub.load(model) as newest:
        assert newest.version == "1"
    for name in (f"{model}@2", f"{model}@next"):
        with pytest.raises(hub.HubError, match=WHY) as caught:
            hub.load(name)
        assert caught.value.code == "yanked"
    with hub.load(f"{model}@2", allow_yanked=True) as asked_for:
        assert asked_for.version == "2"
