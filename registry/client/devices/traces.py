"""A span for each request, in the application's own OpenTelemetry; only for clients made with `tracing=True`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...inference.packets import text
from .errors import DeviceError
from .requests import PendingRequest

PROPERTY = "traceparent"
"""Of the W3C's draft for MQTT: a user property."""


class RequestTracer:
    """Uses the tracer provider that the application has set up (`opentelemetry.trace.set_tracer_provider`)."""

    def __init__(self) -> None:
        """Raises ImportError: the package opentelemetry-api is not installed."""
        from opentelemetry import trace  # noqa: PLC0415 - only where it is wanted
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415

        self._trace = trace
        self._propagator = tracecontext.TraceContextTextMapPropagator()

    def begin(
        self, model: str, device: str, request_id: str, done: Callable[[PendingRequest], None]
    ) -> tuple[bytes, Callable[[PendingRequest], None]]:
        """Begins a span below the current one.

        Returns:
            The user property that names it, and what is to be called in place of `done` when the request has ended.
        """
        attributes = {
            "messaging.system": "mqtt",
            "modelfleet.model": model,
            "modelfleet.device": device,
            "modelfleet.request_id": request_id,
        }
        tracer = self._trace.get_tracer("modelfleet.client")
        span = tracer.start_span(f"infer {model}", kind=self._trace.SpanKind.CLIENT, attributes=attributes)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span))

        def ended(request: PendingRequest) -> None:
            if isinstance(request.outcome, DeviceError):
                self._failed(span, str(request.outcome.code))
            span.end()
            done(request)

        named = carrier.get(PROPERTY, "")
        return b"\x26" + text(PROPERTY.encode()) + text(named.encode()) if named else b"", ended

    def _failed(self, span: Any, code: str) -> None:
        span.set_attribute("error.type", code)
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, code))
