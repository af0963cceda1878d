"""`systemd/install --root`: what it puts into the image of a device runs there, as its users and with its settings.

`scripts/test-bare` runs these. The image is a Debian from debootstrap without Python; a chroot stands for the device.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.demo.processes import Fleet, free_port, wait_until
from tests.bare.test_debian import SUITE
from tests.support.host.debian_root import DebianRoot
from tests.support.host.installed_unit import InstalledUnit
from tests.support.paths import LENET_FOLDER, ROOT

pytestmark = [
    pytest.mark.skipif(not SUITE, reason="scripts/test-bare runs these: they need root, packages and three minutes"),
    pytest.mark.timeout(1200),
]
OURS = ("opt", "etc/modelfleet", "etc/systemd/system", "usr/share/doc/modelfleet")
"""The folders that the installation fills."""
REGISTRY = Path(sys.executable).parent / "registry"


@pytest.fixture(scope="module")
def image() -> Iterator[DebianRoot]:
    machine = DebianRoot(SUITE)
    try:
        yield machine
    finally:
        machine.remove()


def install(image: DebianRoot, *arguments: str, **env: str) -> str:
    argv = [str(ROOT / "systemd/install"), "--root", str(image.root), *arguments]
    done = subprocess.run(
        argv, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


def snapshot(image: DebianRoot) -> dict[str, tuple[object, ...]]:
    """Path to type, mode, owner, content and, for files, time of change of all that was installed."""
    found: dict[str, tuple[object, ...]] = {}
    for folder in OURS:
        for path in sorted((image.root / folder).rglob("*")):
            status = path.lstat()
            content = "" if path.is_dir() else str(path.readlink()) if path.is_symlink() else digest(path)
            at = 0 if path.is_dir() else status.st_mtime_ns
            found[str(path.relative_to(image.root))] = (status.st_mode, status.st_uid, status.st_gid, content, at)
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("part", ["registry", "agent"])
def test_an_image_gets_the_same_files_each_time(image: DebianRoot, part: str) -> None:
    install(image, part)
    first = snapshot(image)
    kept = install(image, part)
    assert "recreating it" not in kept
    assert f"kept /etc/modelfleet/{part}.toml" in kept
    assert snapshot(image) == first
    unit = InstalledUnit(image, f"modelfleet-{part}")
    home = Path(unit.program).parents[1]
    subprocess.run(["rm", "-r", image.root / home.relative_to("/")], check=True)
    install(image, part)
    assert snapshot(image) == first


def test_packages_come_from_a_folder_alone_where_one_is_named(image: DebianRoot, tmp_path: Path) -> None:
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if not (image.root / "opt/modelfleet/lib" / python).is_dir():
        pytest.skip(f"the image has another Python than {python}, for which packages could be downloaded here")
    download = [sys.executable, "-m", "pip", "--quiet", "download", "--dest", str(tmp_path)]
    locked = ["--require-hashes", "--requirement", str(ROOT / "requirements/agent.lock")]
    build = ["--require-hashes", "--requirement", str(ROOT / "requirements/build.lock")]
    for wanted in (locked, build):
        subprocess.run([*download, *wanted], check=True, timeout=600)
    before = snapshot(image)
    subprocess.run(["rm", "-r", image.root / "opt/modelfleet"], check=True)
    install(image, "--wheels", str(tmp_path), "agent", PIP_INDEX_URL="http://127.0.0.1:1")
    assert snapshot(image) == before


def test_nothing_in_an_image_names_a_folder_of_the_host_that_built_it(image: DebianRoot) -> None:
    for folder in OURS:
        for path in (image.root / folder).rglob("*"):
            text = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            assert os.fsencode(image.root) not in text, path
            assert os.fsencode(ROOT) + b"/" not in text, path
    assert not list((image.root / "run").glob("modelfleet*"))


def test_the_unit_starts_at_boot_where_that_was_asked_for(image: DebianRoot) -> None:
    wants = image.root / "etc/systemd/system/multi-user.target.wants"
    assert not (wants / "modelfleet-agent.service").is_symlink()
    install(image, "--enable", "agent")
    assert str((wants / "modelfleet-agent.service").readlink()) == "/etc/systemd/system/modelfleet-agent.service"


def test_another_user_reads_no_settings_of_an_image(image: DebianRoot) -> None:
    for part in ("registry", "agent"):
        for name in (f"{part}.toml", f"{part}.env"):
            read = subprocess.run(image.argv("cat", f"/etc/modelfleet/{name}", user="nobody"), check=False, timeout=60)
            assert read.returncode != 0, name


def test_a_folder_without_a_system_is_refused_with_what_to_do(tmp_path: Path) -> None:
    argv = [str(ROOT / "systemd/install"), "--root", str(tmp_path), "agent"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "not the root of a system" in done.stderr
    assert f"debootstrap --variant=minbase --include=python3,python3-venv bookworm {tmp_path}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_registry_and_agent_of_an_image_start_as_their_users_and_answer_a_request(
    image: DebianRoot, tmp_path: Path
) -> None:
    with Fleet(tmp_path) as fleet:
        fleet.start_broker()
        registry, agent = InstalledUnit(image, "modelfleet-registry"), InstalledUnit(image, "modelfleet-agent")
        settings = image.root / "etc/modelfleet"
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        broker = f'[mqtt]\nhost = "127.0.0.1"\nport = {fleet.broker_port}'
        change(settings / "registry.toml", {"#port = 8470": f"port = {port}", "[mqtt]": broker})
        with running(registry, tmp_path / "registry.log", lambda: answers(f"{url}/readyz")):
            environment = {
                **os.environ,
                "MODELFLEET_REGISTRY": url,
                "MODELFLEET_TOKEN": (image.root / f"{registry.data}/admin.token".lstrip("/")).read_text().strip(),
                "MODELFLEET_BROKER": f"mqtt://127.0.0.1:{fleet.broker_port}",
            }
            out = tmp_path / "edge-1"
            command(environment, "devices", "add", "edge-1", "--out", str(out))
            for path in out.iterdir():
                (settings / path.name).write_bytes(path.read_bytes())
            assert "kept /etc/modelfleet/agent.toml" in install(image, "agent")  # and made readable
            seen = lambda: (command(environment, "devices", "show", "edge-1")["presence"] or {}).get("online")  # noqa: E731
            with running(agent, tmp_path / "agent.log", seen):
                data = image.root / str(agent.data).lstrip("/")
                assert {path.stat().st_uid for path in data.iterdir()} == {data.stat().st_uid} != {0}
                command(environment, "publish", str(LENET_FOLDER / "lenet.toml"))
                command(environment, "deploy", "lenet@1.0.0", "--device", "edge-1", "--wait")
                picture = str(LENET_FOLDER / "digits/digit-7-1.png")
                answer = command(environment, "ask", "edge-1", "lenet", "--picture", picture)
                assert answer["outputs"]["label"]["data"][0][0] == "7"
                doctor = agent.run(agent.program, "doctor", "--config", "/etc/modelfleet/agent.toml")
                assert doctor.returncode == 0, doctor.stdout


def change(file: Path, replacements: dict[str, str]) -> None:
    """As an editor would: the file keeps its owner and its mode."""
    text = file.read_text()
    for old, new in replacements.items():
        assert text.count(f"{old}\n") == 1, f"{file} has no line {old!r}"
        text = text.replace(f"{old}\n", f"{new}\n")
    file.write_text(text)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def command(environment: dict[str, str], *arguments: str) -> Any:
    argv = [str(REGISTRY), *arguments, "--json"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout)


@contextmanager
def running(unit: InstalledUnit, log: Path, ready: Callable[[], object]) -> Iterator[None]:
    """The service, from when it is ready."""
    with log.open("wb") as out:
        process = unit.start(out)
        try:
            wait_until(lambda: process.poll() is not None or ready(), log.name, 90)
            assert process.poll() is None, log.read_text(errors="replace")
            yield
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{error}\n{log.read_text(errors='replace')[-3000:]}") from error
        finally:
            process.kill()
            process.wait()
