"""A shadow in a whole agent: its process, its workers, a broker, clients who ask all the while."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import DeploymentPolicy, DeploymentProgress, Phase, ShadowPolicy
from registry.contracts.device.messages import Desired, DesiredModel, Reported, ReportedModel
from registry.contracts.topics import Topics
from tests.fakes.registry_simulator import RegistrySimulator, one_file_manifest
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import until
from tests.support.models import onnx_models
from tests.support.network.broker import Mosquitto
from tests.support.programs import warm_start

DEVICE = "shadow-1"
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
X = np.array([1, 2, 3, 4], np.float32)
SHADOW = ShadowPolicy(share=1.0, duration_s=60.0, min_requests=5, min_agreement=1.0)


class Device:
    """An agent that runs, and what it is told and tells."""

    def __init__(self, folder: Path, registry: RegistrySimulator, broker: Mosquitto) -> None:
        self.folder = folder
        self.registry = registry
        self.generation = 0
        settings = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MODELFLEET_")},
            "MODELFLEET_AGENT_DEVICE": DEVICE,
            "MODELFLEET_AGENT_DATA_DIR": str(folder),
            "MODELFLEET_AGENT_REGISTRY__URL": registry.url,
            "MODELFLEET_AGENT_REGISTRY__POLL_INTERVAL_S": "0.1",
            "MODELFLEET_AGENT_MQTT__PORT": str(broker.port),
        }
        self._child = warm_start.start(["agent", "run"], settings)
        self.asker = Asker(broker.port, Topics().infer(DEVICE, "lenet"))

    def stop(self) -> None:
        self.asker.close()
        self._child.send_signal(signal.SIGTERM)
        assert self._child.wait(timeout=30) == 0

    def desire(self, version: str, factor: float, shadow: ShadowPolicy | None) -> None:
        data = onnx_models.scaled(factor, 4)
        digest = self.registry.publish(one_file_manifest(data, version=version), data)
        self.generation += 1
        policy = DeploymentPolicy(probation_s=0, shadow=shadow)
        models = {"lenet": DesiredModel(version=version, manifest=digest, policy=policy)}
        self.registry.desired = Desired(device=DEVICE, generation=self.generation, issued_at=NOW, models=models)

    def says(self) -> ReportedModel | None:
        try:
            status = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return None
        return Reported.model_validate(status["reported"]).models.get("lenet")

    def deployment(self) -> DeploymentProgress | None:
        said = self.says()
        return said.deployment if said is not None else None

    def ask_until(self, over: Callable[[DeploymentProgress], bool]) -> DeploymentProgress:
        """Asks without a pause; every answer is that of 2 * x."""
        payload, length = binary_request(X)
        deadline = time.monotonic() + 60
        while True:
            np.testing.assert_allclose(self.asker.one(payload, header_length=length).tensor(), 2 * X, rtol=1e-5)
            found = self.deployment()
            if found is not None and over(found):
                return found
            assert time.monotonic() < deadline, found


@pytest.fixture
def device(tmp_path: Path, broker: Mosquitto) -> Iterator[Device]:
    registry = RegistrySimulator().start()
    running = Device(tmp_path / "data", registry, broker)
    yield running
    running.stop()
    registry.stop()


def test_a_candidate_that_agrees_takes_over_and_one_that_does_not_never_answers(device: Device) -> None:
    device.desire("1.0.0", 2.0, None)
    until(lambda: (said := device.says()) is not None and said.state == "serving", 60)

    device.desire("2.0.0", 2.000001, SHADOW)
    good = device.ask_until(lambda found: found.version == "2.0.0" and found.phase is Phase.COMMITTED)
    assert good.serves == "2.0.0"
    assert good.shadow is not None
    assert (good.shadow.agreement, good.shadow.errors) == (1.0, 0)
    assert good.shadow.compared >= SHADOW.min_requests
    assert good.gap_s == 0.0

    device.desire("3.0.0", -2.0, SHADOW)
    bad = device.ask_until(lambda found: found.version == "3.0.0" and found.phase is Phase.FAILED)
    assert (bad.code, bad.failed_in, bad.serves) == (DeploymentCode.SHADOW_DISAGREES, Phase.SHADOWING, "2.0.0")
    assert bad.shadow is not None
    assert bad.shadow.agreement == 0.0
