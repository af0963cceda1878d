"""The client for threads: `Client`. One thread of its own drives the connection; callers wait for it.

A client may be used by any number of threads. It is not for a process that was forked after it was made: there every
call raises, and nothing is sent. A client that nobody holds any more is closed, and its thread ends.
"""

from __future__ import annotations

import contextlib
import queue
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
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
from .detections import Asked
from .errors import DeviceError, UnknownModelError, error_of
from .figures import Statistics
from .metadata import DeviceDescription, ModelDescription, read_model, read_server
from .requests import PendingRequest
from .settings import ClientOptions, ClientSettings, make_settings
from .thread import ConnectionThread
from .waiting import GRACE_SECONDS, InFlightLimit, OldestRequest, wait_for_end

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_WINDOW = 32
DEFAULT_WINDOW_BYTES = 64 << 20
CONNECT_GRACE_SECONDS = 0.5
"""A try to connect ends at its time-out by itself; so much later it hangs in a name server or a TLS handshake."""


class Client:
    """Asks devices over MQTT and waits for their answers.

    ```python
    with Client("mqtts://broker") as fleet:
        answer = fleet.infer("edge-1", "iris", {"x": rows})
        print(answer["y"], answer.model_version)
    ```

    Args:
        url: `mqtt://HOST[:PORT]`, `mqtts://`, `ws://` or `wss://`; user name and password may stand in it.
        prefix: The first levels of the fleet's topics.
        username, password: For the broker.
        ca_file: A PEM file of the authorities that the broker's certificate is checked with; None: the system's.
        identity: The client's own certificate: a PEM file with certificate and key, or the two files.
        client_id: Of MQTT. None: a random one. Two clients of one id throw each other out.
        reply_prefix: The first levels of the topic for answers, `<reply_prefix>/<client_id>/<random>`.
        protocol: "5", or "3.1.1" for a broker that speaks nothing newer.
        keepalive: Seconds after which a silent connection is tested.
        connect_timeout: Seconds that one try to connect may take, to the broker's last word.
        wait_connected: False: the constructor returns at once, and the broker is tried until it is there.
        when_offline: "fail": a request to a device that is not connected fails at once; "wait": it waits until its
            time-out.
        presence: False: the presence of devices is not looked at, for a broker that does not show it to this client.
        max_in_flight, max_bytes_in_flight: So many requests of `infer` and `submit`, and bytes of them, may be under
            way; further calls wait.
        tracing: A span for each request, in the OpenTelemetry tracer provider of the application; the device goes on
            with the trace. It needs opentelemetry-api.

    Raises:
        NotConnectedError: there is no connection, with the reason.
        ValueError, TypeError: an argument cannot be used.
        registry.certificates.CertificateError: a TLS file cannot be used.
    """

    def __init__(self, url: str, *, wait_connected: bool = True, **settings: Unpack[ClientOptions]) -> None:
        self.settings = make_settings(url, **settings)
        self._asking = Asking(self.settings)
        self._room = InFlightLimit(self.settings.max_in_flight, self.settings.max_bytes_in_flight)
        self._thread = ConnectionThread(self.settings)
        self._read = self._thread.connection.reader.read
        self._close = weakref.finalize(self, self._thread.stop)
        self._thread.start()
        if wait_connected:
            self._wait_connected()

    def _wait_connected(self) -> None:
        limit = self.settings.connect_timeout_s + CONNECT_GRACE_SECONDS
        error = self._thread.first if self._thread.told.wait(limit) else unanswered(self.settings)
        if error is not None:
            self.close()
            raise error

    def __enter__(self) -> Client:
        """Connected already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Disconnects and ends the client's thread. What is under way fails with `client_closed`. Idempotent."""
        self._close()

    def infer(
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
        """Asks one device, or any agent of a pool, and waits for the answer.

        The guarantee. At QoS 1 a request is sent again after a refusal for now (`overloaded`, `model_not_ready`) and
        after a lost connection, always with the same id, correlation data and payload. A device runs it at most once
        while its agent lives: the agent remembers the requests of the last 300 s, up to 4,096 of them and 16 MiB of
        answers, and repeats the answer. It is run at least once, perhaps more often, when an agent was started again
        in between, when it goes to a pool, and when it is a picture to a device that does not say what the model
        takes, which goes without an id. At QoS 0 it is sent once and run at most once, and nothing is repeated after
        a lost connection. After an error `no_answer` or `connection_lost` it may have been run.

        Args:
            device: The device's name; or `pool`.
            model: The model's name.
            inputs: Arrays by the names of the model's inputs, with the model's own datatypes and shapes; `TypedTensor`
                names a datatype. See `arrays` for what is converted.
            pool: In place of `device`: an agent that takes requests of a pool to the model answers. The name is not
                sent, because topics of MQTT do not have it: where several pools serve the model, an agent of each runs
                the request and the first answer counts, be it of another pool. `who_serves` has the pools.
            picture: In place of `inputs`: a JPEG or PNG file as a path or as bytes, for a model that takes pictures.
            outputs: Names of the outputs that are wanted; None: all.
            detections: What is asked of a detector. True: `answer.detections`, of tensors, too. False: the model's own
                outputs, of a picture, too. None: detections of a picture, outputs of tensors.
            version: Only this version may answer.
            timeout: Seconds until the answer must be there, waiting and repeats included. It is the message's expiry,
                too: a device does not begin with a request that has expired, to the second.
            request_id: At most 256 characters. The same id with the same content is the same request to a device.
                None: a new one.
            qos: 1, or 0.
            binary: False: inputs as JSON, for a device or a broker in between that must read it. Not for pictures.
            retries: How often it may be sent again; None: as often as the time-out allows.

        Returns:
            The answer; its arrays are read-only.

        Raises:
            DeviceError: one of its classes, with `code`, `message` and `action`.
            ValueError, TypeError: an argument cannot be used.
            OSError: the picture's file cannot be read.
            RuntimeError: it was called on the client's own thread, in a callback of a future.
        """
        asked = InferenceRequest(device, model, inputs, pool, picture, outputs, version, request_id, detections)
        box: queue.SimpleQueue[None] = queue.SimpleQueue()
        request = self._make(asked, How(timeout, qos, binary, retries), self._waker(box))
        self._take_room(request)
        try:
            return _answer(self._wait(request, box))
        except DeviceError as error:
            self._asking.refused(asked, error)
            raise
        finally:
            self._room.give(request.size)

    def submit(
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
    ) -> Future[Answer]:
        """As `infer`, without waiting for the answer: it, or the error, is in the future.

        Waits while `max_in_flight` requests are under way. Cancelling the future drops the answer when it comes. Its
        callbacks run on the client's own thread: there nothing that waits for a device may be called.
        """
        asked = InferenceRequest(device, model, inputs, pool, picture, outputs, version, request_id, detections)
        future: Future[Answer] = Future()

        def done(ended: PendingRequest) -> None:
            self_room.give(ended.size)
            with contextlib.suppress(InvalidStateError):  # it was cancelled
                if isinstance(ended.outcome, DeviceError):
                    future.set_exception(ended.outcome)
                else:
                    future.set_result(ended.outcome)

        self_room, thread = self._room, self._thread
        request = self._make(asked, How(timeout, qos, binary, retries), done)

        def cancelled(ended: Future[Answer]) -> None:
            if ended.cancelled():
                thread.post(lambda: _give_up(thread, request, self_room))

        self._take_room(request)
        future.add_done_callback(cancelled)
        self._submit(request)
        return future

    @overload
    def infer_many(
        self,
        requests: Iterable[InferenceRequest | Inputs | Picture],
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
    ) -> Iterator[Answer]: ...

    @overload
    def infer_many(
        self,
        requests: Iterable[InferenceRequest | Inputs | Picture],
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
    ) -> Iterator[Answer | DeviceError]: ...

    def infer_many(
        self,
        requests: Iterable[InferenceRequest | Inputs | Picture],
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
    ) -> Iterator[Any]:
        """Asks many times, with `window` requests under way at once; answers come in the order of `requests`.

        Takes the next of `requests` only when there is room for it and an answer was taken, so neither a long iterable
        nor slow answers need memory. When it is not read to its end, what is under way is dropped.

        Args:
            requests: `InferenceRequest`s; or the inputs by name, or pictures, for the `device` or `pool` and `model`.
            device, model, pool: Of the items that name none themselves.
            window: Requests under way at once.
            max_bytes: Bytes of requests under way at once; a longer request goes alone.
            errors: "raise": the first error ends it, when its turn comes. "return": errors stand among the answers,
                and an item that cannot be sent is a BadRequestError.
            timeout, qos, binary, retries: Of each request, as `infer` says.
        """
        check_window(window, max_bytes, errors)
        how = How(timeout, qos, binary, retries)
        named = partial(as_request, device=device, model=model, pool=pool)
        return self._stream(requests, named, how, window, max_bytes, keep_errors=errors == "return")

    def _stream(
        self,
        items: Iterable[Any],
        named: Callable[[Any], InferenceRequest],
        how: How,
        window: int,
        max_bytes: int,
        *,
        keep_errors: bool,
    ) -> Iterator[Any]:
        under_way: deque[PendingRequest | Exception] = deque()
        head = OldestRequest(self._thread)
        held = 0
        try:
            for item in items:
                request = self._try(item, named, how, head.ended)
                size = 0 if isinstance(request, Exception) else request.size
                while under_way and (len(under_way) >= window or held + size > max_bytes or head.ready(under_way[0])):
                    first = under_way.popleft()
                    held -= 0 if isinstance(first, Exception) else first.size
                    yield _kept(head.wait(first), keep=keep_errors)
                if isinstance(request, PendingRequest):
                    # It may have waited for the caller to take answers: its time begins now.
                    request.started = time.monotonic()
                    request.deadline = request.started + how.timeout
                    self._submit(request)
                under_way.append(request)
                held += size
            while under_way:
                yield _kept(head.wait(under_way.popleft()), keep=keep_errors)
        finally:
            for left in under_way:
                if isinstance(left, PendingRequest):
                    self._drop(left)

    def metadata(self, device: str, model: str, *, timeout: float = 10.0) -> ModelDescription:
        """What the device says of a model: version, inputs and outputs, readiness. Raises DeviceError."""
        found: ModelDescription = self._ask_metadata(device, model, read_model, timeout)
        return found

    def ready(self, device: str, model: str, *, timeout: float = 10.0) -> bool:
        """Does the model answer requests on that device now? A model that is not assigned to it does not.

        Raises:
            DeviceError: the device does not say: it is not there, not connected, or an older one.
        """
        try:
            return self.metadata(device, model, timeout=timeout).ready
        except UnknownModelError:
            return False

    def server_metadata(self, device: str, *, timeout: float = 10.0) -> DeviceDescription:
        """What the device is, and the models that are assigned to it. Raises DeviceError."""
        found: DeviceDescription = self._ask_metadata(device, None, read_server, timeout)
        return found

    def who_serves(self, model: str, *, pool: str | None = None, wait: float = 1.0) -> list[ModelDescription]:
        """The devices that take requests of a pool to the model, by name: all that answer within `wait` seconds.

        Agents answer after a random pause of up to half a second. `ready` says who can answer requests now.

        Args:
            model: Its name.
            pool: Only devices of this pool.
            wait: Seconds.
        """
        box: queue.SimpleQueue[None] = queue.SimpleQueue()
        request = self._asking.metadata(
            None, model, timeout=wait, now=time.monotonic(), read=read_model, done=self._waker(box)
        )
        request.gathered = {}
        found: list[ModelDescription] = _result(self._wait(request, box))
        return sorted((each for each in found if pool is None or pool in each.pools), key=lambda each: each.device)

    def _ask_metadata(self, device: str | None, model: str | None, read: Reader, timeout: float) -> Any:
        box: queue.SimpleQueue[None] = queue.SimpleQueue()
        request = self._asking.metadata(
            device, model, timeout=timeout, now=time.monotonic(), read=read, done=self._waker(box)
        )
        return _result(self._wait(request, box))

    def _describe(self, asked: InferenceRequest, how: How, started: float) -> None:
        """Asks what the model takes, where that is needed and not remembered."""
        if not self._asking.needs_description(asked, started):
            return
        box: queue.SimpleQueue[None] = queue.SimpleQueue()
        request = self._asking.description(asked, how, now=started, read=read_model, done=self._waker(box))
        found: ModelDescription | None = None
        try:
            found = _result(self._wait(request, box))
        except DeviceError as error:
            if ends_request(error):
                raise
        self._asking.learn(asked, found, time.monotonic())

    def statistics(self) -> Statistics:
        """What was sent, answered and lost so far, and how fast. Raises DeviceError when the client is closed."""
        future: Future[Statistics] = Future()
        self._asking.check_process()
        self._thread.refuse_to_wait()
        self._thread.call(self._thread.connection.statistics, future)
        return future.result(GRACE_SECONDS)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _make(self, asked: InferenceRequest, how: How, done: Callable[[PendingRequest], None]) -> PendingRequest:
        started = time.monotonic()
        self._describe(asked, how, started)
        return self._asking.infer(asked, how, now=started, read=self._read, done=done)

    def _try(
        self, item: Any, named: Callable[[Any], InferenceRequest], how: How, done: Callable[[PendingRequest], None]
    ) -> PendingRequest | Exception:
        """A request, or why it cannot be sent, which is told when its turn comes."""
        try:
            return self._make(named(item), how, done)
        except (DeviceError, *FAULTS_OF_AN_ITEM) as error:
            return error

    def _take_room(self, request: PendingRequest) -> None:
        seconds = 0.0 if self._thread.is_current() else request.deadline - time.monotonic()
        if not self._room.take(request.size, seconds):
            text = (
                f"{self.settings.max_in_flight} requests or their bytes are under way, and none of them ended in time"
            )
            raise error_of(RequestCode.NO_ANSWER, text, device=request.device, request_id=request.request_id)

    def _submit(self, request: PendingRequest) -> None:
        self._thread.submit(request)

    def _wait(self, request: PendingRequest, box: queue.SimpleQueue[None]) -> Any:
        self._thread.refuse_to_wait()
        try:
            self._submit(request)
            wait_for_end(box, request)
        except BaseException:
            self._drop(request)
            raise
        return request.outcome

    def _waker(self, box: queue.SimpleQueue[None]) -> Callable[[PendingRequest], None]:
        """For a caller that waits for one request with `box`."""
        wake = self._thread.wake_after_turn
        return lambda _request: wake(box)

    def _drop(self, request: PendingRequest) -> None:
        self._thread.post(lambda: self._thread.connection.requests.give_up(request))


def _give_up(thread: ConnectionThread, request: PendingRequest, room: InFlightLimit) -> None:
    if thread.connection.requests.give_up(request):
        room.give(request.size)


def _result(outcome: Any) -> Any:
    if isinstance(outcome, DeviceError):
        raise outcome
    return outcome


def _answer(outcome: Any) -> Answer:
    found: Answer = _result(outcome)
    return found


def _kept(outcome: Any, *, keep: bool) -> Answer | DeviceError:
    """Raises an error, or gives it in the place of the answer."""
    if isinstance(outcome, Exception):
        if not keep:
            raise outcome
        return in_its_place(outcome)
    found: Answer = outcome
    return found


def unanswered(settings: ClientSettings) -> DeviceError:
    """The first try to connect has not ended in its time."""
    return error_of(
        RequestCode.NOT_CONNECTED, f"{settings.broker} has not answered within {settings.connect_timeout_s:g} s"
    )
