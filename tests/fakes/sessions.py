"""Sessions that implement agent.backends.base.BackendSession without a vendor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.backends.base import BackendError, TensorInfo

if TYPE_CHECKING:
    from agent.backends.base import Array


class FunctionSession:
    """Runs a Python function; remembers the batch sizes it was given."""

    provider = "Python"
    concurrent = True
    batch_sizes: tuple[int, ...] = ()

    def __init__(
        self,
        inputs: tuple[TensorInfo, ...],
        outputs: tuple[TensorInfo, ...],
        function: Callable[[dict[str, Array]], dict[str, Array]],
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._function = function
        self.batches: list[int] = []
        self.feeds: list[dict[str, Array]] = []

    def run(self, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
        first = next(iter(feeds.values()))
        self.batches.append(len(first) if first.ndim else 1)
        self.feeds.append(feeds)
        try:
            results = self._function(feeds)
        except ValueError as error:
            raise BackendError("run_failed", str(error)) from None
        return [results[name] for name in outputs]

    def close(self) -> None:
        """Nothing is held."""
