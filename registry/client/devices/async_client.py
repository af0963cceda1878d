"""The client for asyncio: `AsyncClient`. The event loop drives the connection; there is no thread but to connect."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from ...contracts.codes import RequestCode
from .answer import Answer
from .asking import (
    FAULTS_OF_AN_ITEM,
    Asking,
    How,
    InferenceRequest,
    Inputs,
    Picture,
    Reader,
    as_request,
    check_window,
    ends_request,
    in_its_place,
)
from .async_waiting import AsyncInFlightLimit, AsyncOldestRequest
from .client import CONNECT_GRACE_SECONDS, DEFAULT_WINDOW, DEFAULT_WINDOW_BYTES, unanswered
from .detections import Asked
from .errors import DeviceError, UnknownModelError, error_of
from .figures import Statistics
from .loop import ConnectionOnLoop
from .metadata import DeviceDescription, ModelDescription, read_model, read_server
from .requests import PendingRequest
from .settings import ClientOptions, make_settings

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncClient:
    """Asks devices over MQTT, on one event loop.

    ```python
    async with AsyncClient("mqtts://broker") as fleet:
        answer = await fleet.infer("edge-1", "iris", {"x": rows})
        async for each in fleet.infer_many(({"x": row} for row in rows), device="edge-1", model="iris"):
            print(each["y"])
    ```

    The arguments and errors are those of `Client`; it connects in `async with`, or in `connect`. Cancelling a task that
    waits for an answer drops the answer when it comes.
    """

    def __init__(self, url: str, *, wait_connected: bool = True, **settings: Unpack[ClientOptions]) -> None:
        self.settings = make_settings(url, **settings)
        self._wait_connected = wait_connected
        self._asking = Asking(self.settings)
        self._room = AsyncInFlightLimit(self.settings.max_in_flight, self.settings.max_bytes_in_flight)
        self._driver: ConnectionOnLoop | None = None

    async def __aenter__(self) -> AsyncClient:
        """Connects."""
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes it."""
        await self.close()

    async def connect(self) -> None:
        """Connects; `async with` does it. Raises NotConnectedError with the reason."""
        if self._driver is not None:
            self._driver.check_loop()
            return
        self._driver = ConnectionOnLoop(self.settings)
        self._driver.start()
        if self._wait_connected:
            try:
                limit = self.settings.connect_timeout_s + CONNECT_GRACE_SECONDS
                error = await asyncio.wait_for(asyncio.shield(self._driver.first), limit)
            except asyncio.TimeoutError:
                error = unanswered(self.settings)
            except BaseException:
                await self.close()
                raise
            if error is not None:
                await self.close()
                raise error

    async def close(self) -> None:
        """Disconnects. What is under way fails with `client_closed`. Idempotent."""
        if self._driver is not None:
            self._driver.close()

    async def infer(
        self,
        device: str | None = None,
        model: str = "",
        inputs: Inputs | None = None,
        *,
        pool: str | None = None,
        picture: Picture | None = None,
        outputs: Sequence[str] | None = None,
        detections: Asked = None,
        version: str | None = None,
        timeout: float = 10.0,
        request_id: str | None = None,
        qos: int = 1,
        binary: bool = True,
        retries: int | None = None,
    ) -> Answer:
        """As `Client.infer`, with the same guarantee: see there."""
        asked = InferenceRequest(device, model, inputs, pool, picture, outputs, version, request_id, detections)
        future = self._future()
        request = await self._make(asked, How(timeout, qos, binary, retries), _into(future))
        await self._take_room(request)
        try:
            answer: Answer = _result(await self._wait(request, future))
        except DeviceError as error:
            self._asking.refused(asked, error)
            raise
        finally:
            self._room.give(request.size)
        return answer

    @overload
    def infer_many(
        self,
        requests: Iterable[InferenceRequest | Inputs | Picture] | AsyncIterable[InferenceRequest | Inputs | Picture],
        *,
        device: str | None = None,
        model: str | None = None,
        pool: str | None = None,
        window: int = DEFAULT_WINDOW,
        max_bytes: int = DEFAULT_WINDOW_BYTES,
        errors: Literal["raise"] = "raise",
        timeout: float = 10.0,
        qos: int = 1,
        binary: bool = True,
        retries: int | None = None,
    ) -> AsyncIterator[Answer]: ...

    @overload
    def infer_many(
        self,
        requests: Iterable[InferenceRequest | Inputs | Picture] | AsyncIterable[InferenceRequest | Inputs | Picture],
        *,
        device: str | None = None,
        model: str | None = None,
        pool: str | None = None,
        window: int = DEFAULT_WINDOW,
        max_bytes: int = DEFAULT_WINDOW_BYTES,
        errors: Literal["return"],
        timeout: float = 10.0,
        qos: int = 1,
        binary: bool = True,
        retries: int | None = None,
    ) -> AsyncIterator[Answer | DeviceError]: ...

    async def infer_many(
        self,
        requests: Iterable[InferenceRequest | Inputs | Picture] | AsyncIterable[InferenceRequest | Inputs | Picture],
        *,
        device: str | None = None,
        model: str | None = None,
        pool: str | None = None,
        window: int = DEFAULT_WINDOW,
        max_bytes: int = DEFAULT_WINDOW_BYTES,
        errors: str = "raise",
        timeout: float = 10.0,
        qos: int = 1,
        binary: bool = True,
        retries: int | None = None,
    ) -> AsyncIterator[Any]:
        """As `Client.infer_many`, of an iterable or an asynchronous one. Close it where it is left early
        (`contextlib.aclosing`)."""
        check_window(window, max_bytes, errors)
        how = How(timeout, qos, binary, retries)
        named = partial(as_request, device=device, model=model, pool=pool)
        under_way: deque[PendingRequest | Exception] = deque()
        head = AsyncOldestRequest()
        held = 0
        try:
            async for item in _each(requests):
                request = await self._try(item, named, how, head.ended)
                size = 0 if isinstance(request, Exception) else request.size
                while under_way and (len(under_way) >= window or held + size > max_bytes or head.ready(under_way[0])):
                    first = under_way.popleft()
                    held -= 0 if isinstance(first, Exception) else first.size
                    yield _kept(await head.wait(first), keep=errors == "return")
                if isinstance(request, PendingRequest):
                    # It may have waited for the caller to take answers: its time begins now.
                    request.started = time.monotonic()
                    request.deadline = request.started + how.timeout
                    self._connected().submit(request)
                under_way.append(request)
                held += size
            while under_way:
                yield _kept(await head.wait(under_way.popleft()), keep=errors == "return")
        finally:
            for left in under_way:
                if isinstance(left, PendingRequest):
                    self._opened().connection.requests.give_up(left)

    async def metadata(self, device: str, model: str, *, timeout: float = 10.0) -> ModelDescription:
        """As `Client.metadata`."""
        found: ModelDescription = await self._ask_metadata(device, model, read_model, timeout)
        return found

    async def ready(self, device: str, model: str, *, timeout: float = 10.0) -> bool:
        """As `Client.ready`."""
        try:
            return (await self.metadata(device, model, timeout=timeout)).ready
        except UnknownModelError:
            return False

    async def server_metadata(self, device: str, *, timeout: float = 10.0) -> DeviceDescription:
        """As `Client.server_metadata`."""
        found: DeviceDescription = await self._ask_metadata(device, None, read_server, timeout)
        return found

    async def who_serves(self, model: str, *, pool: str | None = None, wait: float = 1.0) -> list[ModelDescription]:
        """As `Client.who_serves`."""
        future = self._future()
        request = self._asking.metadata(
            None, model, timeout=wait, now=time.monotonic(), read=read_model, done=_into(future)
        )
        request.gathered = {}
        found: list[ModelDescription] = _result(await self._wait(request, future))
        return sorted((each for each in found if pool is None or pool in each.pools), key=lambda each: each.device)

    def statistics(self) -> Statistics:
        """What was sent, answered and lost so far, and how fast."""
        return self._opened().connection.statistics()

    # --- steps --------------------------------------------------------------------------------------------------------

    def _opened(self) -> ConnectionOnLoop:
        if self._driver is None:
            raise error_of(RequestCode.CLIENT_CLOSED, "the client is not connected: use it in `async with`")
        self._asking.check_process()
        return self._driver

    def _connected(self) -> ConnectionOnLoop:
        driver = self._opened()
        driver.check_loop()
        return driver

    @staticmethod
    def _future() -> asyncio.Future[PendingRequest]:
        return asyncio.get_running_loop().create_future()

    async def _make(self, asked: InferenceRequest, how: How, done: Callable[[PendingRequest], None]) -> PendingRequest:
        read = self._connected().connection.reader.read
        started = time.monotonic()
        if self._asking.needs_description(asked, started):
            future = self._future()
            request = self._asking.description(asked, how, now=started, read=read_model, done=_into(future))
            found: ModelDescription | None = None
            try:
                found = _result(await self._wait(request, future))
            except DeviceError as error:
                if ends_request(error):
                    raise
            self._asking.learn(asked, found, time.monotonic())
        return self._asking.infer(asked, how, now=started, read=read, done=done)

    async def _try(
        self, item: Any, named: Callable[[Any], InferenceRequest], how: How, done: Callable[[PendingRequest], None]
    ) -> PendingRequest | Exception:
        """A request, or why it cannot be sent, which is told when its turn comes."""
        try:
            return await self._make(named(item), how, done)
        except (DeviceError, *FAULTS_OF_AN_ITEM) as error:
            return error

    async def _ask_metadata(self, device: str | None, model: str | None, read: Reader, seconds: float) -> Any:
        future = self._future()
        request = self._asking.metadata(
            device, model, timeout=seconds, now=time.monotonic(), read=read, done=_into(future)
        )
        return _result(await self._wait(request, future))

    async def _take_room(self, request: PendingRequest) -> None:
        if self._room.fits(request.size):
            await self._room.take(request.size)
            return
        try:
            await asyncio.wait_for(self._room.take(request.size), max(0.0, request.deadline - time.monotonic()))
        except asyncio.TimeoutError:
            text = (
                f"{self.settings.max_in_flight} requests or their bytes are under way, and none of them ended in time"
            )
            raise error_of(RequestCode.NO_ANSWER, text, device=request.device, request_id=request.request_id) from None

    async def _wait(self, request: PendingRequest, future: asyncio.Future[PendingRequest]) -> Any:
        driver = self._connected()
        driver.submit(request)
        try:
            await future
        except asyncio.CancelledError:
            driver.connection.requests.give_up(request)
            raise
        return request.outcome


def _into(future: asyncio.Future[PendingRequest]) -> Callable[[PendingRequest], None]:
    def done(request: PendingRequest) -> None:
        if not future.done():
            future.set_result(request)

    return done


async def _each(items: Any) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _result(outcome: Any) -> Any:
    if isinstance(outcome, DeviceError):
        raise outcome
    return outcome


def _kept(outcome: Any, *, keep: bool) -> Any:
    """Raises an error, or gives it in the place of the answer."""
    if isinstance(outcome, Exception):
        if not keep:
            raise outcome
        return in_its_place(outcome)
    return outcome
