"""The variants of one version on this machine: which of them run here, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from registry.contracts.catalogue.manifest import Variant
from registry.running.process import CannotRunError, ModelProcess
from registry.running.runtimes import order_for


class LocalVariants:
    """Starts a variant when it is asked for, at most once; what was started ends with the stack.

    Args:
        variants: In the order in which one that runs is looked for.
        locate: The model file of a variant; it may be fetched then. Asked only for what may run here.
        stack: Ends the processes.
        limits: Deadlines, as `ModelProcess` takes them.
    """

    def __init__(
        self, variants: Sequence[Variant], locate: Callable[[Variant], Path], stack: ExitStack, **limits: float
    ) -> None:
        self._variants = {variant.name: variant for variant in variants}
        self._locate, self._stack, self._limits = locate, stack, limits
        self._started: dict[str, ModelProcess | str] = {}

    def process(self, name: str) -> ModelProcess | str:
        """The running variant; or why it does not run here, in words that can follow `not measured here: `."""
        if name not in self._started:
            self._started[name] = self._start(self._variants[name])
        return self._started[name]

    def first(self) -> tuple[str, ModelProcess] | None:
        """The first that runs here; None: `reasons` has why none does."""
        for name in self._variants:
            process = self.process(name)
            if not isinstance(process, str):
                return name, process
        return None

    def reasons(self) -> tuple[str, ...]:
        """Of those that were asked for: `name: why it does not run here`."""
        return tuple(f"{name}: {why}" for name, why in self._started.items() if isinstance(why, str))

    def _start(self, variant: Variant) -> ModelProcess | str:
        order = order_for(Path(variant.entry), variant.format, variant.target, variant.inputs, variant.outputs)
        if isinstance(order, str):
            return order
        try:
            return self._stack.enter_context(ModelProcess(replace(order, file=self._locate(variant)), **self._limits))
        except CannotRunError as error:
            return error.message
