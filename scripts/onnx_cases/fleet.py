"""Takes cases the real way: published to a registry, deployed to a device, asked over a broker, compared.

A few cases are under way at once, each from its publishing to its end, so that loading one goes on while another is
asked. What fails, and where, is the outcome of the case; nothing here raises for it.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from registry.client.address import Address
from registry.client.api import ApiClient
from registry.client.devices import Answer, Client, DeviceError
from registry.client.errors import ClientError
from registry.client.transfers import hash_file, upload
from registry.contracts.api.devices import Deployment
from registry.contracts.api.versions import PublishAnswer
from registry.contracts.catalogue.manifest import Target
from registry.contracts.paths import deployment_path, version_path
from registry.errors import RegistryError
from registry.publishing.plan import build_manifest, make_plan
from registry.publishing.publish import publish
from registry.publishing.request import PublishRequest, VariantSection
from scripts.demo.paho_session import end_session
from scripts.demo.processes import Fleet
from scripts.onnx_cases.cases import Case, Set, difference, given, outputs_of

PREFIX = "modelfleet/v1"
SERVE_S = 120.0
"""From the deployment to a model that serves, on a busy machine."""
ANSWER_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a case went. `stage` is empty when every answer was right."""

    case: str
    stage: str = ""
    """`carried` (a type that no request can carry), `publish`, `deploy`, `ask` or `values`."""
    code: str = ""
    reason: str = ""


class CaseFleet:
    """One broker, one registry, one device. Use as a context manager."""

    def __init__(self, folder: Path, *, at_once: int = 6, trial: bool = False) -> None:
        """`trial`: publishing makes its trial request, as `registry publish` does: 0.5 s more each."""
        self._trial = trial
        self._fleet = Fleet(folder)
        self._folder = folder
        self._at_once = at_once
        self._inline = [f"inline-{number}" for number in range(at_once)]
        self._process = [f"case-{number}" for number in range(at_once)]
        self._numbers = iter(range(1 << 30))

    def __enter__(self) -> CaseFleet:
        fleet = self._fleet.__enter__()
        fleet.start_broker()
        fleet.start_registry()
        settings = {
            "MODELFLEET_AGENT_HEALTH_INTERVAL_S": "60",
            "MODELFLEET_AGENT_LIMITS__SLOTS": "16",
            "MODELFLEET_AGENT_WORKER__CORES": "1",
            "MODELFLEET_AGENT_WORKER__INLINE_MODELS": json.dumps(self._inline),
        }
        fleet.start_agent("edge-1", fleet.add_device("edge-1"), **settings)
        self._token = (fleet.registry_data / "admin.token").read_text().strip()
        self._device = _Device(fleet.broker_port, "edge-1")
        self._client = Client(f"mqtt://127.0.0.1:{fleet.broker_port}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()
        self._device.close()
        self._fleet.stop()

    def run(
        self,
        cases: Iterable[Case],
        told: Callable[[Outcome], None] = lambda _: None,
        *,
        inline: Callable[[Case], bool] = lambda _: False,
    ) -> list[Outcome]:
        """Every case's outcome, in their order. `inline`: its model runs in the agent's process, not in its own."""
        free: dict[bool, queue.Queue[str]] = {True: queue.Queue(), False: queue.Queue()}
        for names, queued in ((self._inline, free[True]), (self._process, free[False])):
            for name in names:
                queued.put(name)

        def one(case: Case) -> Outcome:
            names = free[inline(case)]
            name = names.get()
            try:
                outcome = self._take(client, name, f"1.0.{next(self._numbers)}", case)
            finally:
                names.put(name)
            told(outcome)
            return outcome

        with ApiClient(Address(self._fleet.url, self._token)) as client, ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(one, cases))

    def _take(self, client: ApiClient, model: str, version: str, case: Case) -> Outcome:
        if case.carried:
            return Outcome(case.name, "carried", "", f"no request can carry {case.carried}")
        try:
            self._publish(client, model, version, case)
        except (ClientError, RegistryError, ValueError) as error:
            return Outcome(case.name, "publish", str(getattr(error, "code", "")), _said(error))
        path = deployment_path("edge-1", model)
        try:
            client.send("PUT", path, Deployment(version=version))
        except ClientError as error:
            return Outcome(case.name, "deploy", error.code, _said(error))
        try:
            fault = self._device.serves(model, version)
            return Outcome(case.name, "deploy", *fault) if fault is not None else self._asked(model, case)
        except TimeoutError as error:
            return Outcome(case.name, "deploy", "timeout", str(error))
        finally:
            client.send("DELETE", path)
            self._device.gone(model)

    def _publish(self, client: ApiClient, model: str, version: str, case: Case) -> None:
        file = self._folder / f"{model}-{version}.onnx"
        file.write_bytes(case.model)
        section = VariantSection(file=file, target=Target.CPU)
        plan = make_plan(PublishRequest(model=model, version=version, variant=(section,)))
        if self._trial:
            publish(client, plan)
        else:
            local = hash_file(file)
            manifest = build_manifest(plan, {file: local})
            upload(client, local)
            client.change("PUT", version_path(model, version), manifest, PublishAnswer, repeatable=True)
        file.unlink()

    def _asked(self, model: str, case: Case) -> Outcome:
        sent = [
            self._client.submit(
                "edge-1", model, {name: given(tensor) for name, tensor in right.inputs.items()}, timeout=ANSWER_S
            )
            for right in case.sets
        ]
        found = [_judged(future, right) for future, right in zip(sent, case.sets, strict=True)]
        return Outcome(case.name, *next((each for each in found if each[0]), ()))


def _judged(future: Future[Answer], right: Set) -> tuple[str, str, str]:
    """(stage, code, reason) of an answer; empty when it is right."""
    try:
        answer = future.result()
    except DeviceError as error:
        return "ask", error.code, error.message
    wrong = difference(outputs_of(answer), right)
    return ("values", "", wrong) if wrong else ("", "", "")


def _said(error: BaseException) -> str:
    return " ".join([str(error), *map(str, getattr(error, "errors", ()))])[:500]


class _Device:
    """What the device reports."""

    def __init__(self, port: int, device: str) -> None:
        self._news = threading.Condition()
        self._models: dict[str, Any] = {}
        self._client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        ready = threading.Event()
        client.on_connect = lambda c, *_: c.subscribe(f"{PREFIX}/devices/{device}/reported", 1)
        client.on_subscribe = lambda *_: ready.set()
        client.on_message = self._heard
        client.connect("127.0.0.1", port)
        client.loop_start()
        if not ready.wait(20):
            raise TimeoutError("no SUBACK")

    def close(self) -> None:
        """Disconnects."""
        end_session(self._client)

    def _heard(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        with self._news:
            self._models = json.loads(message.payload).get("models", {})
            self._news.notify_all()

    def serves(self, model: str, version: str) -> tuple[str, str] | None:
        """Waits until it does (None), or cannot: the code and why."""

        def decided() -> Any:
            found = self._models.get(model)
            if found is None or found.get("desired_version") != version:
                return None
            return found if found["state"] == "failed" or found.get("version") == version else None

        with self._news:
            if not self._news.wait_for(decided, SERVE_S):
                raise TimeoutError(f"not served within {SERVE_S:.0f} s: {self._models.get(model)}")
            found = decided()
        if found["state"] == "failed" or found.get("version") != version:
            fault = found.get("fault") or found.get("deployment") or {}
            return fault.get("code", ""), fault.get("message", "")[:500]
        return None

    def gone(self, model: str) -> None:
        """Waits until the device has forgotten the model."""
        with self._news:
            if not self._news.wait_for(lambda: model not in self._models, SERVE_S):
                raise TimeoutError(f"{model} is still there after {SERVE_S:.0f} s")
