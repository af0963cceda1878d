"""`registry ask` against a broker that takes the connection and says nothing."""

from __future__ import annotations

import json
import socket
import time

from typer.testing import CliRunner

from registry.cli.main import app
from registry.cli.output import ExitCode


def test_the_time_out_bounds_the_connection_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        arguments = ["ask", "edge-1", "lenet", "--request", "-", "--timeout", "0.3", "--broker", broker]
        began = time.monotonic()
        done = CliRunner().invoke(app, arguments, input=json.dumps({"x": [1]}))
    assert (done.exit_code, time.monotonic() - began < 10.0) == (ExitCode.UNREACHABLE, True)
    assert "accepted the connection and did not answer within 0.3 s" in done.stderr
