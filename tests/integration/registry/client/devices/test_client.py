"""The client for threads against the data path of an agent, through a real broker."""

from __future__ import annotations

import numpy as np
import pytest

from registry.client.devices import BadRequestError, Client, DeviceError, UnknownDeviceError, UnknownModelError
from tests.support.clients.serving import Serving

X = np.array([[1, 2, 3, 4]], np.float32)


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("binary", [True, False])
def test_an_answer_has_the_arrays_of_its_outputs(client: Client, device: Serving, qos: int, binary: bool) -> None:
    answer = client.infer(device.name, "double", {"x": X}, qos=qos, binary=binary)
    np.testing.assert_array_equal(answer["y"], X * 2)
    assert (answer.model_name, answer.device, answer.datatypes) == ("double", "dev1", {"y": "FP32"})
    assert 0 < answer.seconds < 60
    assert answer.request_id


def test_many_requests_are_answered_in_their_order(client: Client, device: Serving) -> None:
    asked = ({"x": X + number} for number in range(500))
    answers = list(client.infer_many(asked, device=device.name, model="double", window=50))
    assert len(answers) == 500
    for number, answer in enumerate(answers):
        assert not isinstance(answer, DeviceError)
        np.testing.assert_array_equal(answer["y"], (X + number) * 2)
    statistics = client.statistics()
    assert (statistics.answered, statistics.in_flight, statistics.late) == (500, 0, 0)


def test_an_error_of_the_device_is_raised_with_its_code(client: Client, device: Serving) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.infer(device.name, "double", {"z": X})
    assert (refused.value.code, refused.value.device) == ("unknown_input", "dev1")
    with pytest.raises(UnknownModelError):
        client.infer(device.name, "triple", {"x": X})


def test_a_device_that_does_not_exist_is_an_error_long_before_the_time_out(client: Client) -> None:
    with pytest.raises(UnknownDeviceError) as unknown:
        client.infer("nobody", "double", {"x": X}, timeout=600)
    assert (unknown.value.code, unknown.value.device) == ("no_such_device", "nobody")
