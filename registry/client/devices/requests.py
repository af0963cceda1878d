"""The requests of one client, from the call to its end: the rules, without I/O. Time comes in as an argument.

A request is in one of these states; `Requests` moves it, and nothing else does.

| state | means | goes on with |
|---|---|---|
| QUEUED | waits for the connection, for news of its device, or for the broker's window | SENT |
| SENT | on its way to the broker (QoS 1) | ACKNOWLEDGED, WAITING, QUEUED when the connection ends |
| ACKNOWLEDGED | with the broker, or with the device | WAITING, QUEUED when the connection ends |
| WAITING | was refused for now; is sent again at `retry_at` | SENT, QUEUED |
| DONE | answered, failed or given up; `done` was called once | |

A request is always sent again with the same id, correlation data and payload, so that a device knows it again. Only
QoS 1 requests are sent again after a lost connection: a device remembers no others.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from math import ceil, inf
from typing import Any, Protocol

from ...contracts.backoff import Backoff
from ...contracts.codes import InferenceCode, RequestCode
from ...contracts.enums import StrEnum
from .answer import Expected
from .errors import DeviceError, error_of
from .presence import DevicePresence, Presences
from .settings import MAX_SECONDS

_log = logging.getLogger(__name__)
RETRY = Backoff(first_s=0.02, cap_s=2.0)
"""Between tries of a request that was refused for now."""
RETRIED = frozenset({str(InferenceCode.OVERLOADED), str(InferenceCode.MODEL_NOT_READY)})
"""Refusals before anything was run: the same request may succeed later."""
LAST_TRY_SECONDS = 0.2
"""So long before its deadline a request that was refused for now is sent for the last time."""
SILENCE_SECONDS = 2.0
"""A device without a presence document, whose request no PUBACK said anything about, has so long to answer."""
MAX_PACKET_OVERHEAD = 64
MAX_GATHERED = 65536
"""Devices whose answers to one request are kept; further ones are dropped and counted as late."""
NO_SUBSCRIBERS, REFUSED, QUOTA_EXCEEDED = 0x10, 0x80, 0x97
"""Reasons of a PUBACK (MQTT 5.0, section 3.4.2.1)."""


class RequestState(StrEnum):
    """Where a request is; see the table above."""

    QUEUED = "queued"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    WAITING = "waiting"
    DONE = "done"


class PendingRequest:
    """One request while it is under way, and its outcome afterwards."""

    __slots__ = (
        "answer_by", "answer_within", "attempts", "deadline", "device", "done", "expected", "gathered", "key", "last",
        "outcome", "pieces", "probe", "properties", "qos", "read", "request_id", "retries", "retry_at", "sent_at",
        "size", "started", "state", "target", "topic", "wait",
    )  # fmt: skip

    def __init__(
        self,
        *,
        key: bytes,
        request_id: str,
        topic: bytes,
        device: str,
        target: str,
        properties: bytes,
        pieces: Sequence[bytes],
        qos: int,
        started: float,
        deadline: float,
        retries: int | None,
        wait: bool,
        expected: Expected,
        read: Callable[[bytes, int, Expected], Any],
        done: Callable[[PendingRequest], None],
    ) -> None:
        self.key = key
        """The correlation data as it comes back: the whole property, or the text of MQTT 3.1.1."""
        self.request_id = request_id
        self.topic = topic
        """With its u16 length."""
        self.device = device
        """Empty: of a pool."""
        self.target = target
        """Device and model, for messages."""
        self.properties = properties
        self.pieces = pieces
        self.size = len(properties) + len(topic) + sum(map(len, pieces)) + MAX_PACKET_OVERHEAD
        self.qos = qos
        self.started = started
        self.deadline = deadline
        self.retries = retries
        """How often it may still be sent again; None: until the deadline."""
        self.wait = wait
        """While its device is offline: wait (True) or fail (False)."""
        self.expected = expected
        self.read = read
        """Makes the outcome of a payload, the length of its header and what is expected; raises DeviceError."""
        self.done = done
        self.state = RequestState.QUEUED
        self.attempts = 0
        self.sent_at = 0.0
        self.retry_at = inf
        self.answer_within: float | None = None
        """Each time that it is sent it may take so many seconds, at most half of those that are left; None: all."""
        self.answer_by = inf
        """When that time is over."""
        self.last: DeviceError | None = None
        """Why the last try did not succeed."""
        self.outcome: Any = None
        """An answer or a DeviceError, once it is DONE."""
        self.gathered: dict[str, Any] | None = None
        """Not None: the answers until the deadline are its outcome, the last one of each device."""
        self.probe = False
        """True: nobody who subscribed means that the device does not know such requests."""


class RequestWire(Protocol):
    """How requests leave."""

    def send(self, request: PendingRequest, expiry: int) -> int:
        """Publishes it with so many seconds of Message Expiry Interval; the packet identifier, 0 at QoS 0."""

    def watch(self, device: str) -> None:
        """Subscribes to the device's presence; `Requests.presence` and `Requests.unknown_presence` are told."""


class Requests:
    """INVARIANT: `done` of every request that was submitted is called once, at its deadline at the latest."""

    def __init__(
        self, wire: RequestWire, chance: Callable[[], float], presences: Presences, *, tells_of_nobody: bool = True
    ) -> None:
        """`tells_of_nobody`: a PUBACK says when nobody takes a request (MQTT 5)."""
        self._wire = wire
        self._chance = chance
        self._all: dict[bytes, PendingRequest] = {}
        """All that are not DONE, in the order of their calls."""
        self.unacknowledged: dict[int, PendingRequest] = {}
        """By packet identifier: what the broker has not acknowledged."""
        self._for_window: OrderedDict[bytes, PendingRequest] = OrderedDict()
        """By correlation data: what is sent when the broker has acknowledged others."""
        self._presences = presences
        self._tells_of_nobody = tells_of_nobody
        self.window = 0
        """QoS 1 publications that the broker takes before it acknowledges some."""
        self.longest = 0
        """Bytes of a packet that the broker takes."""
        self.open = False
        self.away = "it was not connected yet"
        """Why there is no connection."""
        self.next_due = inf
        """When `due` has something to do: not after that."""
        self.bytes = 0
        """Of all requests under way."""
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._all)

    def awaits(self, key: bytes) -> bool:
        """Is a request under way whose answer has this key?"""
        return key in self._all

    # --- calls --------------------------------------------------------------------------------------------------------

    def submit(self, request: PendingRequest, now: float) -> None:
        """A call. One whose correlation data is under way already is refused."""
        if request.key in self._all:
            error = error_of(InferenceCode.BAD_PAYLOAD, f"a request with the id {request.request_id!r} is under way")
            request.state, request.outcome = RequestState.DONE, error
            request.done(request)
            return
        self._all[request.key] = request
        self.bytes += request.size
        self.counts["requests"] += 1
        self.next_due = min(self.next_due, request.deadline)
        self._send(request, now)

    def give_up(self, request: PendingRequest) -> bool:
        """The caller does not want the answer any more: it is dropped when it comes. False: it is DONE already."""
        if request.state is RequestState.DONE:
            return False
        self.counts["cancelled"] += 1
        self._forget(request)
        return True

    def fail_all(self, code: str, message: str) -> None:
        """The client is closed."""
        for request in list(self._all.values()):
            self._fail(request, code, message)

    # --- the connection -----------------------------------------------------------------------------------------------

    def connected(self, window: int, longest: int, now: float) -> None:
        """Everything may be sent: what waits goes out in the order of the calls."""
        self.open = True
        self.window, self.longest = window, longest
        for request in list(self._all.values()):
            if request.state is RequestState.QUEUED:
                self._send(request, now)

    def disconnected(self, reason: str, now: float) -> None:
        """Nobody knows what became of what was on its way: it is sent again on the next connection, or fails."""
        self.open = False
        self.away = reason
        self._presences.forget()
        self.unacknowledged.clear()
        self._for_window.clear()
        for request in list(self._all.values()):
            if request.state is RequestState.QUEUED or request.state is RequestState.WAITING:
                request.state = RequestState.QUEUED
            elif request.qos and request.retries != 0:
                self._again(request)
            else:
                why = "at QoS 0 it is not sent again" if not request.qos else "no retries were allowed"
                self._fail(request, RequestCode.CONNECTION_LOST, f"the connection ended ({reason}); {why}")

    def puback(self, mid: int, reason: int, now: float) -> bool:
        """The broker has taken a request, or says why not. False: the identifier is none of these requests'."""
        request = self.unacknowledged.pop(mid, None)
        if request is None:
            return False
        if request.state is RequestState.SENT:
            request.state = RequestState.ACKNOWLEDGED
            if reason:
                self._refused(request, reason, now)
        while self._for_window and len(self.unacknowledged) < self.window:
            _, waiting = self._for_window.popitem(last=False)
            if waiting.state is RequestState.QUEUED:
                self._send(waiting, now)
        return True

    def _refused(self, request: PendingRequest, reason: int, now: float) -> None:
        if reason == NO_SUBSCRIBERS:
            self._nobody(request, now)
        elif reason == QUOTA_EXCEEDED:
            self._retry(request, error_of(InferenceCode.OVERLOADED, "the broker takes no more now (quota)"), now)
        elif reason >= REFUSED:
            text = f"the broker refuses the request to {request.target}, reason 0x{reason:02x}"
            self._fail(request, RequestCode.PUBLICATION_REFUSED, text)

    def _nobody(self, request: PendingRequest, now: float) -> None:
        """Nobody has subscribed to the topic, not even an agent that is away for a while."""
        if request.gathered is not None:
            self._finish(request, list(request.gathered.values()))
            return
        if request.probe and self._presences.online(request.device):
            text = f"{request.device} is there and does not take requests for metadata: its agent is an older one"
            self._fail(request, RequestCode.NO_METADATA, text)
            return
        if not request.device:
            text = f"no device takes requests to {request.target}"
            error = error_of(RequestCode.NO_POOL_MEMBER, text)
        else:
            error = self._presences.refusal(request.device, nobody=True)
        if request.wait or self._presences.online(request.device):
            self._retry(request, error, now)
        else:
            self._finish(request, error)

    # --- answers ------------------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> PendingRequest | None:
        """Whose answer has come; None, counted: nobody waits for it any more."""
        request = self._all.get(key)
        if request is None:
            self.counts["late"] += 1
        return request

    def answered(self, request: PendingRequest, outcome: Any, now: float) -> None:
        """An answer, or the error that came in its place."""
        if request.gathered is not None:
            if isinstance(outcome, DeviceError):
                return
            if outcome.device in request.gathered or len(request.gathered) < MAX_GATHERED:
                request.gathered[outcome.device] = outcome
            else:
                self.counts["late"] += 1
            return
        if isinstance(outcome, DeviceError) and outcome.code in RETRIED:
            self._retry(request, outcome, now)
            return
        if isinstance(outcome, DeviceError) and outcome.code == InferenceCode.UNKNOWN_MODEL:
            outcome = error_of(outcome.code, f"{request.target}: {outcome.message}", device=outcome.device)
        self._finish(request, outcome)

    # --- presence -----------------------------------------------------------------------------------------------------

    def presence(self, device: str, said: DevicePresence | None, now: float) -> None:
        """The device's presence document has come; None: there is none."""
        if not self._presences.learn(device, said):
            return
        for request in list(self._all.values()):
            if request.device == device and request.state is not RequestState.DONE:
                self._news(request, now)

    def _news(self, request: PendingRequest, now: float) -> None:
        """What is known of its device has changed."""
        if self._presences.offline(request.device):
            if not request.wait:
                self._finish(request, self._presences.refusal(request.device))
            return
        under_way = request.state is RequestState.SENT or request.state is RequestState.ACKNOWLEDGED
        may_again = request.wait and request.qos and request.retries != 0
        if under_way and may_again and self._presences.online(request.device):
            self._again(request)  # it was sent before the device went, and the broker may not have kept it
        if request.state is RequestState.QUEUED and self.open:
            self._send(request, now)
        elif request.state is RequestState.WAITING and request.wait:
            request.retry_at = now
            self.next_due = min(self.next_due, now)

    # --- time ---------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> None:
        """Sends again what is to be sent again, and ends what has had its time."""
        if now < self.next_due:
            return
        self.next_due = inf
        for request in list(self._all.values()):
            if now >= request.deadline or now >= request.answer_by:
                self._expire(request, now)
            elif now >= self._silent_at(request):
                self._finish(request, self._presences.refusal(request.device, nobody=True))
            elif request.state is RequestState.WAITING and now >= request.retry_at:
                request.state = RequestState.QUEUED
                self._send(request, now)
            if request.state is not RequestState.DONE:
                self.next_due = min(self.next_due, self._due_at(request))

    def _due_at(self, request: PendingRequest) -> float:
        retry = request.retry_at if request.state is RequestState.WAITING else inf
        return min(request.deadline, request.answer_by, retry, self._silent_at(request))

    def _silent_at(self, request: PendingRequest) -> float:
        """When a device that nobody has heard of counts as one that is not there."""
        sent = request.state is RequestState.SENT or request.state is RequestState.ACKNOWLEDGED
        if not sent or request.wait or not request.device or (request.qos and self._tells_of_nobody):
            return inf
        if not self._presences.absent(request.device):
            return inf
        return request.sent_at + SILENCE_SECONDS

    def _expire(self, request: PendingRequest, now: float) -> None:
        if request.gathered is not None and self.open:
            self._finish(request, list(request.gathered.values()))
            return
        after = f"after {min(now, request.deadline) - request.started:.3g} s"
        if request.last is not None:
            error = request.last
            tries = f"{request.attempts} {'try' if request.attempts == 1 else 'tries'}"
            text = f"{error.message}; given up {after} and {tries}"
            self._fail(request, error.code, text)
        elif not self.open:
            self._fail(
                request, RequestCode.NOT_CONNECTED, f"no connection to the broker ({self.away}); given up {after}"
            )
        elif request.device and self._presences.offline(request.device):
            self._finish(request, self._presences.refusal(request.device))
        elif request.state is RequestState.SENT:
            self._fail(request, RequestCode.NO_ANSWER, f"the broker has not acknowledged the request to "
                       f"{request.target}; given up {after}")  # fmt: skip
        elif request.state is RequestState.QUEUED:
            self._fail(request, RequestCode.NO_ANSWER, f"the request to {request.target} waited for earlier ones; "
                       f"given up {after}")  # fmt: skip
        else:
            self._fail(request, RequestCode.NO_ANSWER, f"no answer from {request.target}; given up {after}")

    # --- steps --------------------------------------------------------------------------------------------------------

    def _send(self, request: PendingRequest, now: float) -> None:
        """Sends it, or leaves it QUEUED until there is a connection, room, or news of its device."""
        if not self.open:
            return
        device = request.device
        if device and not self._presences.clear(device):
            if self._presences.offline(device):
                if not request.wait:
                    self._finish(request, self._presences.refusal(device))
                return
            if self._presences.ask(device):
                self._wire.watch(device)
            return
        if request.size > self.longest:
            text = f"the request has {request.size} bytes, the broker takes {self.longest}"
            self._fail(request, InferenceCode.TOO_LARGE, text)
            return
        if request.qos and len(self.unacknowledged) >= self.window:
            self._for_window[request.key] = request
            return
        self._for_window.pop(request.key, None)
        try:
            mid = self._wire.send(request, min(MAX_SECONDS, max(1, ceil(request.deadline - now))))
        except Exception as error:  # noqa: BLE001 - a fault with one request must not keep others from being sent
            _log.exception("a request to %s could not be sent", request.target)
            self._fail(
                request, InferenceCode.BAD_PAYLOAD, f"the request cannot be sent: {type(error).__name__}: {error}"
            )
            return
        request.sent_at = now
        request.attempts += 1
        if request.answer_within is not None:
            request.answer_by = now + min(request.answer_within, (request.deadline - now) / 2)
            self.next_due = min(self.next_due, request.answer_by)
        self.counts["sent"] += 1
        self.counts["bytes_sent"] += request.size
        if mid:
            request.state = RequestState.SENT
            self.unacknowledged[mid] = request
        else:
            request.state = RequestState.ACKNOWLEDGED
        if device and self._presences.absent(device):
            self.next_due = min(self.next_due, now + SILENCE_SECONDS)

    def _again(self, request: PendingRequest) -> None:
        """It is sent again as soon as that is possible."""
        request.state, request.answer_by = RequestState.QUEUED, inf
        self.counts["retries"] += 1
        if request.retries:
            request.retries -= 1

    def _retry(self, request: PendingRequest, error: DeviceError, now: float) -> None:
        """It was refused for now: again after a pause, or the end. At QoS 0 it is sent once."""
        if request.state is RequestState.WAITING:
            return  # the refusal of an earlier try, sent twice over a lost connection
        at = now + RETRY.delay(max(1, request.attempts), self._chance())
        if not request.qos or request.retries == 0:
            self._finish(request, error)
            return
        last = request.deadline - LAST_TRY_SECONDS
        if at > last:  # the last try has some time for its answer; after it the deadline is waited for
            at = last if now < last else inf
        request.last = error
        self._again(request)
        request.state, request.retry_at = RequestState.WAITING, at
        self.next_due = min(self.next_due, at)

    def _fail(self, request: PendingRequest, code: str, message: str) -> None:
        self._finish(request, error_of(code, message))

    def _finish(self, request: PendingRequest, outcome: Any) -> None:
        if request.state is RequestState.DONE:
            return
        if isinstance(outcome, DeviceError):
            outcome.device = outcome.device or request.device
            outcome.request_id = request.request_id
            self.errors[outcome.code] += 1
        else:
            self.counts["answered"] += 1
        request.outcome = outcome
        self._forget(request)
        try:
            request.done(request)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("telling of the end of a request to %s failed", request.target)

    def _forget(self, request: PendingRequest) -> None:
        request.state = RequestState.DONE
        self._for_window.pop(request.key, None)
        if self._all.pop(request.key, None) is not None:
            self.bytes -= request.size
