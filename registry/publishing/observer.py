"""What a publishing tells on its way, to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from registry.contracts.catalogue.manifest import Manifest
from registry.publishing.plan import Plan


class Observer:
    """Shows nothing. Override what is of interest. The methods are called in the thread that publishes."""

    def warn(self, text: str) -> None:
        """Something that may surprise later; the result has it, too."""

    def note(self, text: str) -> None:
        """An upload or a download was cut and goes on."""

    def finding(self, text: str) -> None:
        """What a variant showed when it was run here, or why it was not."""

    def inspected(self, plan: Plan, manifest: Manifest) -> None:
        """The files are read: this is what would be published, but for golden vectors and measurements."""

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """While `total` bytes are read, sent or fetched (`what`: `sending lenet.onnx`). Yields what is told the
        position in them, again and again; it may be lower than before, when something is sent again."""
        yield lambda _position: None
