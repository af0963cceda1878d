"""Explanations, imagined facts and coverage: over HTTP and on the command line, for a fleet of several classes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest

from registry.contracts import paths
from registry.contracts.api.devices import DeviceReports
from registry.contracts.api.versions import PublishAnswer, VersionView
from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.device.messages import Reported
from registry.contracts.fit.platforms import AscendFacts, BackendFacts, Evidence, Platform
from registry.contracts.wire import digest_of
from tests.support.paths import LENET
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess, put_blob

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)
ORT = BackendFacts(
    name="onnxruntime", usable=True, version="1.32.0", formats=(Format.ONNX,), targets=(Target.CPU,),
    max_onnx_ir=13, max_onnx_opset=21,
)  # fmt: skip
ACL = BackendFacts(
    name="ascend_acl", usable=True, version="7.0.0", formats=(Format.OM,), targets=(Target.ASCEND310,),
    providers=("Ascend310B4",),
)  # fmt: skip
CPU = Platform(os="linux", arch="x86_64", memory_bytes=8 << 30, backends=(ORT,), agent_version="0.2.0")
OLD = CPU.model_copy(update={"backends": (ORT.model_copy(update={"max_onnx_opset": 9}),)})
NPU = CPU.model_copy(
    update={
        "ascend": AscendFacts(soc="Ascend310B4", chips=1),
        "backends": (ORT, ACL),
        "evidence": {"ascend": Evidence(source="npu-smi info", observed_at=AT)},
    }
)
FLEET = {"cpu-1": CPU, "cpu-2": CPU, "npu-1": NPU, "old-1": OLD, "silent": None}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    process = RegistryProcess(tmp_path_factory.mktemp("registry")).start()
    _fill(process)
    yield process
    process.stop()


@pytest.fixture
def http(server: RegistryProcess) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def _fill(process: RegistryProcess) -> None:
    with process.client() as http:
        for name, facts in FLEET.items():
            labels = {"site": "paris" if name.startswith("cpu") else "rome"}
            token = http.put(paths.device_path(name), json={"labels": labels}).json()["token"]
            if facts is not None:
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
                answer = http.put(paths.facts_path(name), content=facts.canonical(), headers=headers)
                assert answer.status_code < 300, answer.text
        publish(http, "lenet", "1", om(cann_version="8.2"), onnx("onnx", 1))


def onnx(name: str, number: int, opset: int = 17) -> dict[str, Any]:
    needs = {"onnx_opsets": {"": opset}}
    return {"name": name, "format": "onnx", "target": "cpu", "requirements": needs, "content": f"m{number}"}


def om(soc: str = "Ascend310B4", **needs: str) -> dict[str, Any]:
    needs = {"cann_version": "8.0.RC1", "soc_version": soc, **needs}
    return {"name": f"om-{soc.lower()}", "format": "om", "target": "ascend310", "requirements": needs, "content": "om"}


def publish(http: httpx.Client, model: str, version: str, *variants: dict[str, Any]) -> PublishAnswer:
    forms = []
    for variant in variants:
        content = variant["content"].encode()
        file = {"path": "m", "digest": put_blob(http, content), "size": len(content)}
        forms.append({**{k: v for k, v in variant.items() if k != "content"}, "entry": "m", "files": [file]})
    manifest = {"model": model, "version": version, "variants": forms}
    answer = http.put(paths.version_path(model, version), json=manifest)
    assert answer.status_code in (200, 201), answer.text
    return PublishAnswer.model_validate_json(answer.content)


def test_explain_says_what_would_have_to_change(cli: Cli) -> None:
    told = cli("explain", "npu-1", "lenet@1", "--facts").out
    assert "would run variant onnx of lenet@1, on the CPU although it has an accelerator" in told
    assert "cann_too_old" in told
    assert "Nearest miss: om-ascend310b4: upgrade CANN to >= 8.2" in told
    assert "by agent 0.2.0" in told
    assert "npu-smi info" in told
    assert len([line for line in told.splitlines() if line.startswith("ascend.soc")]) == 1


def test_explain_in_json_has_everything(cli: Cli) -> None:
    told = cli("explain", "npu-1", "lenet@1", "--json").document
    resolution = told["resolution"]
    assert (resolution["chosen"], resolution["degraded"], resolution["nearest"]) == ("onnx", True, "om-ascend310b4")
    assert resolution["verdicts"][0]["reasons"][0]["code"] == "cann_too_old"
    assert told["facts_digest"] == NPU.facts_digest()
    assert told["facts_at"]


def test_what_if_changes_the_answer_and_nothing_else(cli: Cli) -> None:
    told = cli("explain", "npu-1", "lenet@1", "--what-if", "cann=8.2").out
    assert told.startswith("If npu-1 had cann=8.2:")
    assert "would run variant om-ascend310b4" in told
    assert cli("explain", "npu-1", "lenet@1", "--what-if", "cann= 8.2 ").out == told
    assert "would run variant onnx" in cli("explain", "npu-1", "lenet@1").out
    assert cli("explain", "old-1", "lenet@1", "--what-if", "onnx_opset=17").code == 0
    assert "Nearest miss: onnx" in cli("explain", "old-1", "lenet@1", code=1).out


@pytest.mark.parametrize("given", ["can=8.2", "cann", "cann=", "cann= "])
def test_a_fact_that_cannot_be_imagined_is_a_wrong_command_line(cli: Cli, given: str) -> None:
    refused = cli("explain", "npu-1", "lenet@1", "--what-if", given, code=2)
    assert "compute_capability=8.6" in refused.err


def test_a_pin_that_excludes_what_fits_is_told(cli: Cli) -> None:
    told = cli("explain", "npu-1", "lenet@1", "--variant", "om-ascend310b4", code=1).out
    assert "pin_excludes_all" in told


def test_the_api_answers_the_same_and_refuses_what_it_does_not_know(http: httpx.Client) -> None:
    url = "/v1/devices/npu-1/resolution"
    asked = {"model": "lenet", "version": "1"}
    assert http.get(url, params={**asked, "what_if": "cann=8.2"}).json()["resolution"]["chosen"] == "om-ascend310b4"
    for params, status in (
        ({**asked, "what_if": "cann"}, 400),
        ({**asked, "what_if": "can=1"}, 400),
        ({**asked, "variant": "nope"}, 400),
        ({**asked, "version": "9"}, 404),
        ({"model": "lenet"}, 422),
    ):
        answer = http.get(url, params=params)
        assert answer.status_code in (status, 400, 422), answer.text
        assert answer.json()["code"] in ("invalid", "not_found")
    assert http.get("/v1/devices/silent/resolution", params=asked).status_code == 409
    assert http.get("/v1/devices/nobody/resolution", params=asked).status_code == 404


def test_facts_that_no_device_has_can_be_asked_about(http: httpx.Client) -> None:
    body = {"model": "lenet", "version": "1", "facts": CPU.to_json(), "what_if": {"soc": "Ascend310B4", "cann": "8.3"}}
    answer = http.post(paths.resolve_path(), json=body).json()
    assert (answer["resolution"]["chosen"], answer["device"]) == ("om-ascend310b4", None)
    assert http.post(paths.resolve_path(), json={"model": "lenet", "version": "1"}).json()["code"] == "invalid"
    both = {**body, "device": "npu-1"}
    assert http.post(paths.resolve_path(), json=both).json()["code"] == "invalid"


def test_coverage_counts_each_class_once(cli: Cli) -> None:
    told = cli("coverage", "lenet@1", "--json", code=1).document
    assert (told["devices"], told["without"], told["degraded"], told["silent"]) == (5, 1, 1, 1)
    assert told["variants"] == {"om-ascend310b4": 0, "onnx": 3}
    first = told["classes"][0]
    assert (first["devices"], first["names"], first["nearest"]) == (2, ["cpu-1", "cpu-2"], None)
    assert len(told["classes"]) == 3
    assert told["silent_names"] == ["silent"]


def test_coverage_says_for_people_who_can_run_nothing_and_why(cli: Cli) -> None:
    told = cli("coverage", "lenet@1", code=1).out
    assert "(old-1) can run nothing" in told
    assert "opset_too_new" in told
    assert "degraded" in told
    assert "Ascend310B4 x1" in told
    assert "No device would run: om-ascend310b4." in told


def test_coverage_of_a_part_of_the_fleet(cli: Cli) -> None:
    told = cli("coverage", "lenet@1", "--fleet", "site=paris", "--json").document
    assert (told["devices"], told["without"], told["selector"]) == (2, 0, "site=paris")
    assert "site is never mars" in cli("coverage", "lenet@1", "--fleet", "site=mars", code=3).err
    assert "selector" in cli("coverage", "lenet@1", "--fleet", "site==(", code=None).err


def test_coverage_of_devices_chosen_as_a_list_of_them_chooses(cli: Cli) -> None:
    told = cli("coverage", "lenet@1", "--fleet", "site=paris", "--name", "cpu-2*", "--json").document
    assert (told["devices"], [each["names"] for each in told["classes"]]) == (1, [["cpu-2"]])
    assert cli("coverage", "lenet@1", "--name", "old", "--state", "idle", "--json", code=1).document["without"] == 1
    refused = cli("coverage", "lenet@1", "--serves", "lenet@9", code=3).err
    assert "No device matches" in refused
    assert "Nothing serves." in refused


def test_the_faster_of_two_that_rank_the_same_is_chosen_for_its_class(http: httpx.Client) -> None:
    publish(http, "twins", "1", onnx("a", 1), onnx("b", 2))
    asked = {"model": "twins", "version": "1"}
    before = http.get("/v1/devices/cpu-2/resolution", params=asked).json()["resolution"]
    assert (before["chosen"], before["tie"]) == ("a", ["b"])
    version = VersionView.model_validate_json(http.get(paths.version_path("twins", "1")).content)
    a, b = (variant.digest for variant in version.variants)
    for device, digest, run_us in (("cpu-1", a, 900.0), ("cpu-2", b, 90.0)):
        token = http.post(paths.device_credential_path(device)).json()["token"]
        served = {
            "state": "serving", "version": "1", "manifest": version.manifest, "variant_digest": digest,
            "parity": {"cases": 1, "max_abs": 0, "max_rel": 0, "passed": True, "run_us": run_us},
        }  # fmt: skip
        reported = Reported.model_validate(
            {
                "device": device, "session_id": "s", "generation": 1, "at": AT, "facts_digest": digest_of(b""),
                "models": {"twins": served},
            }
        )  # fmt: skip
        body = DeviceReports(reported=reported).canonical()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        http.post(paths.reports_path(device), content=body, headers=headers).raise_for_status()
    after = http.get("/v1/devices/cpu-2/resolution", params=asked).json()["resolution"]
    assert (after["chosen"], after["tie"]) == ("b", [])


def test_publishing_what_no_device_can_run_warns(http: httpx.Client) -> None:
    answer = publish(http, "future", "1", onnx("onnx", 7, opset=99), om("Ascend310P3"))
    assert len(answer.warnings) == 2
    assert "opset_too_new" in answer.warnings[0]
    assert "soc_mismatch" in answer.warnings[1]
    assert publish(http, "lenet", "2", onnx("onnx", 1)).warnings == ()
    assert publish(http, "future", "1", onnx("onnx", 7, opset=99), om("Ascend310P3")).warnings == answer.warnings


def test_the_command_shows_the_registrys_warnings(cli: Cli) -> None:
    told = cli("publish", "digits", LENET, "--version", "1", "--target", "gpu", "--json")
    assert "fits none of the 4 known devices" in told.err
    assert len(told.document["warnings"]) == 1
