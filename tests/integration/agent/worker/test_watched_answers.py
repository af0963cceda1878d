"""A worker that is watched and one that is rebound, on the real data path with a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.core.probation import Tally
from tests.fakes.workers import FakeWorker, binding_for
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import Serving
from tests.support.network.broker import Mosquitto

GOOD = np.array([1, 2, 3, 4], np.float32)


@pytest.fixture(params=["fast", "public"])
def device(request: pytest.FixtureRequest, broker: Mosquitto, tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(broker.port, tmp_path, fast=request.param == "fast")
    yield serving
    serving.stop()


@pytest.fixture
def asker(device: Serving, broker: Mosquitto) -> Iterator[Asker]:
    client = Asker(broker.port, device.infer())
    yield client
    client.close()


def test_a_version_on_probation_is_counted_by_answers_errors_and_what_is_no_number(
    device: Serving, asker: Asker
) -> None:
    worker, tally = FakeWorker(), Tally(watching=True)
    device.workers.append(worker)
    device.plane.swap("double", worker, binding_for(worker, "double"), tally)
    device.start()
    for x in (GOOD, GOOD * np.nan, GOOD * np.inf, np.array([-1, 0, 0, 0], np.float32)):
        payload, length = binary_request(x)
        asker.one(payload, header_length=length)
    asker.one(b"{", header_length=1)
    assert (tally.answered, tally.not_finite, tally.failed()) == (3, 2, 1)
    assert tally.run.view().total == 4
    assert device.plane.snapshot().models["double"].not_finite == 2


def test_the_name_of_the_header_length_is_compared_without_regard_to_case(device: Serving, asker: Asker) -> None:
    device.serve(FakeWorker())
    device.start()
    payload, length = binary_request(GOOD)
    for name in ("Inference-Header-Content-Length", "INFERENCE-HEADER-CONTENT-LENGTH"):
        np.testing.assert_array_equal(asker.one(payload, extra=((name, str(length)),)).tensor(), GOOD * 2)


def test_a_version_that_is_not_watched_costs_no_look_into_its_answers(device: Serving, asker: Asker) -> None:
    worker, tally = FakeWorker(), Tally()
    device.workers.append(worker)
    device.plane.swap("double", worker, binding_for(worker, "double"), tally)
    device.start()
    payload, length = binary_request(GOOD * np.nan)
    asker.one(payload, header_length=length)
    assert (tally.answered, tally.not_finite, tally.run.view().total) == (0, 0, 1)


def test_a_worker_goes_on_under_another_rollout_without_a_swap(device: Serving, asker: Asker) -> None:
    worker = FakeWorker()
    device.serve(worker, rollout="r-1")
    device.start()
    payload, length = binary_request(GOOD)
    assert asker.one(payload, header_length=length).head["parameters"]["rollout"] == "r-1"
    device.plane.rebind("double", worker, binding_for(worker, "double", rollout="r-2"))
    assert asker.one(payload, header_length=length).head["parameters"]["rollout"] == "r-2"


def test_a_worker_that_serves_no_more_is_not_rebound(device: Serving, asker: Asker) -> None:
    old, new = FakeWorker(), FakeWorker()
    device.serve(old, rollout="r-1")
    device.serve(new, rollout="r-2")
    device.plane.rebind("double", old, binding_for(old, "double", rollout="r-1"))
    device.start()
    payload, length = binary_request(GOOD)
    assert asker.one(payload, header_length=length).head["parameters"]["rollout"] == "r-2"
