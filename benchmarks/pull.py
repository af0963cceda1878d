"""A 1 GiB artifact from the registry to the agent's disk, verified, against curl from nginx on the same machine.

    .venv/bin/python -m benchmarks.pull [--mib 1024] [--rounds 3]

The yardstick is `curl | tee FILE | openssl dgst -sha256`, without a sync of the file; the agent's pull includes the
fsync. Every round runs both, and nginx's file and the registry's blob are in the page cache alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onnx import TensorProto, helper

from scripts.demo.processes import Fleet, Process, free_port, listens

NGINX = """\
user root; worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 64; }}
http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {folder}/www; }} }}
"""


def peak_rss_mb(pid: int) -> float:
    """The most memory that a process ever held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def start_nginx(folder: Path) -> tuple[Process, int]:
    """nginx on a free port, serving `folder/www`."""
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or sys.exit("pull: install nginx first")
    nginx = Process("nginx", [program, "-c", str(folder / "nginx.conf")], folder)
    nginx.start(lambda: listens(port))
    return nginx, port


def model_with_weights(weights: Path) -> Path:
    """An ONNX file beside `weights`, which holds its one tensor as external data."""
    rows = weights.stat().st_size // 4
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=weights.name)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "x"], ["y"])],
        "big",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [tensor],
    )
    path = weights.with_name("big.onnx")
    path.write_bytes(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    return path


def by_curl(folder: Path, port: int) -> float:
    """Seconds of the yardstick."""
    start = time.perf_counter()
    pipe = f"curl -s http://127.0.0.1:{port}/blob | tee {folder}/curled | openssl dgst -sha256 > {folder}/digest"
    subprocess.run(["bash", "-o", "pipefail", "-c", pipe], check=True, timeout=300)
    seconds = time.perf_counter() - start
    (folder / "curled").unlink()
    return seconds


def by_agent(fleet: Fleet, token: str, digest: str, size: int) -> dict[str, float]:
    """Seconds and memory growth of the agent's pull."""
    target = fleet.folder / "pulled"
    argv = [
        sys.executable,
        Path(__file__).parent / "peers/agent_pull.py",
        fleet.url,
        "puller",
        token,
        target,
        digest,
        size,
    ]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=300, check=False)
    shutil.rmtree(target, ignore_errors=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Publish, then pull in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, Fleet(Path(name)) as fleet:
        (fleet.folder / "www").mkdir()
        blob = fleet.folder / "www" / "blob"
        with blob.open("wb") as out:
            for _ in range(arguments.mib):
                out.write(os.urandom(1 << 20))
        with blob.open("rb") as data:
            digest = "sha256:" + hashlib.file_digest(data, "sha256").hexdigest()
        model = model_with_weights(blob)
        registry = fleet.start_registry(MODELFLEET_REGISTRY_MQTT__HOST="")
        before = peak_rss_mb(registry.pid)
        fleet.registry("publish", "big", str(model), "--version", "1", "--target", "cpu")
        uploaded = peak_rss_mb(registry.pid)
        token = fleet.add_device("puller")
        nginx, port = start_nginx(fleet.folder)
        try:
            rounds = [
                (by_curl(fleet.folder, port), by_agent(fleet, token, digest, blob.stat().st_size))
                for _ in range(arguments.rounds)
            ]
        finally:
            nginx.stop()
        served = peak_rss_mb(registry.pid)
    ratios = [curl / agent["seconds"] for curl, agent in rounds]
    print(f"{arguments.mib} MiB, {arguments.rounds} rounds, seconds (curl | agent): "
          + ", ".join(f"{curl:.2f} | {agent['seconds']:.2f}" for curl, agent in rounds))  # fmt: skip
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"speed of the agent's pull to the yardstick: {spread}")
    print(f"memory growth: agent {max(a['rss_growth_mb'] for _, a in rounds):.1f} MB, "
          f"registry {uploaded - before:.1f} MB at upload, {served - uploaded:.1f} MB more at download")  # fmt: skip


if __name__ == "__main__":
    main()
