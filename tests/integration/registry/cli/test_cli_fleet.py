"""The other commands, as processes, against a real registry and a device that reports over HTTP."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

import httpx
import pytest

from registry.cli.main import PANELS
from registry.contracts import paths
from registry.contracts.api.devices import DeviceReports
from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.codes import DeploymentCode, ProblemCode
from registry.contracts.device.deployments import DeploymentProgress, Phase
from registry.contracts.device.messages import Desired, Fault, Reported, ReportedModel, ServingState
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.wire import digest_of
from tests.fakes.odd_server import OddServer
from tests.support.paths import LENET
from tests.support.programs.cli import Cli
from tests.support.programs.fleet_registry import eventually
from tests.support.programs.registry_process import RegistryProcess


@pytest.fixture
def cli(server: RegistryProcess, tmp_path: Path) -> Cli:
    """An administrator's shell; lenet 1.0.0 is published."""
    shell = Cli(tmp_path, server.url, server.admin_token)
    shell("publish", "lenet", LENET, "--version", "1.0.0", "--target", "cpu", "--alias", "stable", "--json")
    return shell


@pytest.fixture
def add_device(cli: Cli) -> Iterator[Callable[[str], Device]]:
    """Registers a device and speaks for it."""
    with ExitStack() as stack:

        def add(name: str) -> Device:
            device = Device(cli, name)
            stack.callback(device.http.close)
            return device

        yield add


class Device:
    """What an agent does over HTTP: says what it is, reads what it should serve, says what it serves."""

    def __init__(self, cli: Cli, name: str) -> None:
        self.name = name
        token = cli("devices", "add", name, "--json").document["token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.http = httpx.Client(base_url=cli.url, headers=headers, timeout=20, trust_env=False)

    def put_facts(self, *, max_opset: int = 21) -> None:
        backend = BackendFacts(
            name="onnxruntime",
            usable=True,
            version="1.20",
            formats=(Format.ONNX,),
            targets=(Target.CPU,),
            max_onnx_ir=10,
            max_onnx_opset=max_opset,
        )
        facts = Platform(os="linux", arch="x86_64", cpu_count=4, backends=(backend,))
        self.http.put(paths.facts_path(self.name), content=facts.canonical()).raise_for_status()

    def report(self, state: ServingState, fault: Fault | None = None, phase: Phase | None = None) -> None:
        """Waits for a desired version and answers it so; with a phase it tells its deployment too."""

        def desired() -> Desired | None:
            answer = self.http.get(paths.desired_path(self.name)).raise_for_status()
            document = Desired.model_validate_json(answer.content)
            return document if document.models else None

        document = eventually(desired)
        version = document.models["lenet"].version
        model = ReportedModel(state=state, version=None if fault else version, desired_version=version, fault=fault)
        if phase is not None:
            since = datetime.fromtimestamp(1_700_000_000, timezone.utc)
            progress = DeploymentProgress(
                version=version,
                manifest=document.models["lenet"].manifest,
                phase=phase,
                since=since,
                until=since if phase is Phase.PROBATION else None,
                code=fault.code if fault else "",
                message=fault.message if fault else "",
                failed_in=Phase.PROBATION if fault else None,
            )
            model = model.model_copy(update={"deployment": progress})
        reported = Reported(
            device=self.name,
            session_id="s",
            generation=document.generation,
            at=datetime.fromtimestamp(1_700_000_000, timezone.utc),
            facts_digest=digest_of(b""),
            models={"lenet": model},
        )
        body = DeviceReports(reported=reported).canonical()
        self.http.post(paths.reports_path(self.name), content=body).raise_for_status()


def test_a_device_is_added_once_and_its_credential_shown_once(cli: Cli) -> None:
    added = cli("devices", "add", "edge-1", "--label", "site=hall-3")
    assert 'device = "edge-1"' in added.out
    assert f'url = "{cli.url}"' in added.out
    assert "registered already" in cli("devices", "add", "edge-1", "--label", "site=hall-4").out
    assert "site=hall-4" in cli("devices").out
    assert "site=hall-4" in cli("devices", "add", "edge-1").out
    cli("devices", "rotate", "edge-1", "--token-out", "edge-1.token")
    written = cli.folder / "edge-1.token"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert "no credential was made" in cli("devices", "rotate", "edge-1", "--token-out", "edge-1.token", code=4).err
    assert cli("devices", "show", "edge-1", "--json", MODELFLEET_TOKEN=written.read_text().strip()).code == 0
    assert "Give --yes" in cli("devices", "remove", "edge-1", code=2).err
    cli("devices", "remove", "edge-1", "--yes")
    cli("devices", "show", "edge-1", code=3)


def test_the_files_for_an_agent_are_written_once_and_never_over_others(cli: Cli) -> None:
    said = cli("devices", "add", "edge-9", "--out", "edge-9").out
    folder = cli.folder / "edge-9"
    assert {path.name for path in folder.iterdir()} == {"agent.toml", "edge-9.token", "trust.json"}  # no broker
    token = (folder / "edge-9.token").read_text().strip()
    assert stat.S_IMODE((folder / "edge-9.token").stat().st_mode) == 0o600
    assert token not in said
    assert token not in (folder / "agent.toml").read_text()
    assert "no credential was made" in cli("devices", "rotate", "edge-9", "--out", "edge-9", code=4).err
    assert "not both" in cli("devices", "rotate", "edge-9", "--out", "x", "--token-out", "y", code=2).err
    assert cli("devices", "show", "edge-9", "--json", MODELFLEET_TOKEN=token).code == 0
    answer = json.loads(cli("devices", "rotate", "edge-9", "--json").out)
    assert 'token_file = "edge-9.token"' in answer["agent_toml"]
    assert answer["token"] not in answer["agent_toml"]


def test_deploy_waits_until_the_device_serves(cli: Cli, add_device: Callable[[str], Device]) -> None:
    device = add_device("serves")
    device.put_facts()
    reporter = threading.Thread(target=device.report, args=(ServingState.SERVING,))
    reporter.start()
    ran = cli("deploy", "lenet@stable", "--device", "serves", "--wait", "--timeout", 30)
    reporter.join()
    assert "variant onnx-cpu" in ran.out
    assert "serves lenet@1.0.0" in ran.err
    assert cli("devices", "show", "serves").out.splitlines()[-1].split()[:4] == ["lenet", "1.0.0", "1.0.0", "serving"]
    assert "device serves" in cli("delete", "lenet@1.0.0", "--yes", code=4).err
    cli("undeploy", "lenet", "--device", "serves")


def test_deploy_says_why_a_device_cannot_serve(cli: Cli, add_device: Callable[[str], Device]) -> None:
    device = add_device("fails")
    device.put_facts()
    fault = Fault(code="load_failed", message="the file is not what it says")
    reporter = threading.Thread(target=device.report, args=(ServingState.FAILED, fault))
    reporter.start()
    error = cli("deploy", "lenet@1.0.0", "-d", "fails", "--wait", "--timeout", 30, "--json", code=1).error
    reporter.join()
    assert error["code"] == "load_failed"
    assert "the file is not what it says" in error["message"]


def test_deploy_says_that_what_serves_is_in_probation(cli: Cli, add_device: Callable[[str], Device]) -> None:
    device = add_device("proving")
    device.put_facts()
    reporter = threading.Thread(target=device.report, args=(ServingState.SERVING, None, Phase.PROBATION))
    reporter.start()
    ran = cli("deploy", "lenet@1.0.0", "-d", "proving", "--wait", "--timeout", 30)
    reporter.join()
    assert "It is in probation until" in ran.err
    assert "lenet@1.0.0: probation since" in cli("devices", "show", "proving").out
    cli("undeploy", "lenet", "--device", "proving")


def test_a_policy_can_be_given_with_a_deployment(cli: Cli, add_device: Callable[[str], Device]) -> None:
    add_device("policed").put_facts()
    words = ("deploy", "lenet@1.0.0", "-d", "policed", "--json")
    asked = ("--probation", "10m", "--max-nan", "5%", "--policy", "strategy=beside", "--policy", "shadow.share=0.2")
    (view,) = cli(*words, *asked, "--policy", "probation.max_latency_ratio=none").document
    policy = view["policy"]
    assert (policy["probation_s"], policy["strategy"], policy["shadow"]["share"]) == (600.0, "beside", 0.2)
    assert (policy["probation"]["max_nan_share"], policy["probation"]["max_latency_ratio"]) == (0.05, None)
    for wrong, says in (
        ("probation.max_nan=1", "no field 'probation.max_nan'"),
        ("probation.max_nan_share=2", "less than or equal to 1"),
        ("hold=true", "hold is a rollout's"),
        ("strategy", "is not KEY=VALUE"),
    ):
        error = cli(*words, "--policy", wrong, code=None)
        assert error.code != 0
        assert says in error.err
    (view,) = cli(*words).document
    assert view["policy"]["probation_s"] == 60.0
    cli("undeploy", "lenet", "--device", "policed")


def test_what_a_device_took_back_is_told_with_its_phase_and_how_it_leaves_quarantine(
    cli: Cli, add_device: Callable[[str], Device]
) -> None:
    device = add_device("took-back")
    device.put_facts()
    fault = Fault(code=DeploymentCode.PROBATION_NAN, message="3 of 30 answers hold NaN")
    reporter = threading.Thread(target=device.report, args=(ServingState.FAILED, fault, Phase.ROLLED_BACK))
    reporter.start()
    ran = cli("deploy", "lenet@1.0.0", "-d", "took-back", "--wait", "--timeout", 30, code=1)
    reporter.join()
    shown = cli("devices", "show", "took-back").out
    for text in (ran.err, shown):
        assert "failed in probation" in text
        assert "3 of 30 answers hold NaN" in text
        assert "registry deploy lenet@1.0.0 --device took-back --retry" in " ".join(text.split())


def test_a_command_for_many_devices_says_for_which_it_was_done(cli: Cli, add_device: Callable[[str], Device]) -> None:
    add_device("edge-one")
    devices = ("--device", "edge-one", "--device", "absent")
    for command in (("deploy", "lenet@1.0.0"), ("undeploy", "lenet")):
        refused = cli(*command, *devices, "--json", code=3)
        assert refused.error["errors"] == ["before that it was done for edge-one"]


def test_deploy_does_not_wait_for_ever(cli: Cli, add_device: Callable[[str], Device]) -> None:
    add_device("away")
    ran = cli("deploy", "lenet@1.0.0", "-d", "away", "--wait", "--timeout", 1, code=7)
    assert "it takes this up when it is back" in ran.err
    assert "The assignment stays" in ran.err


def test_explain_names_each_rejection_with_its_code(cli: Cli, add_device: Callable[[str], Device]) -> None:
    device = add_device("explained")
    refused = cli("explain", "explained", "lenet", code=4).err
    assert "has not told what it is yet" in refused
    assert "Start its agent" in refused
    device.put_facts()
    assert "would run variant onnx-cpu" in cli("explain", "explained", "lenet@stable").out
    device.put_facts(max_opset=9)
    ran = cli("explain", "explained", "lenet@stable", "--json", code=1)
    reasons = ran.document["resolution"]["verdicts"][0]["reasons"]
    assert [reason["code"] for reason in reasons] == ["opset_too_new"]
    refused = cli("deploy", "lenet@stable", "-d", "explained", code=4).err
    assert "No variant of lenet@1.0.0 fits device 'explained'" in refused
    assert "opset" in refused
    assert "registry explain explained lenet@stable" in refused
    assert "--force" in refused
    assert "under a new name" not in refused


def test_explain_says_what_a_fault_of_the_device_means_and_what_to_do(
    cli: Cli, add_device: Callable[[str], Device]
) -> None:
    device = add_device("faulty")
    device.put_facts()
    fault = Fault(code=DeploymentCode.LOAD_FAILED, message="the file is cut short")
    reporter = threading.Thread(target=device.report, args=(ServingState.FAILED, fault))
    reporter.start()
    ran = cli("deploy", "lenet@1.0.0", "-d", "faulty", "--wait", "--timeout", 30, code=1)
    reporter.join()
    told = cli("explain", "faulty", "lenet@1.0.0").out
    assert "faulty says load_failed: the file is cut short" in told
    assert DeploymentCode.LOAD_FAILED.meaning in told
    assert DeploymentCode.LOAD_FAILED.action in told
    assert DeploymentCode.LOAD_FAILED.action in ran.err
    document = cli("explain", "faulty", "lenet@1.0.0", "--json").document
    assert (document["fault"]["code"], document["action"]) == ("load_failed", DeploymentCode.LOAD_FAILED.action)
    assert "load_failed" not in cli("explain", "faulty", "lenet@1.0.0", "--what-if", "memory=8GiB").out


def test_a_refusal_says_what_to_do(cli: Cli) -> None:
    assert cli("devices", "show", "absent", "--json", code=3).error["hint"] == ProblemCode.NOT_FOUND.action


def test_aliases_move_and_keep_their_history(cli: Cli) -> None:
    cli("publish", "lenet", LENET, "--version", "1.1.0", "--target", "cpu", "--json")
    assert "is now 1.1.0" in cli("alias", "set", "lenet", "beta", "1.1.0").out
    assert "nothing to do" in cli("alias", "set", "lenet", "beta", "1.1.0").out
    cli("alias", "set", "lenet", "beta", "1.0.0")
    cli("alias", "remove", "lenet", "beta")
    moves = [entry["version"] for entry in cli("alias", "history", "lenet", "beta", "--json").document]
    assert moves == [None, "1.0.0", "1.1.0"]
    cli("alias", "set", "lenet", "beta", "1.1.0")
    cli("alias", "set", "lenet", "beta", "9.9.9", code=3)


def test_tokens_do_only_what_their_scope_says(cli: Cli) -> None:
    created = cli("token", "create", "reader", "--scope", "read")
    token = created.out.strip()
    assert "reader" in cli("token", "list").out
    cli("models", MODELFLEET_TOKEN=token)
    refused = cli("record", "lenet", "on", "--json", code=5, MODELFLEET_TOKEN=token).error
    assert refused["code"] == "forbidden"
    cli("token", "revoke", "reader", "--yes")
    assert cli("models", "--json", code=5, MODELFLEET_TOKEN=token).error["code"] == "unauthorized"


def test_the_administrators_token_is_found_on_its_own_host_only(cli: Cli, server: RegistryProcess) -> None:
    del cli.environment["MODELFLEET_TOKEN"]
    cli("token", "list", code=5)
    cli("token", "list", MODELFLEET_REGISTRY_DATA_DIR=str(server.data))


def test_global_options_stand_before_or_after_the_command(cli: Cli, server: RegistryProcess) -> None:
    for arguments in (
        ("--registry", server.url, "--json", "models"),
        ("models", "--registry", server.url, "--json"),
        ("--json", "models", "--registry", server.url),
    ):
        names = [model["name"] for model in cli(*arguments, MODELFLEET_REGISTRY="http://127.0.0.1:1").document]
        assert names == ["lenet"]


def test_what_the_fleet_says_can_be_asked_before_it_said_anything(
    cli: Cli, add_device: Callable[[str], Device]
) -> None:
    add_device("quiet")
    assert "on, kept 48 h" in cli("record", "lenet", "on", "--retention-hours", 48).out
    assert "quiet" in cli("health").out
    assert [event["kind"] for event in cli("events", "quiet", "--json").document] == ["device_registered"]
    for command in (("health", "quiet"), ("results", "lenet"), ("counts", "lenet")):
        assert cli(*command, "--json").document == []
        assert cli(*command).out.strip()


def test_tables_stay_readable_on_a_narrow_terminal(cli: Cli, add_device: Callable[[str], Device]) -> None:
    add_device("narrow").put_facts()
    for command in (("health",), ("devices",), ("models",), ("show", "lenet"), ("token", "list")):
        lines = cli.on_terminal(*command, columns=80).splitlines()
        assert lines
        assert max(map(len, lines)) <= 80, command
    narrow = cli.on_terminal("health", columns=60).splitlines()
    assert "REQUESTS" in narrow[1]
    assert "MEMORY" not in narrow[1]
    assert any("MEMORY" in line for line in narrow[2:])  # what was left out is said
    assert max(len(line) for line in narrow[1 : narrow.index("")] if not line.startswith("No room")) <= 60


def test_ctrl_c_at_a_question_changes_nothing(cli: Cli) -> None:
    seen = cli.on_terminal("delete", "lenet", interrupt_at="[y/N]", code=130)
    assert seen.endswith("Nothing was changed.\n")
    cli("show", "lenet")


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (200, b"<html>hello</html>", 1, "not what its contract says"),
        (200, b"[" * 100_000, 1, "not what its contract says"),
        (200, b'{"items": [{"name": "../x"}]}', 1, "items.0.name"),
        (500, b"oops", 1, "HTTP 500"),
        (302, b"", 1, "HTTP 302"),
        (200, b" " * (33 << 20), 1, "more than"),
    ],
)
def test_a_registry_that_answers_garbage_is_told_apart(
    tmp_path: Path, status: int, body: bytes, code: int, said: str
) -> None:
    with OddServer(status, body, Location="http://127.0.0.1:9/") as odd:
        assert said in Cli(tmp_path, odd.url, "token")("models", code=code).err


def test_a_registry_that_is_away_is_said_in_one_block(tmp_path: Path) -> None:
    ran = Cli(tmp_path, "http://127.0.0.1:1", None)("models", code=6)
    assert "cannot be reached" in ran.err
    assert "registry serve" in ran.err
    assert "Traceback" not in ran.err


def test_labels_are_set_and_removed_by_name_and_by_selector(cli: Cli) -> None:
    for name in ("lab-1", "lab-2"):
        cli("devices", "add", name, "--label", "bench=left")
    assert "Changed 1 device" in cli("devices", "label", "lab-1", "bench=right", "ring=1").out
    assert "had that already" in cli("devices", "label", "lab-1", "ring=1").out
    cli("devices", "label", "--selector", "bench", "ring=2", code=2)  # nobody to ask
    ran = cli("devices", "label", "--selector", "bench", "ring=2", "--yes")
    assert "2 would change: lab-1, lab-2" in ran.err
    cli("devices", "label", "lab-1", "lab-2", "ring-")
    assert cli("devices", "show", "lab-1", "--json").document["labels"] == {"bench": "right"}
    ran = cli("devices", "label", "--selector", "bench=rigth", "ring=2", code=3)
    assert "its values are: right" in ran.err
    assert "bench is never rigth" in cli("coverage", "lenet@1.0.0", "--fleet", "bench=rigth", code=3).err
    assert "bench is never rigth" in cli("rollout", "plan", "lenet@1.0.0", "--fleet", "bench=rigth", code=3).err
    assert "bench is never rigth" in cli("group", "set", "empty", "--selector", "bench=rigth").err


@pytest.mark.parametrize(
    "words", [("x=1",), ("lab-1",), ("lab-1", "=1"), ("lab-1", "a=1", "lab-2"), ("lab-1", "a=1", "a=2")]
)
def test_what_is_no_change_of_labels_is_said(cli: Cli, words: tuple[str, ...]) -> None:
    cli("devices", "label", *words, code=2)


def test_the_version_says_also_that_of_the_registry(cli: Cli, tmp_path: Path) -> None:
    told = cli("--version", "--json").document
    assert told["version"] == told["registry"]
    away = Cli(tmp_path, "http://127.0.0.1:1", None)
    assert "not known: The registry at http://127.0.0.1:1 cannot be reached" in away("--version").out
    cli("--json", code=2)


def test_the_help_shows_every_command_under_a_heading(cli: Cli) -> None:
    shown = cli("--help").out
    for panel, commands in PANELS.items():
        assert panel in shown
        after = shown.split(panel, 1)[1]
        assert all(f" {name} " in after for name in commands)


def test_lists_of_devices_take_filters_and_say_what_they_leave_out(cli: Cli) -> None:
    for number in range(3):
        cli("devices", "add", f"lists-{number}", "--label", f"rack={number % 2}")
    first, heading, *rows = cli("devices", "list", "--name", "lists-*", "--sort=-name").out.splitlines()
    assert "never seen" in first
    assert heading.split()[0] == "DEVICE"
    assert [row.split()[0] for row in rows[:-1]] == ["lists-2", "lists-1", "lists-0"]
    assert rows[-1] == "3 devices match."
    chosen = cli("devices", "list", "--fleet", "rack=0", "--state", "never-seen", "--name", "lists", "--json").document
    assert [device["name"] for device in chosen] == ["lists-0", "lists-2"]
    assert cli("devices", "list", "--failing", "any", "--name", "lists").out.splitlines()[-1].startswith("No device ma")
    assert cli("devices", "list", "--limit", "1").out.splitlines()[-1].startswith("The first 1")
    assert cli("devices", "--limit", "1").out == cli("devices", "list", "--limit", "1").out
    assert "No such option" in cli("devices", "--nonsense", code=2).err
    assert "never_seen" in cli("devices", "list", "--state", "asleep", code=2).err
    assert cli("devices", "list", "--fleet", "rack=(", code=2).err
    assert "lists-1" in cli("health", "--name", "lists-1").out
    assert "not both" in cli("health", "lists-1", "--name", "lists", code=2).err


def test_a_selector_that_no_device_has_is_answered_with_the_labels_that_there_are(cli: Cli) -> None:
    cli("devices", "add", "labelled", "--label", "hall=north")
    told = cli("devices", "list", "--fleet", "hall=south").out
    assert "No device matches 'hall=south'" in told
    assert "north" in told
    assert "No device matches.\n" in cli("devices", "list", "--fleet", "hall=north", "--state", "failing").out
    assert cli("devices", "list", "--fleet", "hall=south", "--json").document == []


def test_a_device_that_serves_a_yanked_version_is_shown_so(cli: Cli, add_device: Callable[[str], Device]) -> None:
    device = add_device("withdrawn")
    device.put_facts()
    cli("deploy", "lenet@stable", "--device", "withdrawn")
    device.report(ServingState.SERVING)
    version = cli("devices", "show", "withdrawn", "--json").document["desired"]["lenet"]
    assert "was yanked" not in cli("devices", "show", "withdrawn").err
    cli("yank", f"lenet@{version}", "--reason", "it is wrong at night")
    try:
        assert f"lenet@{version} was yanked by" in cli("devices", "show", "withdrawn").err
    finally:
        cli("yank", f"lenet@{version}", "--undo")


def test_the_fleet_is_told_on_one_screen(cli: Cli) -> None:
    cli("devices", "add", "seen-on-status")
    told = cli("status").out
    assert "never seen" in told.splitlines()[0]
    for label in ("serving", "rollouts", "storage", "tokens", "keys"):
        assert any(line.strip().startswith(label) for line in told.splitlines())
    assert " free" in next(line for line in told.splitlines() if line.strip().startswith("storage"))
    document = cli("status", "--json").document
    assert document["fleet"]["storage"]["free_bytes"] > 0
    assert document["fleet"]["devices"] >= 1
    assert document["fleet"]["as_of"]
