"""The client for asyncio against the data path of an agent, through a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest

from registry.client.devices import AsyncClient, BadRequestError, DeviceError, NotConnectedError, UnknownDeviceError
from tests.support.clients.serving import Serving
from tests.support.network.broker import Mosquitto

X = np.array([[1, 2, 3, 4]], np.float32)
Run = Callable[[Callable[[AsyncClient], Awaitable[None]]], None]


async def whole(answers: AsyncIterator[object]) -> list[object]:
    return [each async for each in answers]


async def reached(condition: Callable[[], bool]) -> None:
    """Polls; what it is used in has a deadline."""
    while not condition():  # noqa: ASYNC110 - the client has no event for what it counts
        await asyncio.sleep(0.001)


@pytest.fixture(params=["5", "3.1.1"])
def run(request: pytest.FixtureRequest, broker: Mosquitto, device: Serving) -> Run:
    """Runs a coroutine with a connected client."""

    def runs(use: Callable[[AsyncClient], Awaitable[None]]) -> None:
        async def whole() -> None:
            url = f"mqtt://127.0.0.1:{broker.port}"
            async with AsyncClient(url, prefix=device.topics.prefix, protocol=request.param) as fleet:
                await use(fleet)

        asyncio.run(asyncio.wait_for(whole(), 120))

    return runs


def test_an_answer_has_the_arrays_of_its_outputs(run: Run, device: Serving) -> None:
    async def use(fleet: AsyncClient) -> None:
        for qos in (0, 1):
            answer = await fleet.infer(device.name, "double", {"x": X}, qos=qos)
            np.testing.assert_array_equal(answer["y"], X * 2)
        np.testing.assert_array_equal((await fleet.infer(device.name, "double", {"x": [[1, 2, 3, 4]]}))["y"], X * 2)
        assert await fleet.ready(device.name, "double")
        with pytest.raises(BadRequestError):
            await fleet.infer(device.name, "double", {"z": X})
        with pytest.raises(UnknownDeviceError):
            await fleet.infer("nobody", "double", {"x": X}, timeout=600)

    run(use)


def test_many_tasks_ask_at_once(run: Run, device: Serving) -> None:
    async def use(fleet: AsyncClient) -> None:
        asked = (fleet.infer(device.name, "double", {"x": X + n}) for n in range(200))
        for number, answer in enumerate(await asyncio.gather(*asked)):
            np.testing.assert_array_equal(answer["y"], (X + number) * 2)
        assert fleet.statistics().in_flight == 0

    run(use)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_infer_many_answers_in_order_and_gives_errors_where_they_are_wanted(
    run: Run, device: Serving, asynchronous: bool
) -> None:
    items = [{"x": X + n} if n != 7 else {"z": X} for n in range(100)]

    async def slowly() -> AsyncIterator[dict[str, object]]:
        for item in items:
            await asyncio.sleep(0)
            yield item

    async def use(fleet: AsyncClient) -> None:
        asked = slowly() if asynchronous else items
        found = [each async for each in fleet.infer_many(asked, device=device.name, model="double", errors="return")]
        assert [isinstance(each, DeviceError) for each in found] == [n == 7 for n in range(100)]
        np.testing.assert_array_equal(found[99]["y"], (X + 99) * 2)
        with pytest.raises(BadRequestError):
            await whole(fleet.infer_many(items, device=device.name, model="double"))

    run(use)


def test_a_cancelled_task_leaves_nothing_and_its_answer_is_counted_as_late(run: Run, device: Serving) -> None:
    worker = device.workers[0]

    async def use(fleet: AsyncClient) -> None:
        await fleet.infer(device.name, "double", {"x": X})
        worker.gate.clear()
        task = asyncio.create_task(fleet.infer(device.name, "double", {"x": X + 1}))
        await reached(lambda: fleet.statistics().in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (fleet.statistics().in_flight, fleet.statistics().cancelled) == (0, 1)
        worker.gate.set()
        await fleet.infer(device.name, "double", {"x": X + 2})
        await reached(lambda: fleet.statistics().late == 1)

    run(use)


def test_no_more_requests_are_under_way_than_are_allowed(broker: Mosquitto, device: Serving) -> None:
    device.workers[0].gate.clear()

    async def use() -> None:
        url = f"mqtt://127.0.0.1:{broker.port}"
        async with AsyncClient(url, prefix=device.topics.prefix, max_in_flight=3) as fleet:
            tasks = [asyncio.create_task(fleet.infer(device.name, "double", {"x": X})) for _ in range(10)]
            await reached(lambda: fleet.statistics().in_flight == 3)
            await fleet.ready(device.name, "double")
            assert fleet.statistics().in_flight == 3
            device.workers[0].gate.set()
            assert len(await asyncio.gather(*tasks)) == 10

    asyncio.run(asyncio.wait_for(use(), 60))


def test_on_another_event_loop_a_client_is_refused_at_once(broker: Mosquitto, device: Serving) -> None:
    fleet = AsyncClient(f"mqtt://127.0.0.1:{broker.port}", prefix=device.topics.prefix)
    first = asyncio.new_event_loop()
    first.run_until_complete(fleet.connect())
    for call in (
        lambda: fleet.infer(device.name, "double", {"x": X}), lambda: fleet.ready(device.name, "double"),
        lambda: whole(fleet.infer_many([{"x": X}], device=device.name, model="double", errors="return")),
        fleet.connect,
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(call())  # type: ignore[no-untyped-call]
    answer = first.run_until_complete(fleet.infer(device.name, "double", {"x": X}))
    np.testing.assert_array_equal(answer["y"], X * 2)
    first.run_until_complete(fleet.close())
    first.close()


def test_an_item_that_cannot_be_sent_is_an_error_in_its_place(run: Run, device: Serving) -> None:
    items: list[object] = [{"x": X}, "/no/such/picture", {"x": X}]

    async def use(fleet: AsyncClient) -> None:
        stream = fleet.infer_many(items, device=device.name, model="double", errors="return")  # type: ignore[arg-type]
        found = [each async for each in stream]
        assert [isinstance(each, BadRequestError) for each in found] == [False, True, False]

    run(use)


def test_a_broker_that_is_not_there_is_said_at_once() -> None:
    async def use() -> None:
        async with AsyncClient("mqtt://127.0.0.1:1"):
            pass

    with pytest.raises(NotConnectedError) as refused:
        asyncio.run(use())
    assert "refused" in str(refused.value).lower()
