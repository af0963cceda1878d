"""One model's place on this device: the worker that serves, those that drain, and the requests that each holds.

A request's tensors lie where its worker reads them: in a fixed slot, or in an arena, for which it may wait in a queue.

INVARIANT: a slot id is either free or belongs to exactly one request of `Serving.requests`; a worker that names any
other id, or closes a doorbell, is done with. Only the data thread is in here; a swap happens between two of its turns.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

import msgspec

from agent.core.joining import share_out
from agent.core.probation import Tally
from agent.dataplane.mqtt.outbound import Ack
from agent.dataplane.oip.codec import Codec
from agent.dataplane.oip.plan import Binding, RequestPlan
from agent.dataplane.stats import ModelSnapshot, ModelStats
from agent.worker.channel import ArenaFullError, lay_arena
from agent.worker.spec import Worker
from registry.contracts.codes import InferenceCode
from registry.inference.errors import RequestError
from registry.inference.packets import Buffer

DOORBELL_BYTES = 64 << 10
WAITING_BYTES = 64 << 20
"""Of the requests of one model that wait in the agent, together; a single longer one may wait alone."""


class Tap(Protocol):
    """Looks on while a model answers: `agent.dataplane.shadow.Shadow`."""

    def before(self, serving: Serving, ids: Sequence[int]) -> None:
        """These slots are about to run."""

    def after(self, serving: Serving, ids: Sequence[int], run_s: float) -> None:
        """These slots are done, after a run of so many seconds, and not yet released."""


class Request(msgspec.Struct, gc=False):
    """A request on its way through this agent."""

    slot: ModelSlot
    reply_to: bytes
    """Response topic with its u16 length; empty: the results topic."""
    correlation: bytes
    """The whole correlation data property; empty: none."""
    ack: Ack | None
    """Not None: it came with QoS 1."""
    arrived: float
    deadline: float
    """Monotonic seconds; infinity: none."""
    serving: Serving | None = None
    plan: RequestPlan | None = None
    id: int = -1
    """Its slot id in `serving`; -1 while it has none."""
    key: object = None
    """Under which its reply is remembered; None: not at all."""
    asked: str = ""
    """The model that its topic names, where no model of that name is assigned."""
    trace: bytes = b""
    """Its `traceparent`, where traces are on and it came with one."""
    handed: float = 0.0
    """When it was given to a runner, where it has a trace."""


class Lane:
    """One runner of a worker, at the other end of a doorbell."""

    __slots__ = ("held", "progress", "serving", "socket", "tail", "unsent")

    def __init__(self, serving: Serving, doorbell: socket.socket) -> None:
        self.serving = serving
        self.socket = doorbell
        self.held: set[int] = set()
        """Slot ids that the runner has."""
        self.progress = 0.0
        """When it last answered, or got work after it had none."""
        self.unsent = b""
        """Ids that the doorbell did not take."""
        self.tail = b""
        """The first bytes of an id that has not all come."""

    def ring(self, ids: Sequence[int], now: float) -> None:
        """Hands slots to the runner. Raises OSError when it is gone."""
        if not self.held:
            self.progress = now
        self.held.update(ids)
        self.unsent += b"".join([id_.to_bytes(4, "little") for id_ in ids])
        self.push()

    def push(self) -> None:
        """Sends what the doorbell did not take before. Raises OSError."""
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def answers(self) -> list[int] | None:
        """The slots that are done; None when the worker is gone or names a slot that it does not have."""
        try:
            data = self.socket.recv(DOORBELL_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        if self.tail or len(data) & 3:
            data = self.tail + data
            cut = len(data) & ~3
            data, self.tail = data[:cut], data[cut:]
        ids = memoryview(data).cast("I").tolist()
        held = self.held
        count = len(held)
        held.difference_update(ids)
        return ids if count - len(held) == len(ids) else None


class Queued(NamedTuple):
    """A request of free size that waits in the agent for an arena."""

    request: Request
    plan: RequestPlan
    payload: bytes
    """Empty when the plan has the tensors' bytes."""
    body: int
    """Where the plan's body begins in the payload."""
    size: int
    """Bytes that it holds: of the payload, and of the tensors that the plan has."""


class Serving:
    """A worker with its codec and the requests that it holds."""

    def __init__(self, slot: ModelSlot, worker: Worker, binding: Binding, tally: Tally) -> None:
        layout = worker.layout
        self.slot = slot
        self.worker = worker
        self.tally = tally
        self.binding = binding
        self.codec = Codec(binding, layout)
        self.other_form = False
        """An answer had no room in a fixed slot: such requests only wait there, and run in arenas."""
        self.to_move: deque[int] = deque()
        """Fixed slots whose requests wait for an arena, oldest first."""
        self.layout = layout
        self.memory = worker.memory
        self.statuses = layout.statuses(worker.memory)
        self.inputs = [(tensor.offset, tensor.item_bytes) for tensor in layout.inputs]
        self.outputs = [(tensor.offset, tensor.item_bytes) for tensor in layout.outputs]
        self.max_batch = max(1, worker.max_batch)
        self.free_slots = deque(range(layout.slots))
        self.free_arenas = deque(range(layout.slots, layout.ids))
        self.requests: list[Request | None] = [None] * layout.ids
        self.waiting: deque[int] = deque()
        """Slot ids that are filled and not yet with a runner, oldest first."""
        self.queued: deque[Queued] = deque()
        """Requests that wait for an arena, oldest first."""
        self.lanes = [Lane(self, doorbell) for doorbell in worker.lanes]
        self.run_timeout_s = worker.spec.run_timeout_s
        self.drained: Future[Worker | None] | None = None
        """Set when another took its place: fulfilled with the worker once it holds no request."""
        self.dead = False
        """Lost, or drained: it takes nothing any more."""
        self.decoding = 0
        """Requests in the decode pool, which have no slot yet."""
        self.waiting_bytes = 0
        """Of the requests in `queued` and in the decode pool."""
        self.wait_limit = worker.spec.slots
        """So many may wait for an arena or to be decoded, beside those for which an arena is free."""

    @property
    def queue_limit(self) -> int:
        """Requests of one item that it can hold; of any form when it has no fixed slots."""
        return self.layout.slots or self.layout.arenas + self.wait_limit

    def rebind(self, binding: Binding) -> None:
        """The same worker under another rollout or other options: from the next request on."""
        self.binding = binding
        self.codec = Codec(binding, self.layout)

    def take(self, request: Request, *, fixed: bool) -> bool:
        """Gives the request a slot. False: none is free."""
        free = self.free_slots if fixed else self.free_arenas
        if not free:
            return False
        # Of the arenas the one that was used last: what it once held stays in memory.
        request.id = free.popleft() if fixed else free.pop()
        request.serving = self
        self.requests[request.id] = request
        return True

    def release(self, id_: int) -> None:
        """The slot's request is answered or gone."""
        self.requests[id_] = None
        (self.free_slots if id_ < self.layout.slots else self.free_arenas).append(id_)

    def check_room(self, size: int) -> None:
        """Raises RequestError (`overloaded`) when a request of `size` bytes may not wait for an arena or a decoder."""
        count = len(self.queued) + self.decoding
        if count >= self.wait_limit + len(self.free_arenas):
            raise _overloaded(f"{count} requests of this model wait, the most that may")
        if count and self.waiting_bytes + size > WAITING_BYTES:
            raise _overloaded(
                f"{count} requests of this model with {self.waiting_bytes} bytes wait, and with the {size} of this one "
                f"they would be over the limit of {WAITING_BYTES}"
            )

    def queue(self, queued: Queued) -> None:
        """Lets the request wait for an arena. Raises RequestError (`overloaded`)."""
        self.check_room(queued.size)
        self.queued.append(queued)
        self.waiting_bytes += queued.size

    def unqueue(self) -> Queued:
        """Takes the request out that has waited longest for an arena; there must be one."""
        queued = self.queued.popleft()
        self.waiting_bytes -= queued.size
        return queued

    def expire_queued(self, now: float) -> list[Request]:
        """Takes those out of the queue whose deadline has passed."""
        late = [each for each in self.queued if each.request.deadline <= now]
        if late:
            self.queued = deque(each for each in self.queued if each.request.deadline > now)
            self.waiting_bytes -= sum(each.size for each in late)
        return [each.request for each in late]

    def begin_decoding(self, size: int, *, fixed: bool = False) -> None:
        """A request that holds `size` bytes goes to the decode pool. Raises RequestError (`overloaded`).

        `fixed`: it needs a fixed slot when it is decoded.
        """
        if fixed and self.decoding >= len(self.free_slots):
            raise _no_slot(self)
        self.check_room(size)
        self.decoding += 1
        self.waiting_bytes += size

    def end_decoding(self, size: int) -> None:
        """It has left the decode pool."""
        self.decoding -= 1
        self.waiting_bytes -= size

    def must_queue(self, plan: RequestPlan) -> bool:
        """The request needs an arena, and none is free or others wait for one."""
        return not plan.fixed and (bool(self.queued) or not self.free_arenas)

    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        taken = self.layout.ids - len(self.free_slots) - len(self.free_arenas)
        return taken + len(self.queued) + self.decoding

    def share(self) -> list[tuple[Lane, list[int]]]:
        """Takes from the waiting what the lanes should get now."""
        waiting = self.waiting
        shares = share_out(len(waiting), [len(lane.held) for lane in self.lanes], self.max_batch)
        return [(self.lanes[index], [waiting.popleft() for _ in range(count)]) for index, count in shares]

    def overdue(self, now: float) -> bool:
        """True: a runner has held work for longer than a run may take."""
        return any(lane.held and now - lane.progress > self.run_timeout_s for lane in self.lanes)


class ModelSlot:
    """A model that is assigned to this device, whether something serves it now or not."""

    def __init__(self, model: str, results_topic: bytes) -> None:
        self.model = model
        self.results_topic = results_topic
        """With its u16 length."""
        self.active: Serving | None = None
        self.draining: list[Serving] = []
        self.tap: Tap | None = None
        """Looks on at what the active one answers."""
        self.stats = ModelStats()

    def servings(self) -> list[Serving]:
        """The active one and those that drain."""
        return [*([self.active] if self.active is not None else []), *self.draining]

    def snapshot(self) -> ModelSnapshot:
        """What it counts, and how it is now."""
        active, depth = self.active, sum(serving.in_flight() for serving in self.servings())
        if active is None:
            return self.stats.snapshot(version=None, queue_depth=depth)
        return self.stats.snapshot(
            version=active.binding.version,
            rollout=active.binding.rollout,
            queue_depth=depth,
            queue_limit=active.queue_limit,
            batching=active.worker.batching,
            target=active.binding.target,
        )

    def swap(self, worker: Worker | None, binding: Binding | None, tally: Tally | None = None) -> Future[Worker | None]:
        """Lets `worker` (None: nothing) take new requests from now on.

        `tally` counts what it does. The future is fulfilled with the worker that served before, once it has answered
        what it held; with None when there was none.
        """
        new = Serving(self, worker, binding, tally or Tally()) if worker is not None and binding is not None else None
        if binding is not None:
            self.stats.version = binding.version
        old, self.active = self.active, new
        done: Future[Worker | None] = Future()
        if old is None:
            done.set_result(None)
        else:
            old.drained = done
            self.draining.append(old)
        return done

    def drop(self, serving: Serving) -> None:
        """Forgets a worker that is dead or drained, and hands it back if somebody waits for it."""
        if self.active is serving:
            self.active = None
        if serving in self.draining:
            self.draining.remove(serving)
        if serving.drained is not None and not serving.drained.done():
            serving.drained.set_result(serving.worker)


def reserve(serving: Serving, request: Request, plan: RequestPlan) -> None:
    """Gives the request a slot. Raises RequestError (`overloaded`)."""
    if not serving.take(request, fixed=plan.fixed):
        raise _no_slot(serving)
    request.plan = plan


def _no_slot(serving: Serving) -> RequestError:
    return _overloaded(f"the {serving.layout.slots} places of this model for requests of one item are taken")


def _overloaded(why: str) -> RequestError:
    return RequestError(InferenceCode.OVERLOADED, f"{why}; try again after a pause")


def place(serving: Serving, request: Request, plan: RequestPlan, payload: Buffer, body: int) -> None:
    """Puts the request where its worker reads it, or into the queue for an arena. Raises RequestError."""
    if serving.must_queue(plan):
        request.plan = plan
        kept = bytes(payload) if plan.body_bytes else b""
        held = len(kept) + sum(len(tensor.data) for tensor in plan.tensors if tensor.data is not None)
        serving.queue(Queued(request, plan, kept, body if kept else 0, held))
        return
    _fill(serving, request, plan, payload, body)


def _fill(serving: Serving, request: Request, plan: RequestPlan, payload: Buffer, body: int) -> None:
    reserve(serving, request, plan)
    try:
        if plan.fixed:
            copy_fixed(serving, request, plan, payload, body)
        else:
            view = memoryview(payload)
            for offset, target in places(serving, request, plan):
                target[:] = view[body + offset : body + offset + len(target)]
    except RequestError:
        serving.release(request.id)
        raise
    enqueue(serving, request, plan)


def copy_fixed(serving: Serving, request: Request, plan: RequestPlan, payload: Buffer, body: int) -> None:
    """Copies the body, which begins at `body` in `payload`, into the request's fixed slot."""
    memory, id_ = serving.memory, request.id
    if plan.copies:
        view = memoryview(payload)
        for index, offset, size in plan.copies:
            base, item = serving.inputs[index]
            start = base + id_ * item
            memory[start : start + size] = view[body + offset : body + offset + size]
    for index, literal in plan.literals:
        base, item = serving.inputs[index]
        memory[base + id_ * item : base + id_ * item + len(literal)] = literal


def places(serving: Serving, request: Request, plan: RequestPlan) -> list[tuple[int, memoryview]]:
    """(offset in the body, where it belongs) of every tensor whose bytes are in the body; literals are written.

    Raises RequestError (`too_large`) when the tensors do not fit the arena.
    """
    memory, id_ = serving.memory, request.id
    if plan.fixed:
        copy_fixed(serving, request, RequestPlan((), 0, (), literals=plan.literals), b"", 0)
        return [
            (offset, memory[base + id_ * item : base + id_ * item + size])
            for index, offset, size in plan.copies
            for base, item in (serving.inputs[index],)
        ]
    view = serving.layout.arena_view(memory, id_)
    tensors = [(tensor.name, str(tensor.datatype), tensor.shape, tensor.size) for tensor in plan.tensors]
    try:
        offsets = lay_arena(view, tensors, plan.run_outputs)
    except ArenaFullError as error:
        raise RequestError(
            InferenceCode.TOO_LARGE, f"the request is too large for this model's worker: {error}"
        ) from None
    found = []
    for tensor, start in zip(plan.tensors, offsets, strict=True):
        place = view[start : start + tensor.size]
        if tensor.data is None:
            found.append((tensor.offset, place))
        else:
            place[:] = tensor.data
    return found


def enqueue(serving: Serving, request: Request, plan: RequestPlan) -> None:
    """The request's tensors are in its slot: it waits for a runner."""
    if plan.fixed and serving.other_form:
        serving.to_move.append(request.id)
        move_to_arenas(serving)
    else:
        serving.waiting.append(request.id)


def place_next(serving: Serving) -> None:
    """The request that has waited longest for an arena takes a free one; there must be both. Raises RequestError."""
    queued = serving.unqueue()
    _fill(serving, queued.request, queued.plan, queued.payload, queued.body)


def move_to_arenas(serving: Serving) -> None:
    """Requests whose answers have no room in their fixed slots run in arenas, as those get free."""
    while serving.to_move and serving.free_arenas:
        id_ = serving.to_move.popleft()
        request = serving.requests[id_]
        if request is None or request.plan is None:
            continue
        plan = request.plan.in_arena()
        sources = [serving.inputs[tensor.place] for tensor in plan.tensors]
        serving.take(request, fixed=False)
        try:
            view = serving.layout.arena_view(serving.memory, request.id)
            tensors = [(tensor.name, str(tensor.datatype), tensor.shape, tensor.size) for tensor in plan.tensors]
            for start, tensor, (base, item) in zip(
                lay_arena(view, tensors, plan.run_outputs), plan.tensors, sources, strict=True
            ):
                at = base + id_ * item
                view[start : start + tensor.size] = serving.memory[at : at + tensor.size]
        finally:
            serving.requests[id_] = None
            serving.free_slots.append(id_)
        request.plan = plan
        serving.waiting.append(request.id)


def in_order(found: Sequence[tuple[int, memoryview]], size: int) -> list[memoryview] | None:
    """The places in the order of the body, when they take up all of its `size` bytes without a gap; else None."""
    ordered = sorted((offset, index) for index, (offset, place) in enumerate(found) if len(place))
    position = 0
    for offset, index in ordered:
        if offset != position:
            return None
        position += len(found[index][1])
    return [found[index][1] for _, index in ordered] if position == size else None
