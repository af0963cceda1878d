"""The Containerfile, built by buildah on a base that debootstrap makes: registry and agent answer in containers.

`scripts/test-bare` runs these where buildah can be installed. The containers are chroots with the network of this host.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.demo.processes import Fleet, free_port, wait_until
from tests.bare.test_debian import SUITE
from tests.bare.test_images import answers, command
from tests.support.host.debian_root import DebianRoot
from tests.support.paths import LENET_FOLDER, ROOT

pytestmark = [
    pytest.mark.skipif(not SUITE, reason="scripts/test-bare runs these: they need root, packages and five minutes"),
    pytest.mark.skipif(not shutil.which("buildah"), reason="buildah is not installed"),
    pytest.mark.timeout(1800),
]


class Images:
    """buildah with a store of its own."""

    def __init__(self, folder: Path) -> None:
        store = ["--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]
        self._buildah = ["buildah", *store]

    def do(self, *arguments: str, folder: Path = ROOT) -> str:
        argv = [*self._buildah, *arguments]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == 0, f"{argv}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def build(self, *arguments: str, folder: Path = ROOT) -> None:
        self.do("build", "--isolation", "chroot", *arguments, folder=folder)

    @contextmanager
    def running(self, image: str, folder: Path, ready: Callable[[], object], *options: str) -> Iterator[str]:
        """A container of it with its own entry point; its name."""
        container = self.do("from", image)
        log = folder / f"{container}.log"
        said = json.loads(self.do("inspect", "--type", "image", image))["OCIv1"]["config"]
        argv = [*self._buildah, "run", "--isolation", "chroot", *options, container, "--"]
        argv += [*said["Entrypoint"], *said["Cmd"]]
        with log.open("wb") as out:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
            try:
                wait_until(lambda: process.poll() is not None or ready(), container, 120)
                assert process.poll() is None, "it ended"
                yield container
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"{error}\n{log.read_text(errors='replace')[-3000:]}") from error
            finally:
                os.killpg(process.pid, 15)
                process.wait(60)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("containers")
    made = Images(folder)
    base = DebianRoot(SUITE)
    try:
        (folder / "base").mkdir()
        subprocess.run(["tar", "-C", base.root, "-cf", folder / "base/base.tar", "."], check=True, timeout=300)
    finally:
        base.remove()
    (folder / "base/Containerfile").write_text("FROM scratch\nADD base.tar /\n")
    made.build("-t", "modelfleet-base", folder=folder / "base")
    for part in ("registry", "agent"):
        made.build("--build-arg", "BASE=localhost/modelfleet-base", "--target", part, "-t", f"modelfleet-{part}")
    yield made
    shutil.rmtree(folder, ignore_errors=True)


def test_registry_and_agent_answer_a_request_in_containers(images: Images, tmp_path: Path) -> None:
    port, token = free_port(), f"mf_{secrets.token_hex(16)}"
    url = f"http://127.0.0.1:{port}"
    with Fleet(tmp_path) as fleet:
        fleet.start_broker()
        settings = {
            "PORT": port, "ADMIN_TOKEN": token, "MQTT__HOST": "127.0.0.1", "MQTT__PORT": fleet.broker_port
        }  # fmt: skip
        options = [f"--env=MODELFLEET_REGISTRY_{name}={value}" for name, value in settings.items()]
        with images.running("modelfleet-registry", tmp_path, lambda: answers(f"{url}/readyz"), *options):
            environment = {
                **os.environ, "MODELFLEET_REGISTRY": url, "MODELFLEET_TOKEN": token,
                "MODELFLEET_BROKER": f"mqtt://127.0.0.1:{fleet.broker_port}",
            }  # fmt: skip
            out = tmp_path / "edge-1"
            command(environment, "devices", "add", "edge-1", "--out", str(out))
            out.chmod(0o755)
            (out / "edge-1.token").chmod(0o644)  # who owns it in a container is for its runtime to say
            for parent in (tmp_path, *tmp_path.parents[:2]):
                parent.chmod(0o755)

            def online() -> object:
                return (command(environment, "devices", "show", "edge-1").get("presence") or {}).get("online")

            with images.running("modelfleet-agent", tmp_path, online, f"--volume={out}:/etc/modelfleet:ro"):
                command(environment, "publish", str(LENET_FOLDER / "lenet.toml"))
                command(environment, "deploy", "lenet@1.0.0", "--device", "edge-1", "--wait")
                picture = str(LENET_FOLDER / "digits/digit-7-1.png")
                answer = command(environment, "ask", "edge-1", "lenet", "--picture", picture)
                assert answer["outputs"]["label"]["data"][0][0] == "7"
