"""May requests that come at the same time be joined into one run of a variant? What the manifest says of it.

Requests are joined only where it is known that the items of one run do not influence each other. What is not said, or
not understood, means one request at a time: that is slower, and never wrong.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from registry.contracts.enums import StrEnum, as_said, newer
from registry.contracts.wire import Wire

MAX_JOINED = 1024
"""Requests in one run, at the most that anybody may declare."""


class Basis(StrEnum):
    """Who says so."""

    GRAPH = "graph"
    """The publisher's program followed the batch axis through every operator of the file."""
    PUBLISHER = "publisher"
    """The publisher declared it."""


class Batching(Wire):
    """Whether the items along the first axis of every input and output are independent of each other."""

    independent: bool = False
    """False: one request at a time."""
    basis: Annotated[Basis, BeforeValidator(as_said(Basis))] = Basis.GRAPH
    """To a reader that does not know the value, `independent` counts as False."""
    axis: Annotated[int, Field(ge=0, le=15)] = 0
    """Of the items. Agents join along the first axis only; another one means one request at a time."""
    max_size: Annotated[int, Field(ge=1, le=MAX_JOINED)] | None = None
    """Most requests in one run; None: as many as the agent finds to help."""
    why: Annotated[str, Field(max_length=512)] = ""
    """Where `independent` is False by the graph: the node that may let items influence each other, and how."""

    @model_validator(mode="after")
    def _size_goes_with_independence(self) -> Batching:
        if self.max_size is not None and not self.independent:
            raise ValueError("batching: a largest size is for items that are independent")
        return self

    @property
    def allows(self) -> bool:
        """Does this permit joining, as far as this reader understands it?"""
        return self.independent and self.axis == 0 and self.basis in tuple(Basis)


class BatchingMode(StrEnum):
    """What a deployment asks of batching. It can only take away: nobody may claim more than the manifest says."""

    AUTO = "auto"
    """Joined where the manifest permits it and it helps."""
    OFF = "off"
    """One request at a time."""


ReadMode = Annotated[BatchingMode, BeforeValidator(newer(BatchingMode, BatchingMode.OFF))]
"""To an older reader a mode that it does not know is `off`."""


def batching_text(batching: Batching | None) -> str:
    """What a manifest says, in one line for people."""
    if batching is None:
        return "one request at a time: the manifest does not say that requests may be joined"
    by = "declared by the publisher" if batching.basis is Basis.PUBLISHER else "proven from the graph"
    if batching.allows:
        most = f", at most {batching.max_size}" if batching.max_size is not None else ""
        return f"requests may be joined{most}: {by} that items are independent"
    if batching.independent:
        return "one request at a time: the manifest permits joining in a way that this program does not know"
    if batching.basis is Basis.PUBLISHER:
        return "one request at a time: declared by the publisher"
    return f"one request at a time: {batching.why or 'the graph does not prove that items are independent'}"
