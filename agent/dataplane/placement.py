"""Puts a request's tensors where its worker reads them: a fixed slot, or an arena, for which it may wait in a queue."""

from __future__ import annotations

from collections.abc import Sequence

from agent.dataplane.oip.plan import RequestPlan
from agent.dataplane.slot import Queued, Request, Serving
from agent.worker.arena import ArenaFullError, lay_arena
from registry.contracts.codes import InferenceCode
from registry.inference.errors import RequestError
from registry.inference.packets import Buffer


def reserve(serving: Serving, request: Request, plan: RequestPlan) -> None:
    """Gives the request a slot. Raises RequestError (`overloaded`)."""
    if not serving.take(request, fixed=plan.fixed):
        raise _overloaded(serving)
    request.plan = plan


def _overloaded(serving: Serving) -> RequestError:
    return RequestError(
        InferenceCode.OVERLOADED,
        f"{serving.in_flight()} requests of this model are in flight, and no more may wait; try again after a pause",
    )


def place(serving: Serving, request: Request, plan: RequestPlan, payload: Buffer, body: int) -> None:
    """Puts the request where its worker reads it, or into the queue for an arena. Raises RequestError."""
    if serving.must_queue(plan):
        request.plan = plan
        if not serving.queue(Queued(request, plan, bytes(payload), body)):
            raise _overloaded(serving)
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
    _fill(serving, *serving.queued.popleft())


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
