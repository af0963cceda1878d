"""`registry trust` and `publish --key`, as an administrator and a publisher use them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import httpx
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from tests.support.paths import LENET
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

PASSPHRASE = {"MODELFLEET_KEY_PASSPHRASE": "a long passphrase"}


class HttpFetcher(FetcherInterface):
    """python-tuf's own client over HTTP, with a token."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def _fetch(self, url: str) -> object:
        from tuf.api.exceptions import DownloadHTTPError

        answer = self._client.get(url)
        if answer.is_error:
            raise DownloadHTTPError(f"{answer.status_code}", answer.status_code)
        return iter([answer.content])


def listed(registry: RegistryProcess, folder: Path, root: bytes, path: str) -> object:
    """What any TUF client says of a target that starts with this root."""
    folder.mkdir()
    with registry.client() as client:
        config = UpdaterConfig(prefix_targets_with_hash=False)
        url = f"{registry.url}/v1/trust/image/"
        updater = Updater(str(folder), url, fetcher=HttpFetcher(client), config=config, bootstrap=root)
        return updater.get_targetinfo(path)


def test_roots_go_offline_a_publisher_signs_and_any_tuf_client_follows(mortal: RegistryProcess, tmp_path: Path) -> None:
    registry = mortal.start()
    cli = Cli(tmp_path, registry.url, registry.admin_token)
    publish = ("publish", "lenet", LENET, "--target", "cpu", "--golden-random", "0", "--version")
    cli(*publish, "1.0.0")
    cli("devices", "add", "edge-1", "--out", tmp_path / "edge-1")
    assert '[trust]\nroot = "trust.json"\n' in (tmp_path / "edge-1" / "agent.toml").read_text()
    root = json.dumps(json.loads((tmp_path / "edge-1" / "trust.json").read_text())["image"]).encode()
    assert listed(registry, tmp_path / "a", root, "models/lenet/1.0.0")

    cli("key", "new", "ci.key")
    cli("trust", "delegate", "lenet", "--key", "ci.key", "--yes")
    refused = cli(*publish, "1.1.0", "--json", code=4)
    assert refused.error["code"] == "key_offline"
    assert "--key" in cli("trust", "delegate", "lenet", "--yes", code=2).err
    cli(*publish, "1.1.0", "--key", "ci.key")
    cli(*publish, "1.1.0", "--key", "ci.key")  # again changes nothing
    cli("key", "new", "other.key")
    assert "other keys" in cli(*publish, "1.2.0", "--key", "other.key", code=4).err.replace("the keys", "other keys")
    assert listed(registry, tmp_path / "b", root, "models/lenet/1.1.0")
    assert listed(registry, tmp_path / "c", root, "models/lenet/1.2.0") is None

    file, keys = tmp_path / "root.keys", registry.data / "keys"
    short = cli("trust", "offline", file, "--yes", code=2, MODELFLEET_KEY_PASSPHRASE="short")
    assert "12 characters" in short.err
    cli("trust", "offline", file, "--yes", **PASSPHRASE)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {each.name.rpartition("-")[0] for each in keys.iterdir()} == {"online", "models", "director"}
    assert "elsewhere" in cli("trust", "status").out

    assert cli("trust", "rotate", "online", "--yes", "--json", code=4).error["code"] == "key_offline"
    wrong = cli("trust", "renew", "root", "--offline", file, "--yes", code=2, MODELFLEET_KEY_PASSPHRASE="wrong" * 4)
    assert "cannot be read" in wrong.err
    for role in ("online", "targets", "root", "models"):
        cli("trust", "rotate", role, "--offline", file, "--yes", **PASSPHRASE)
    cli("trust", "rotate", "targets", "--repository", "director", "--offline", file, "--yes", **PASSPHRASE)
    cli("trust", "renew", "root", "--repository", "director", "--offline", file, "--yes", **PASSPHRASE)
    cli(*publish, "1.2.0", "--key", "ci.key")
    assert listed(registry, tmp_path / "d", root, "models/lenet/1.2.0")
    view = cli("trust", "status", "--json").document
    versions = {(role["repository"], role["role"]): role["version"] for role in view["roles"]}
    assert (versions["image", "root"], versions["director", "root"]) == (4, 3)
    (publisher,) = [key["keyid"] for key in view["keys"] if key["signs"] == ["image model-lenet"]]
    cli("trust", "revoke", publisher[:12], "--offline", file, "--yes", **PASSPHRASE)
    cli(*publish, "1.3.0")
    assert listed(registry, tmp_path / "e", root, "models/lenet/1.3.0")
