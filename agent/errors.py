"""What can go wrong in an agent, and whose turn it is: TransientError is tried again, PermanentError is reported."""

from __future__ import annotations


class AgentError(Exception):
    """Base. `code` is stable (see registry.contracts.codes); the message says what happened, why, what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class TransientError(AgentError):
    """May work when tried again later: a network, a busy registry, a full disk.

    `retry_after_s`: not before then, as the other side says. `progress`: the try brought something that the next one
    needs not bring again.
    """

    def __init__(self, code: str, message: str, *, retry_after_s: float = 0.0, progress: bool = False) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s
        self.progress = progress


class PermanentError(AgentError):
    """Will fail again with the same input: give up and report."""


class StepCancelledError(Exception):
    """The desired state changed: the result of this step is not needed any more."""
