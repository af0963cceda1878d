"""What a publishing tells on its way, to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from registry.client.retries import ignore
from registry.contracts.catalogue.manifest import Manifest
from registry.inspection.facts import ModelFacts


@dataclass(frozen=True)
class Observer:
    """Who is told of what; nothing is shown where nobody is named. The thread that publishes calls them."""

    warn: Callable[[str], None] = ignore
    """Something that may surprise later; the result has it, too."""
    note: Callable[[str], None] = ignore
    """An upload or a download was cut and goes on."""
    finding: Callable[[str], None] = ignore
    """What a variant showed when it was run here, or why it was not."""
    inspected: Callable[[Manifest, Sequence[ModelFacts]], None] = ignore
    """The files are read: what would be published, but for golden vectors and measurements; facts of each variant."""
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] = lambda _what, _total: nullcontext(
        ignore
    )
    """Entered while so many bytes are read, sent or fetched: `sending lenet.onnx`, 246000. It gives what is told the
    position in them, again and again; the position may fall, when something is sent again."""
