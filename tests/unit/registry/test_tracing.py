"""While traces are off nothing of OpenTelemetry is imported and nothing is carried; without its packages it is said."""

from __future__ import annotations

import subprocess
import sys

import pytest

from registry import tracing


def test_while_traces_are_off_nothing_is_imported_or_carried() -> None:
    code = """
import sys
import agent.app.agent, agent.app.metrics, registry.client.devices, registry.cli.main, registry.server.run
from registry import tracing
with tracing.span("work", "SERVER", {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}) as span:
    assert span is None and tracing.headers() == {} and tracing.traceparent() == ""
tracing.remember("edge-1", 3)
assert tracing.recalled("edge-1", 3) == ""
tracing.shut_down()
print([name for name in sys.modules if name.startswith("opentelemetry.sdk") or "otlp" in name])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == "[]"


def test_without_the_packages_of_the_extra_the_error_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(tracing.TracingError, match=r"install .*otel.*tracing = false"):
        tracing.set_up("service", "1")
    assert not tracing.is_on()
