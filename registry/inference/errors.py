"""Why an inference request or its reply is refused, for both ends: a stable code and a message that may be shown."""

from __future__ import annotations

from ..contracts.codes import InferenceCode

MAX_MESSAGE = 500
"""Characters of an error message; client text in it is cut far before."""
MAX_QUOTE = 64


class RequestError(Exception):
    """A request is refused. `code` is an InferenceCode; the message says what was expected and what came.

    The last three say where and how to answer a request whose header could be read.
    """

    def __init__(self, code: InferenceCode, message: str) -> None:
        self.code = code
        self.message = message[:MAX_MESSAGE]
        super().__init__(self.message)
        self.id = ""
        self.response_topic = ""
        self.correlation_id = ""


def quote(text: object) -> str:
    """What the other side sent, safe to stand in a message: `repr`, cut to MAX_QUOTE characters."""
    if isinstance(text, str) and len(text) > MAX_QUOTE:
        return repr(text[:MAX_QUOTE]) + "…"
    shown = repr(text)
    return shown if len(shown) <= 2 * MAX_QUOTE else shown[: 2 * MAX_QUOTE] + "…"
