"""The simulator's requests: a simulated device answers for all the time that passed, however late it is turned."""

from __future__ import annotations

import threading

from agent.core.probation import Counts, Tally, judge
from registry.contracts.device.deployments import ProbationLimits
from registry.contracts.device.messages import DesiredModel
from scripts.simulator.data_path import REQUESTS_A_SECOND, SimulatedDataPath
from scripts.simulator.faults import Fault, Faults
from scripts.simulator.host import SimulatedSteps, SimulatedWorker
from scripts.simulator.platforms import PLATFORMS
from tests.fakes.registry_simulator import one_file_manifest

MODEL = "lenet"
LATE_S = 60.0


def serve(fault: Fault) -> tuple[SimulatedDataPath, list[float], Tally]:
    """A device with a fault that begins to serve its second version at second 0 of a clock that the caller turns."""
    steps = SimulatedSteps(
        platform=PLATFORMS[0],
        manifest=lambda digest: next(each for each in manifests if each.canonical_digest() == digest),
        fetch=lambda _choice: None,
        fault=fault,
        faults=Faults(),
    )
    manifests = [one_file_manifest(b"x", model=MODEL, version=version) for version in ("1", "2")]
    clock = [0.0]
    data_path = SimulatedDataPath(lambda *_: None, steps, lambda: clock[0])
    tally = Tally(watching=True)
    for manifest in manifests:
        wanted = DesiredModel(version=manifest.version, manifest=manifest.canonical_digest())
        choice = steps.resolve(MODEL, wanted, threading.Event())
        data_path.serve(choice, SimulatedWorker(choice, choice.backend), tally)
    return data_path, clock, tally


def test_a_device_that_was_not_turned_for_long_answers_the_requests_of_all_that_time() -> None:
    data_path, clock, tally = serve(Fault.NONE)
    clock[0] = LATE_S
    data_path.catch_up()
    data_path.catch_up()
    assert (tally.answered, tally.failed()) == (LATE_S * REQUESTS_A_SECOND, 0)


def test_a_device_that_has_to_fail_its_probation_fails_it_however_late_it_is_turned() -> None:
    data_path, clock, tally = serve(Fault.ROLLING_BACK)
    clock[0] = LATE_S
    data_path.catch_up()
    verdict = judge(ProbationLimits(), Counts(tally.answered, tally.failed()), over=True)
    assert verdict is not None
    assert verdict.code == "probation_errors"
