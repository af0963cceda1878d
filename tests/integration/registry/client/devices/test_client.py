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
    assert (answer.model_name, answer.device, answer.datatypes) == ("double", device.name, {"y": "FP32"})
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
    assert (refused.value.code, refused.value.device) == ("unknown_input", device.name)
    with pytest.raises(UnknownModelError):
        client.infer(device.name, "triple", {"x": X})


def test_a_device_that_does_not_exist_is_an_error_long_before_the_time_out(client: Client) -> None:
    with pytest.raises(UnknownDeviceError) as unknown:
        client.infer("nobody", "double", {"x": X}, timeout=600)
    assert (unknown.value.code, unknown.value.device) == ("no_such_device", "nobody")


def test_a_device_says_what_its_models_take(client: Client, device: Serving) -> None:
    found = client.metadata(device.name, "double")
    assert (found.device, found.model, found.ready) == (device.name, "double", True)
    assert [(each.name, each.datatype, each.shape) for each in found.inputs] == [("x", "FP32", (-1, 4))]
    assert client.ready(device.name, "double")
    assert not client.ready(device.name, "triple")
    assert [model.name for model in client.server_metadata(device.name).models] == ["double"]
    with pytest.raises(UnknownDeviceError):
        client.metadata("nobody", "double")


@pytest.mark.parametrize("rows", [[[1, 2, 3, 4]], [[1.0, 2.0, 3.0, 4.0]], X.astype("f8"), X.astype("i8")])
def test_lists_and_the_types_that_numpy_gives_them_become_what_the_model_takes(
    client: Client, device: Serving, rows: object
) -> None:
    np.testing.assert_array_equal(client.infer(device.name, "double", {"x": rows})["y"], X * 2)


def test_a_whole_number_that_the_model_would_round_is_refused(client: Client, device: Serving) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.infer(device.name, "double", {"x": [[(1 << 24) + 1, 0, 0, 0]]})
    assert refused.value.code == "out_of_range"


def test_an_array_of_another_type_is_sent_as_it_is_and_refused_by_the_device(client: Client, device: Serving) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.infer(device.name, "double", {"x": X.astype("i4")})
    assert refused.value.code == "wrong_datatype"
