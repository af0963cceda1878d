"""A real Prometheus on a free loopback port, and its tool `promtool`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.network.broker import free_port, wait_for_port


def require_prometheus() -> None:
    """Skips where it is not installed; in CI it has to be."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        assert not os.environ.get("CI"), "scripts/test installs prometheus"
        pytest.skip("needs prometheus and promtool: apt-get install prometheus")


def _authorization(tokens: dict[str, Path], job: str) -> str:
    return f"    authorization: {{credentials_file: '{tokens[job]}'}}\n" if job in tokens else ""


class Prometheus:
    """Scrapes every second. Use as a context manager."""

    def __init__(self, folder: Path, jobs: dict[str, str], rules: Path, tokens: dict[str, Path] | None = None) -> None:
        """`jobs`: the address to scrape, by the job's name; `tokens`: of those that need one, its file."""
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._port, self._folder = port, folder
        scrape = "".join(
            f"  - job_name: {name}\n{_authorization(tokens or {}, name)}"
            f"    static_configs:\n      - targets: ['{address}']\n"
            for name, address in jobs.items()
        )
        timing = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        (folder / "prometheus.yml").write_text(f"{timing}rule_files: ['{rules}']\nscrape_configs:\n{scrape}")

    def __enter__(self) -> Prometheus:
        argv = [
            "prometheus",
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        with (self._folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=self._folder)
        wait_for_port(self._port, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(15)

    def get(self, path: str, **query: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=query, timeout=30, trust_env=False)
        body = answer.json()
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        found: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return found
