"""Fixtures that many tests share: a real broker per session, and one that a test may kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import settings

from tests.support.cpu_time import CpuTime
from tests.support.host.postgres import Databases, PostgreSql, programs
from tests.support.network.broker import Mosquitto

# A shell that starts the suite in the background ignores SIGINT for it and for all that it starts; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup ignores SIGHUP in the same way.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# The same examples in every run of CI; by hand, new ones each time. No deadline: tests assert no times.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("by hand", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "by hand")

SMOKE = (
    "tests/contracts/",
    "tests/unit/agent/dataplane/test_codec.py",
    "tests/unit/registry/contracts/test_resolution.py",
    "tests/integration/agent/test_agent_process.py",
    "tests/integration/agent/test_failing_disk.py",
    "tests/integration/registry/db/test_postgresql.py",
    "tests/integration/registry/test_running.py",
    "tests/integration/test_docs.py",
    "tests/integration/test_packaging.py",
    "tests/integration/test_systemd.py",
)
"""What `-m smoke` runs, about a minute: each thing that a machine must have is used by one of these files."""


@pytest.fixture(autouse=True)
def _hangups_are_heard() -> Iterator[None]:
    """What a test ran in this process may ignore SIGHUP at its end, and so would all that is started afterwards."""
    yield
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


settings.register_profile("suite", max_examples=50)
settings.load_profile("suite")  # --hypothesis-profile default tries twice as many


def pytest_addoption(parser: pytest.Parser) -> None:
    """How often the slow rigs try."""
    parser.addoption("--power-cuts", default=20, type=int, help="cuts of power a side, in tests/power")
    parser.addoption("--flips", default=120, type=int, help="flipped bits in all, in tests/power")
    parser.addoption("--kills", default=4, type=int, help="of broker and registry each, in tests/e2e")
    parser.addoption("--mutations", default=600, type=int, help="of documents and metadata, in tests/security")
    parser.addoption("--languages", action="store_true", help="run the examples of docs/clients; needs npm and gcc")
    parser.addoption("--exporters", action="store_true", help="install scikit-learn and PyTorch for their tests")
    parser.addoption("--failed-to", metavar="FILE", help="append a line for each test that failed, as soon as it did")
    parser.addoption("--cpu", action="store_true", help="say at the end how much processor time each test used")
    parser.addoption("--devices", default=100, type=int, help="simulated ones, in tests/integration/fleet")


class _FailedTo:
    """Keeps names of tests that failed for whoever runs pytest more than once."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """From any process; a process that crashed is a report, too."""
        if report.failed:
            with self._file.open("a") as file:
                file.write(f"{report.nodeid}{'' if report.when == 'call' else f' ({report.when})'}\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported."""
        if report.failed:
            with self._file.open("a") as file:
                file.write(f"{report.nodeid} (collection)\n")


def pytest_configure(config: pytest.Config) -> None:
    """What options switch on."""
    if config.getoption("--cpu"):
        config.pluginmanager.register(CpuTime(config))
    file = config.getoption("--failed-to")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_FailedTo(Path(file)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of those files."""
    for item in items:
        if item.nodeid.startswith(SMOKE):
            item.add_marker(pytest.mark.smoke)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A Mosquitto that lives as long as the session; use topics or prefixes of your own."""
    server = Mosquitto(tmp_path_factory.mktemp("mosquitto")).start()
    yield server
    server.stop()


@pytest.fixture
def mortal_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A Mosquitto of one test, which may kill and start it."""
    server = Mosquitto(tmp_path_factory.mktemp("mosquitto")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSql]:
    """A PostgreSQL that lives as long as the session; it does not wait for the disk."""
    if programs() is None and not os.environ.get("CI"):
        pytest.skip("no PostgreSQL here: scripts/ensure-packages postgresql installs it")
    server = PostgreSql(tmp_path_factory.mktemp("postgresql"), durable=False).start()
    yield server
    server.stop()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> Databases:
    """What asks for it, directly or not, runs once on each database."""
    return Databases(request.getfixturevalue("postgresql") if request.param == "postgresql" else None)
