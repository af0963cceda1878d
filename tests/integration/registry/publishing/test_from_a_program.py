"""The publishing pipeline as a Python program calls it: the page's example, results, progress, typed errors."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.client.address import Address
from registry.client.api import ApiClient
from registry.client.errors import ClientError, NoAnswerError, UsageFault
from registry.contracts.catalogue.manifest import Manifest, Target
from registry.inspection.facts import InspectionError
from registry.publishing.plan import Observer, PublishPlan, make_plan
from registry.publishing.publish import publish
from registry.publishing.request import GoldenSection, PublishRequest, VariantSection
from tests.support.models import onnx_models
from tests.support.paths import ROOT
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

LENET = ROOT / "scripts" / "models" / "lenet" / "lenet.onnx"


class Told:
    def __init__(self) -> None:
        self.findings: list[str] = []
        self.positions: dict[str, list[int]] = {}
        self.manifests: list[Manifest] = []

    @property
    def observer(self) -> Observer:
        return Observer(
            finding=self.findings.append,
            inspected=lambda manifest, _facts: self.manifests.append(manifest),
            progress=self.progress,
        )

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        self.positions[what] = [total]
        yield self.positions[what].append


@pytest.fixture
def client(server: RegistryProcess) -> Iterator[ApiClient]:
    client = ApiClient(Address(server.url, server.admin_token))
    yield client
    client.close()


def model(folder: Path, factor: float) -> Path:
    (folder / "model.onnx").write_bytes(onnx_models.scaled(factor, 3))
    return folder / "model.onnx"


def plan(name: str, file: Path, **said: object) -> PublishPlan:
    request = PublishRequest(model=name, version="1", variant=(VariantSection(file=file, target=Target.CPU),))
    return make_plan(request.model_copy(update=said))


def test_the_example_of_the_page_publishes(cli: Cli) -> None:
    page = (ROOT / "docs" / "publishing.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    shutil.copy(LENET, cli.folder / "lenet.onnx")
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=cli.folder, env=cli.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = cli("show", "lenet@1.0.0", "--json").document
    assert done.stdout.split() == [shown["version"]["manifest"], "True", str(LENET.stat().st_size)]
    assert shown["manifest"]["labels"] == {"dataset": "digits"}


def test_a_dry_run_says_what_would_be_sent_and_a_second_time_nothing_is_sent(client: ApiClient, tmp_path: Path) -> None:
    planned = plan("program", model(tmp_path, 2.0), aliases=("stable",))
    size = (tmp_path / "model.onnx").stat().st_size
    tried = publish(client, planned, dry_run=True)
    assert (tried.dry_run, tried.created, tried.sent_bytes, tried.present_bytes) == (True, False, size, 0)
    told = Told()
    first = publish(client, planned, observer=told.observer)
    assert (first.created, first.sent_bytes, first.aliases) == (True, size, ("stable",))
    assert told.manifests == [first.manifest]
    assert {what: seen[-1] for what, seen in told.positions.items()} == dict.fromkeys(
        ("reading model.onnx", "sending model.onnx"), size
    )
    again = publish(client, planned)
    assert (again.created, again.sent_bytes, again.present_bytes) == (False, 0, size)
    assert again.manifest == first.manifest


def test_what_was_measured_is_told_and_stands_in_the_result(client: ApiClient, tmp_path: Path) -> None:
    told = Told()
    result = publish(
        client, plan("measured", model(tmp_path, 2.0), golden=GoldenSection(random=2)), observer=told.observer
    )
    assert result.manifest.golden is not None
    assert result.manifest.golden.cases == 2
    assert any(text.startswith("onnx-cpu: measured here on onnxruntime/") for text in told.findings)


def test_errors_are_typed_and_say_a_code(client: ApiClient, tmp_path: Path) -> None:
    publish(client, plan("typed", model(tmp_path, 2.0)))
    with pytest.raises(ClientError) as refused:
        publish(client, plan("typed", model(tmp_path, 3.0)))
    assert refused.value.code == "conflict"
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises((InspectionError, UsageFault)):
        plan("typed", tmp_path / "text.onnx")
    with pytest.raises(UsageFault):
        plan("typed", model(tmp_path, 2.0), version=None)
    nobody = ApiClient(Address("http://127.0.0.1:9", None))
    with pytest.raises(NoAnswerError):
        publish(nobody, plan("typed", model(tmp_path, 2.0)))
    assert publish(nobody, plan("typed", model(tmp_path, 2.0)), dry_run=True).sent_bytes is None
