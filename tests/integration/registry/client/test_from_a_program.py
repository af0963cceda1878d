"""The registry's client as a Python program uses it: the page's example, retries of transfers, typed errors."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from registry.client.address import Address
from registry.client.api import ApiClient
from registry.client.errors import ClientError, NoAnswerError, ProblemError
from registry.client.transfers import choose_variants, download, hash_file, pull, upload
from registry.client.versions import fetch_manifest, find_version
from registry.contracts.api.versions import ModelView
from registry.contracts.catalogue.manifest import FileRef, Target
from registry.contracts.paths import model_path
from registry.contracts.wire import digest_of
from tests.support.paths import ROOT
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

LENET = ROOT / "scripts" / "models" / "lenet" / "lenet.onnx"


def publish(cli: Cli) -> None:
    shutil.copy(LENET, cli.folder / "lenet.onnx")
    cli("publish", "lenet", "lenet.onnx", "--version", "1.0.0", "--target", "cpu", "--alias", "stable")


def test_the_example_of_the_page_runs(cli: Cli) -> None:
    publish(cli)
    page = (ROOT / "docs" / "client.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=cli.folder, env=cli.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert "lenet 1.0.0" in done.stdout, done.stderr
    assert done.stdout.endswith("not_found\n")
    manifest = (cli.folder / "lenet" / "manifest.json").read_bytes()
    assert digest_of(manifest) == cli("show", "lenet@1.0.0", "--json").document["version"]["manifest"]
    assert (cli.folder / "lenet" / "onnx-cpu" / "lenet.onnx").read_bytes() == LENET.read_bytes()


def test_a_blob_goes_and_comes_back_and_is_sent_once(server: RegistryProcess, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"a blob of the client" * 1000)
    file = hash_file(tmp_path / "blob")
    positions: list[int] = []
    with ApiClient(Address(server.url, server.admin_token)) as client:
        assert (upload(client, file, positions.append), upload(client, file)) == (file.size, 0)
        ref = FileRef(path="blob", digest=file.digest, size=file.size)
        (tmp_path / "partial").write_bytes((tmp_path / "blob").read_bytes()[:5000])
        assert download(client, ref, tmp_path / "partial") == file.size - 5000
    assert positions[-1] == file.size
    assert (tmp_path / "partial").read_bytes() == (tmp_path / "blob").read_bytes()


def test_a_pulled_file_that_was_changed_is_not_overwritten(server: RegistryProcess, cli: Cli, tmp_path: Path) -> None:
    publish(cli)
    with ApiClient(Address(server.url, server.admin_token)) as client:
        manifest = fetch_manifest(client, find_version(client, "lenet", None))
        chosen = choose_variants(manifest, target=Target.CPU)
        assert pull(client, manifest, chosen, tmp_path / "out") == LENET.stat().st_size
        assert pull(client, manifest, chosen, tmp_path / "out") == 0
        (tmp_path / "out" / "onnx-cpu" / "lenet.onnx").write_bytes(b"other")
        with pytest.raises(ClientError) as conflict:
            pull(client, manifest, chosen, tmp_path / "out")
        with pytest.raises(ClientError) as none:
            choose_variants(manifest, "no-such")
    assert (conflict.value.code, none.value.code) == ("conflict", "not_found")


def test_errors_are_typed_and_say_whether_the_same_may_succeed_later(server: RegistryProcess) -> None:
    with ApiClient(Address(server.url, "wrong")) as client, pytest.raises(ProblemError) as refused:
        client.get(model_path("lenet"), ModelView)
    assert (refused.value.code, refused.value.status, refused.value.transient) == ("unauthorized", 401, False)
    with ApiClient(Address("http://127.0.0.1:9", None)) as client, pytest.raises(NoAnswerError) as silent:
        client.get(model_path("lenet"), ModelView)
    assert (silent.value.code, silent.value.transient) == ("unreachable", True)
    closed = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no authority is trusted
    url = server.url.replace("http:", "https:")
    with ApiClient(Address(url, None), closed) as client, pytest.raises(NoAnswerError):
        client.get(model_path("lenet"), ModelView)


def test_an_operation_that_the_registry_does_not_know_yet_is_told_from_a_thing_that_is_not_there(cli: Cli) -> None:
    with ApiClient(Address(cli.url, cli.environment["MODELFLEET_TOKEN"])) as client:
        assert client.find(model_path("absent"), ModelView) is None
        with pytest.raises(ProblemError, match="older than this program") as refused:
            client.find("/v1/of-a-later-version", ModelView)
    assert refused.value.code == "method_not_allowed"
    assert "registry --version" in refused.value.hint
