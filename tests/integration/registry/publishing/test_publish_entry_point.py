"""Code is published with a checkpoint only when it is signed; the registry stores it, and trusts nobody."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.adapters.signatures import verified
from agent.config.settings import AgentConfig
from agent.errors import PermanentError
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.paths import version_path
from registry.contracts.wire import digest_of
from tests.support.models import checkpoints, onnx_models
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

CODE = "def create(classes): ...\nraise RuntimeError('publishing runs no code')\n"
TENSORS = ("--input", "x:FP32:-1,4", "--output", "y:FP32:-1,3")
OPTIONS = ("--entry-point", "network.py:create", "--network-arg", "classes=3", *TENSORS)
KEY = ("--signing-key", "release.key")
PUBLISH_FILE = """
model = "own"
version = "2.0.0"
signing_key = "release.key"
[[variant]]
file = "own.safetensors"
target = "cpu"
[variant.entry_point]
module = "network.py"
function = "create"
arguments = { classes = 3 }
[[variant.inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 4]
[[variant.outputs]]
name = "y"
datatype = "FP32"
shape = [-1, 3]
"""


@pytest.fixture
def cli(server: RegistryProcess, tmp_path: Path) -> Cli:
    """An administrator's shell in a folder with a checkpoint, its code and a key."""
    (tmp_path / "own.safetensors").write_bytes(checkpoints.safetensors({"dense.weight": (3, 4)}, 1.0))
    (tmp_path / "network.py").write_text(CODE)
    (tmp_path / "publish.toml").write_text(PUBLISH_FILE)
    shell = Cli(tmp_path, server.url, server.admin_token)
    shell("key", "new", "release.key")
    return shell


def publish(cli: Cli, *more: str, code: int = 0, model: str = "own") -> str:
    standard = ("publish", model, "own.safetensors", "--version", "1.0.0", "--target", "cpu")
    return " ".join(cli(*standard, *more, code=code).err.split())


def manifest(cli: Cli, name: str) -> Manifest:
    return Manifest.model_validate(cli("show", name, "--json").document["manifest"])


def agent(cli: Cli) -> AgentConfig:
    """Of a device whose owner took over what `registry key show` printed."""
    key = cli("key", "show", "release.key", "--json").document["public_key"]
    return AgentConfig.model_validate({"device": "edge-1", "entry_points": {"enabled": True, "trusted_keys": [key]}})


def test_a_new_key_is_its_owners_alone_and_never_overwritten(cli: Cli) -> None:
    file = cli.folder / "release.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    assert "is not overwritten" in cli("key", "new", "release.key", code=4).err
    assert file.read_bytes() == before
    told = cli("key", "show", "release.key").out
    assert 'trusted_keys = ["ed25519:' in told
    assert before.splitlines()[1].decode() not in told


@pytest.mark.parametrize("source", ["options", "file"])
def test_what_is_published_is_what_an_agent_verifies(cli: Cli, source: str) -> None:
    if source == "options":
        told = publish(cli, *OPTIONS, *KEY)
        assert "network network.py:create(classes=3), signed with sha256:" in told
    else:
        cli("publish", "publish.toml")
    found = manifest(cli, "own@1.0.0" if source == "options" else "own@2.0.0")
    (variant,) = found.variants
    assert {file.path for file in variant.files} == {"own.safetensors", "network.py"}
    code = verified(found.model, found.version, variant, agent(cli))
    assert code == ("network.py", "create", {"classes": 3}, digest_of(CODE.encode()))
    with pytest.raises(PermanentError):
        verified(found.model, "9.9.9", variant, agent(cli))


def test_publishing_the_same_again_changes_nothing(cli: Cli) -> None:
    publish(cli, *OPTIONS, *KEY, model="again")
    assert (
        "nothing to do"
        in cli("publish", "again", "own.safetensors", "--version", "1.0.0", "--target", "cpu", *OPTIONS, *KEY).out
    )
    cli("key", "new", "other.key")
    assert "other content" in publish(cli, *OPTIONS, "--signing-key", "other.key", code=4, model="again")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (OPTIONS, 2, "published only when it is signed"),
        ((*OPTIONS, "--network", "lenet5", *KEY), 2, "one of them builds the network"),
        (("--entry-point", "network.py", *TENSORS, *KEY), 2, "FILE.py:FUNCTION"),
        (("--entry-point", "network.py:os.system", *TENSORS, *KEY), 2, "function"),
        (("--entry-point", "none.py:create", *TENSORS, *KEY), 3, "none.py does not exist"),
        (("--entry-point", "network.py:create", *KEY), 2, "--input and --output"),
        ((*OPTIONS, "--signing-key", "none.key"), 3, "none.key cannot be read"),
        ((*OPTIONS, "--signing-key", "network.py"), 5, "can be read by others"),
        ((*OPTIONS, "--signing-key", "empty.key"), 2, "holds no private key"),
        (("--network", "lenet5", *KEY), 2, "no entry point to sign"),
    ],
)
def test_an_entry_point_that_cannot_be_is_refused(cli: Cli, options: tuple[str, ...], code: int, said: str) -> None:
    empty = cli.folder / "empty.key"
    empty.write_text("")
    empty.chmod(0o600)
    (cli.folder / "network.py").chmod(0o644)
    assert said in publish(cli, *options, code=code, model="refused")
    cli("show", "refused", code=3)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def build(classes): ...\n", "network.py has no function 'create' at its top level"),
        ("class Net:\n    def create(self): ...\n", "network.py has no function 'create' at its top level"),
        ("create(3)\n", "network.py has no function 'create' at its top level"),
        ("create = 3 +\n", "line 1: invalid syntax"),
        ("a\0b\n", "null bytes"),
        ("#" * ((1 << 20) + 1), "over 1048576 bytes"),
    ],
)
def test_code_without_the_named_function_is_refused_before_anything_is_sent(cli: Cli, code: str, said: str) -> None:
    (cli.folder / "network.py").write_text(code)
    assert said in publish(cli, *OPTIONS, *KEY, code=2, model="lacking")
    cli("show", "lacking", code=3)


@pytest.mark.parametrize(
    "code",
    [
        "class create: ...\n",
        "create = make = print\n",
        "from networks import lenet as create\n",
        "from networks import *\n",
        "try:\n    import create\nexcept ImportError:\n    def create(classes): ...\n",
        "def make():\n    global create\n",
        "globals()['create'] = print\n",
    ],
)
def test_a_function_may_come_to_its_name_in_any_way(cli: Cli, code: str) -> None:
    (cli.folder / "network.py").write_text(code)
    publish(cli, *OPTIONS, *KEY, "--dry-run", model="named")


def test_code_is_for_checkpoints(cli: Cli) -> None:
    (cli.folder / "m.onnx").write_bytes(onnx_models.linear())
    refused = cli("publish", "m", "m.onnx", "--version", "1", "--target", "cpu", *OPTIONS[:2], *KEY, code=2)
    assert "An entry point is for checkpoints" in " ".join(refused.err.split())


def test_the_registry_refuses_code_without_its_file_or_a_signature_of_the_right_form(
    cli: Cli, server: RegistryProcess
) -> None:
    """Any signature of the right form it stores: it has no keys to trust, and so nothing to take over in it."""
    publish(cli, *OPTIONS, *KEY, model="stored")
    changes = {
        "elsewhere.py": ({"module": "elsewhere.py"}, "is not a file beside its checkpoint"),
        "no base64": ({"signature": "none"}, "signature"),
        "63 bytes": ({"signature": base64.b64encode(bytes(63)).decode()}, "signature"),
        "no key id": ({"key": "mine"}, "key"),
    }
    for change, said in changes.values():
        document: dict[str, Any] = json.loads(manifest(cli, "stored@1.0.0").canonical())
        document["version"] = "3.0.0"
        document["variants"][0]["entry_point"].update(change)
        answer = httpx.put(
            server.url + version_path("stored", "3.0.0"),
            json=document,
            headers={"Authorization": f"Bearer {server.admin_token}"},
        )
        assert answer.status_code == 422, answer.text
        assert said in answer.text
    cli("show", "stored@3.0.0", code=3)
