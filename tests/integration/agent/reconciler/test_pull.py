"""Pulling artifacts from a registry that misbehaves, onto a real disk: what has its name is right, always."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.deployment_steps import DeploymentSteps
from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.network.registry_answers import UnreachableError
from agent.adapters.network.registry_client import RegistryClient
from agent.config.settings import AgentConfig
from agent.core.slots import Choice
from agent.errors import AgentError, PermanentError, StepCancelledError, TransientError
from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES, Manifest
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import DesiredModel, Profile
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.wire import digest_of, hex_of
from tests.fakes.registry_simulator import (
    Body,
    Chunked,
    Refuse,
    RegistrySimulator,
    Stall,
    Status,
    Truncate,
    one_file_manifest,
)
from tests.support.paths import ROOT

MODEL = bytes(range(256)) * 40_000  # 10 MB: several buffers, and more than httpx reads at once
HOST = Platform(
    os="linux",
    arch="x86_64",
    backends=(BackendFacts(name="onnxruntime", usable=True, formats=("onnx",), targets=("cpu",)),),
)
NEVER = threading.Event()
UNREACHABLE = (UnreachableError, DeploymentCode.REGISTRY_UNREACHABLE)


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    simulator = RegistrySimulator(token="secret").start()
    yield simulator
    simulator.stop()


class Puller:
    """The steps of one agent with its own cache."""

    def __init__(self, folder: Path, url: str, token: str | None = "secret", **cache: int) -> None:
        self.cache = ArtifactCache(folder, **{"limit": 1 << 40, "reserve": 0, **cache})
        self.cache.open()
        self.folder = folder
        self.client = RegistryClient(url, "edge-1", token=token, ca_file=None, timeout_s=5)
        self.steps = DeploymentSteps(AgentConfig(device="edge-1"), self.cache, self.client, lambda: HOST)

    def resolve(self, manifest: Manifest) -> Choice:
        desired = DesiredModel(version=manifest.version, manifest=manifest.canonical_digest())
        return self.steps.resolve(manifest.model, desired, NEVER)

    def pull(self, manifest: Manifest, cancel: threading.Event = NEVER) -> Path:
        choice = self.resolve(manifest)
        self.steps.download(choice, set(), cancel)
        self.steps.verify(choice, NEVER)
        return self.cache.files(choice.variant_digest) / choice.variant.entry

    def parts(self) -> list[Path]:
        return list((self.folder / "partial").iterdir())

    def named(self) -> list[Path]:
        return list((self.folder / "artifacts").rglob("*.onnx"))


PullerMaker = Callable[..., Puller]


@pytest.fixture
def start(tmp_path: Path, registry: RegistrySimulator) -> Iterator[PullerMaker]:
    """Agents over one cache, one after the other; keywords change what they are told."""
    started: list[Puller] = []

    def start(folder: Path = tmp_path / "cache", url: str = registry.url, **changes: Any) -> Puller:
        started.append(Puller(folder, url, **changes))
        return started[-1]

    yield start
    for puller in started:
        puller.client.close()


@pytest.fixture
def puller(start: PullerMaker) -> Puller:
    return start()


def publish(registry: RegistrySimulator, data: bytes = MODEL) -> Manifest:
    manifest = one_file_manifest(data)
    registry.publish(manifest, data)
    return manifest


def test_an_artifact_comes_whole_as_a_plain_read_only_file(registry: RegistrySimulator, puller: Puller) -> None:
    file = puller.pull(publish(registry))
    assert file.read_bytes() == MODEL
    facts = file.lstat()
    assert (facts.st_mode & 0o777, facts.st_nlink) == (0o440, 1)
    assert puller.parts() == []


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 1 << 20, (1 << 20) + 1])
def test_any_size_comes_whole(registry: RegistrySimulator, puller: Puller, size: int) -> None:
    assert puller.pull(publish(registry, MODEL[:size])).read_bytes() == MODEL[:size]


def test_what_is_there_is_not_fetched_again(registry: RegistrySimulator, puller: Puller) -> None:
    manifest = publish(registry)
    puller.pull(manifest)
    puller.pull(manifest)
    assert len(registry.requests("blobs")) == 1
    assert len(registry.requests("manifests")) == 1


@pytest.mark.parametrize("after", [1, 70_000, 3_000_001])
def test_a_cut_download_goes_on_where_it_stopped(registry: RegistrySimulator, puller: Puller, after: int) -> None:
    manifest = publish(registry)
    registry.fault("blobs", Truncate(after))
    with pytest.raises(UnreachableError) as cut:
        puller.pull(manifest)
    assert cut.value.progress
    assert puller.named() == []
    assert puller.pull(manifest).read_bytes() == MODEL
    assert registry.requests("blobs")[-1].headers["range"] == f"bytes={after}-"
    assert registry.sent_bytes < len(MODEL) + 10_000


def test_a_chunked_body_is_taken_too(registry: RegistrySimulator, puller: Puller) -> None:
    registry.fault("blobs", Chunked())
    assert puller.pull(publish(registry)).read_bytes() == MODEL


PULL_PROGRAM = """
import sys
from pathlib import Path
from tests.integration.agent.reconciler.test_pull import Puller
from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES, Manifest
Puller(Path(sys.argv[1]), sys.argv[2]).pull(Manifest.model_validate_json(sys.argv[3]))
"""


def test_a_killed_agent_resumes_at_the_right_offset(
    registry: RegistrySimulator, start: PullerMaker, tmp_path: Path
) -> None:
    manifest = publish(registry)
    registry.fault("blobs", Stall(4_000_000))
    folder = tmp_path / "cache"
    argv = [sys.executable, "-c", PULL_PROGRAM, str(folder), registry.url, manifest.model_dump_json()]
    child = subprocess.Popen(argv, cwd=ROOT)
    part = folder / "partial" / f"{hex_of(digest_of(MODEL))}.part"
    wait_until(lambda: part.exists() and part.stat().st_size >= 3 << 20)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(timeout=10)
    there = part.stat().st_size
    puller = start(folder)
    assert puller.pull(manifest).read_bytes() == MODEL
    assert registry.requests("blobs")[-1].headers["range"] == f"bytes={there}-"


def test_a_wrong_byte_in_what_was_left_behind_is_found_before_the_file_has_its_name(
    registry: RegistrySimulator, puller: Puller
) -> None:
    manifest = publish(registry)
    part = puller.folder / "partial" / f"{hex_of(digest_of(MODEL))}.part"
    part.write_bytes(b"x" + MODEL[1:5000])
    with pytest.raises(TransientError, match="thrown away") as wrong:
        puller.pull(manifest)
    assert wrong.value.code == DeploymentCode.DIGEST_MISMATCH
    assert puller.named() == []
    assert puller.pull(manifest).read_bytes() == MODEL


def test_a_longer_part_than_the_blob_is_begun_anew(registry: RegistrySimulator, puller: Puller) -> None:
    (puller.folder / "partial" / f"{hex_of(digest_of(MODEL))}.part").write_bytes(MODEL + b"more")
    assert puller.pull(publish(registry)).read_bytes() == MODEL


def test_other_bytes_of_the_right_length_never_get_the_name(registry: RegistrySimulator, puller: Puller) -> None:
    manifest = publish(registry)
    registry.fault("blobs", Body(b"y" + MODEL[1:]))
    with pytest.raises(TransientError) as wrong:
        puller.pull(manifest)
    assert wrong.value.code == DeploymentCode.DIGEST_MISMATCH
    assert puller.named() == []


@pytest.mark.parametrize(
    ("kind", "fault", "expected"),
    [
        ("manifests", Body(b"<html>hello</html>"), (TransientError, DeploymentCode.MANIFEST_MISMATCH)),
        ("manifests", Body(b"x" * (MAX_MANIFEST_BYTES + 1)), (TransientError, DeploymentCode.BAD_ANSWER)),
        ("manifests", Refuse("not_found"), (PermanentError, DeploymentCode.REGISTRY_REFUSED)),
        ("blobs", Body(b"short"), (TransientError, DeploymentCode.BAD_ANSWER)),
        ("blobs", Body(MODEL + b"!"), (TransientError, DeploymentCode.BAD_ANSWER)),
        ("blobs", Status(204), (TransientError, DeploymentCode.BAD_ANSWER)),
        ("blobs", Refuse("forbidden"), (PermanentError, DeploymentCode.REGISTRY_REFUSED)),
        ("blobs", Refuse("unauthorized"), (UnreachableError, DeploymentCode.CREDENTIAL_REFUSED)),
        ("blobs", Status(302, {"Location": "http://127.0.0.1:1/"}), UNREACHABLE),
        ("blobs", Status(500), UNREACHABLE),
        ("blobs", Status(429, {"Retry-After": "7"}), UNREACHABLE),
    ],
)
def test_a_registry_that_answers_nonsense_is_a_clear_error_and_the_next_try_works(
    registry: RegistrySimulator,
    puller: Puller,
    kind: str,
    fault: Body | Status | Refuse,
    expected: tuple[type[AgentError], DeploymentCode],
) -> None:
    manifest = publish(registry)
    registry.fault(kind, fault)
    with pytest.raises(expected[0]) as raised:
        puller.pull(manifest)
    assert raised.value.code == expected[1]
    assert puller.named() == []
    assert puller.pull(manifest).read_bytes() == MODEL


def test_the_registrys_wish_for_a_pause_is_passed_on(registry: RegistrySimulator, puller: Puller) -> None:
    registry.fault("manifests", Status(503, {"Retry-After": "7"}))
    with pytest.raises(UnreachableError) as busy:
        puller.pull(publish(registry))
    assert busy.value.retry_after_s == 7


def test_a_wrong_credential_is_told_in_the_registrys_words_and_waited_for(
    registry: RegistrySimulator, start: PullerMaker
) -> None:
    with pytest.raises(UnreachableError, match=r"401 unauthorized: No such token\.; it ended$") as refused:
        start(token="wrong").pull(publish(registry))
    assert refused.value.code == DeploymentCode.CREDENTIAL_REFUSED


def test_a_registry_that_is_not_there_is_an_outage(registry: RegistrySimulator, start: PullerMaker) -> None:
    with pytest.raises(UnreachableError):
        start(url="http://127.0.0.1:9").pull(publish(registry))


def test_a_manifest_of_another_version_is_refused(registry: RegistrySimulator, puller: Puller) -> None:
    digest = registry.publish(one_file_manifest(MODEL, version="6.6.6"), MODEL)
    with pytest.raises(PermanentError) as wrong:
        puller.steps.resolve("lenet", DesiredModel(version="1.0.0", manifest=digest), NEVER)
    assert wrong.value.code == DeploymentCode.MANIFEST_MISMATCH


def test_a_variant_that_does_not_fit_is_refused_with_the_reason(registry: RegistrySimulator, puller: Puller) -> None:
    manifest = one_file_manifest(MODEL, format="om", target="ascend310")
    registry.publish(manifest, MODEL)
    with pytest.raises(PermanentError, match="om") as unfit:
        puller.resolve(manifest)
    assert unfit.value.code == DeploymentCode.NO_FITTING_VARIANT


def test_a_download_can_be_cancelled_and_keeps_what_came(registry: RegistrySimulator, puller: Puller) -> None:
    manifest = publish(registry)
    registry.fault("blobs", Stall(5_000_000))
    cancel = threading.Event()
    raised: list[BaseException] = []

    def pull() -> None:
        try:
            puller.pull(manifest, cancel)
        except StepCancelledError as error:
            raised.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    assert registry.stalled.wait(10)
    cancel.set()
    registry.gate.set()
    thread.join(10)
    assert len(raised) == 1
    assert puller.parts()[0].stat().st_size > 0


def test_too_little_disk_says_what_is_needed_and_what_there_is(registry: RegistrySimulator, start: PullerMaker) -> None:
    puller = start()
    puller.cache._free = lambda _: 1000
    with pytest.raises(TransientError, match=str(len(MODEL))) as full:
        puller.pull(publish(registry))
    assert full.value.code == DeploymentCode.INSUFFICIENT_DISK
    assert registry.requests("blobs") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_disk_that_fills_up_under_way_is_got_over(
    registry: RegistrySimulator, start: PullerMaker, tmp_path: Path
) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mounted)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    try:
        puller = start(mounted / "cache")
        puller.cache._free = lambda _: 1 << 40  # the check beforehand passes: another program fills the disk then
        (mounted / "other").write_bytes(b"x" * (8 << 20))
        manifest = publish(registry)
        with pytest.raises(TransientError) as full:
            puller.pull(manifest)
        assert full.value.code == DeploymentCode.INSUFFICIENT_DISK
        (mounted / "other").unlink()
        assert puller.pull(manifest).read_bytes() == MODEL
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def flip_a_bit(file: Path) -> None:
    file.chmod(0o600)
    with file.open("r+b") as stream:
        stream.seek(5_000_000)
        stream.write(b"\xff\xfe")


@pytest.mark.parametrize(
    "change",
    [
        flip_a_bit,
        Path.unlink,
        lambda file: (file.parent / "extra").write_text("x"),
        lambda file: os.link(file, file.parents[3] / "link"),
        lambda file: (file.rename(file.parents[3] / "moved"), file.symlink_to(file.parents[3] / "moved")),
        lambda file: (file.chmod(0o600), os.truncate(file, 100)),
    ],
    ids=["bit flip", "missing", "extra file", "hard link", "symlink", "cut"],
)
def test_a_cached_artifact_that_was_changed_is_found_and_thrown_away(
    registry: RegistrySimulator, start: PullerMaker, change: Callable[[Path], object]
) -> None:
    manifest = publish(registry)
    change(start().pull(manifest))
    restarted = start(url="http://127.0.0.1:9")
    choice = restarted.resolve(manifest)
    with pytest.raises(TransientError) as wrong:
        restarted.steps.verify(choice, NEVER)
    assert wrong.value.code == DeploymentCode.DIGEST_MISMATCH
    assert not restarted.cache.has(choice.variant_digest)


def test_unneeded_artifacts_make_room_and_needed_ones_stay(registry: RegistrySimulator, start: PullerMaker) -> None:
    puller = start(limit=25_000_000)
    versions = [one_file_manifest(MODEL, version=f"{n}.0.0", name=f"v{n}") for n in range(3)]
    for manifest in versions:
        registry.publish(manifest, MODEL)
    digests = [manifest.variants[0].canonical_digest() for manifest in versions]
    for number, manifest in enumerate(versions):
        choice = puller.resolve(manifest)
        puller.steps.download(choice, {digests[0]}, NEVER)
        os.utime(puller.cache.files(digests[number]).parent, (number, number))
    assert [puller.cache.has(digest) for digest in digests] == [True, False, True]


def test_a_sweep_removes_what_a_kill_left_and_nothing_else(registry: RegistrySimulator, puller: Puller) -> None:
    manifest = publish(registry)
    file = puller.pull(manifest)
    (puller.folder / "partial" / ("0" * 64 + ".part")).write_bytes(b"x")
    (puller.folder / "staging" / ("1" * 64)).mkdir()
    (puller.folder / "artifacts" / ("2" * 64 + ".gone")).mkdir()
    (puller.folder / "manifests" / "x.json.new").write_bytes(b"x")
    digest = manifest.variants[0].canonical_digest()
    puller.cache.sweep({digest}, {manifest.canonical_digest()}, set())
    assert [path for folder in ("partial", "staging") for path in (puller.folder / folder).iterdir()] == []
    assert [path.suffix for path in (puller.folder / "manifests").iterdir()] == [".json"]
    assert file.exists()
    assert puller.cache.manifest(manifest.canonical_digest()) is not None
    assert [path.name for path in (puller.folder / "artifacts").iterdir()] == [hex_of(digest)]


def test_an_artifact_of_several_files_lies_as_the_manifest_says(registry: RegistrySimulator, puller: Puller) -> None:
    parts = {"model.onnx": MODEL[:1000], "data/weights.bin": MODEL[:2_000_000], "labels.txt": b""}
    files = tuple({"path": path, "digest": digest_of(data), "size": len(data)} for path, data in parts.items())
    manifest = one_file_manifest(MODEL, files=files)
    registry.publish(manifest, *parts.values())
    registry.fault("blobs", Status(503))
    with pytest.raises(UnreachableError):
        puller.pull(manifest)
    folder = puller.pull(manifest).parent
    assert {path: (folder / path).read_bytes() for path in parts} == parts


def test_profile_and_switches_of_the_deployment_are_in_the_choice(registry: RegistrySimulator, puller: Puller) -> None:
    manifest = publish(registry)
    desired = DesiredModel(
        version="1.0.0", manifest=manifest.canonical_digest(), profile=Profile.LATENCY, record_results=True, rollout="r"
    )
    choice = puller.steps.resolve("lenet", desired, NEVER)
    assert choice.is_what(desired)
    assert (choice.rollout, choice.record_results) == ("r", True)
    assert not choice.is_what(desired.model_copy(update={"profile": Profile.THROUGHPUT}))


def wait_until(true: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def test_two_models_of_the_same_bytes_are_downloaded_once_and_both_are_there(
    registry: RegistrySimulator, puller: Puller
) -> None:
    pulled = [one_file_manifest(MODEL, model=name) for name in ("lenet", "digits")]
    other = one_file_manifest(MODEL, model="renamed", name="another")  # other artifact, same blob
    for manifest in (*pulled, other):
        registry.publish(manifest, MODEL)
    registry.fault("blobs", Stall(5_000_000))
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(puller.pull, pulled[0])
        assert registry.stalled.wait(60)
        rest = [threads.submit(puller.pull, manifest) for manifest in (pulled[1], other)]
        with suppress(FutureTimeoutError):
            rest[0].result(1)  # had it not waited, it would be done by now
        registry.gate.set()
        files = [each.result(60) for each in (first, *rest)]
    assert files[0] == files[1] != files[2]
    assert all(file.read_bytes() == MODEL for file in files)
    assert len(registry.requests("blobs")) == 2


def test_a_cancelled_download_does_not_wait_for_another_of_the_same_bytes(
    registry: RegistrySimulator, puller: Puller
) -> None:
    manifest, cancel = publish(registry), threading.Event()
    registry.fault("blobs", Stall(5_000_000))
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(puller.pull, manifest)
        assert registry.stalled.wait(60)
        second = threads.submit(puller.pull, manifest, cancel)
        cancel.set()
        with pytest.raises(StepCancelledError):
            second.result(60)
        registry.gate.set()
        assert first.result(60).read_bytes() == MODEL
