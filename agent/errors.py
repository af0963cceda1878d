"""What can go wrong in an agent, and whose turn it is: TransientError is tried again, PermanentError is reported."""

from __future__ import annotations


class AgentError(Exception):
    """Base. `code` is stable (see registry.contracts.codes); the message says what happened, why, what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class TransientError(AgentError):
    """May work when tried again later: a network, a busy registry, a full disk."""


class PermanentError(AgentError):
    """Will fail again with the same input: give up and report."""
