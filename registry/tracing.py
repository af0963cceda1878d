"""Traces over both programs (OpenTelemetry): off unless `set_up` was called, and then nothing of it is imported.

The context of a trace travels as `traceparent` (W3C Trace Context): in the header of HTTP requests, and as user
property of MQTT messages, as the W3C's draft for MQTT says. Where spans go, and which traces are kept, the standard
variables say: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES and others.

Every function may be called while traces are off; it then looks at one variable. Spans are sent by a thread of
OpenTelemetry, from a bounded queue; spans that find it full are dropped there.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from registry.installation import install_command
from registry.log_format import also_known

PROPERTY = "traceparent"
"""Of HTTP and MQTT."""
MAX_TRACEPARENT = 128
"""Characters of one; a longer one is none."""
MAX_DOCUMENTS = 4096
"""Documents whose trace is remembered until they are published."""
FLUSH_S = 2.0
"""At the end of the process, for spans that were not sent yet: a collector that is away holds nobody up."""
T = TypeVar("T")
Attributes = Mapping[str, "str | int | float | bool"]


class TracingError(Exception):
    """Traces are wanted, and their packages are not installed."""


class _State:
    tracer: Any = None
    """An `opentelemetry.trace.Tracer`; None: off."""
    provider: Any = None
    propagator: Any = None
    unsent = 0
    """Spans that the collector did not take."""


_documents: OrderedDict[str, tuple[int, str]] = OrderedDict()
_lock = threading.Lock()


def set_up(service: str, version: str, attributes: Attributes | None = None) -> None:
    """Traces from now on, until the process ends.

    Args:
        service: `service.name` where OTEL_SERVICE_NAME says no other.
        version: Of that service.
        attributes: More of the resource.

    Raises:
        TracingError: the packages of the extra `otel` are missing.
    """
    try:
        from opentelemetry import trace  # noqa: PLC0415 - not before somebody wants it
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
    except ImportError as error:
        raise TracingError(
            f"Traces need packages that are not here ({error.name}): {install_command('otel')}. Or set tracing = false."
        ) from error

    class CountingExporter(OTLPSpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            result = super().export(spans)
            if result is not SpanExportResult.SUCCESS:
                _State.unsent += len(spans)
            return result

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    resource = Resource.create({**named, "service.version": version, **(attributes or {})})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # see `shut_down`
    provider.add_span_processor(BatchSpanProcessor(CountingExporter()))
    trace.set_tracer_provider(provider)
    _State.provider, _State.propagator = provider, TraceContextTextMapPropagator()
    _State.tracer = provider.get_tracer("modelfleet", version)
    also_known(_ids)


def shut_down() -> bool:
    """Sends what was not sent yet, for a short time. False: some spans were not taken."""
    if _State.provider is None:
        return True
    thread = threading.Thread(target=_State.provider.shutdown, name="traces", daemon=True)
    thread.start()
    thread.join(FLUSH_S)
    return not thread.is_alive() and not _State.unsent


def is_on() -> bool:
    """Was it set up?"""
    return _State.tracer is not None


def _ids() -> dict[str, str]:
    """For log lines."""
    from opentelemetry import trace  # noqa: PLC0415 - it is set up

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace": trace.format_trace_id(context.trace_id), "span": trace.format_span_id(context.span_id)}


def headers() -> dict[str, str]:
    """What names the current span to somebody else: `traceparent` and `tracestate`; empty: there is none."""
    carrier: dict[str, str] = {}
    if _State.tracer is not None:
        _State.propagator.inject(carrier)
    return carrier


def traceparent() -> str:
    """Of the current span, when it is recorded; else empty."""
    return headers().get(PROPERTY, "") if _State.tracer is not None else ""


def _parent(carrier: Mapping[str, str]) -> Any:
    """The context of a remote parent; without one that of the current span."""
    if not carrier.get(PROPERTY) or len(carrier[PROPERTY]) > MAX_TRACEPARENT:
        return None
    return _State.propagator.extract(carrier)


@contextmanager
def span(
    name: str, kind: str = "INTERNAL", parent: Mapping[str, str] | str = "", attributes: Attributes | None = None
) -> Iterator[Any]:
    """Work within a span, which is the current one meanwhile. An exception is its error.

    Args:
        name: What is done, with few values.
        kind: Of `opentelemetry.trace.SpanKind`.
        parent: A `traceparent`, or headers that may have one; without one the current span.
        attributes: Empty ones are left out.

    Yields:
        The span; None while traces are off.
    """
    if _State.tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - it is set up

    carrier = {PROPERTY: parent} if isinstance(parent, str) else parent
    named = {key: value for key, value in (attributes or {}).items() if value != ""}
    with _State.tracer.start_as_current_span(
        name, context=_parent(carrier), kind=SpanKind[kind], attributes=named
    ) as current:
        yield current


def within(name: str, parent: str, work: Callable[[], T], attributes: Attributes) -> T:
    """The work's result, done within a span."""
    with span(name, "CONSUMER", parent, attributes):
        return work()


def has_failed(current: Any, why: str) -> None:
    """The span ended in an error that no exception tells."""
    if current is not None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - there is a span

        current.set_status(Status(StatusCode.ERROR, why))


class Recorder:
    """Writes down spans of requests that came with a `traceparent`, after they ended. Only where traces are on."""

    def __init__(self) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - it is set up

        self._trace = trace

    def request(
        self, traceparent: str, name: str, *, seconds: float, run_s: float, attributes: Attributes, error: str = ""
    ) -> None:
        """A request that ends now and took so many seconds, and within it its run in the worker, at its end."""
        parent = _parent({PROPERTY: traceparent})
        if parent is None or not self._trace.get_current_span(parent).get_span_context().trace_flags.sampled:
            return
        trace, end = self._trace, time.time_ns()
        start = end - int(seconds * 1e9)
        whole = _State.tracer.start_span(
            name, context=parent, kind=trace.SpanKind.SERVER, start_time=start, attributes=dict(attributes)
        )
        if error:
            whole.set_attribute("error.type", error)
            whole.set_status(trace.Status(trace.StatusCode.ERROR, error))
        if run_s > 0:
            inside = trace.set_span_in_context(whole, parent)
            run = _State.tracer.start_span("run", context=inside, start_time=max(start, end - int(run_s * 1e9)))
            run.end(end)
        whole.end(end)


def remember(document: str, generation: int) -> None:
    """The current trace led to this generation of a document: who publishes it says so."""
    if _State.tracer is None:
        return
    parent = traceparent()
    with _lock:
        _documents.pop(document, None)
        if parent:
            _documents[document] = (generation, parent)
            if len(_documents) > MAX_DOCUMENTS:
                _documents.popitem(last=False)


def recalled(document: str, generation: int) -> str:
    """The `traceparent` that led to this generation; empty: none is known."""
    if _State.tracer is None:
        return ""
    with _lock:
        known, parent = _documents.get(document, (0, ""))
    return parent if known == generation else ""
