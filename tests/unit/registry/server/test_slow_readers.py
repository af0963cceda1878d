"""An answer that fits the server's own buffer is given up, too, when nobody takes it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from registry.config import Limits
from registry.server.connections import Connections
from registry.server.middleware.protocol import bounded_http
from registry.services.shares import ShareRefusals


class Transport(asyncio.Transport):
    """A socket whose reader has left so many bytes."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left
        self.closed = False
        self.aborted = asyncio.Event()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return self.left

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted.set()

    def resume_reading(self) -> None:
        """Nothing is read here."""


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("left", [0, 5000])
def test_what_is_left_of_an_answer_has_a_deadline(left: int, closed: bool) -> None:
    async def answer() -> bool:
        config = uvicorn.Config(lambda *_: None, log_config=None)  # type: ignore[arg-type, return-value]
        config.load()
        places = Connections(8, 1.0, (), ShareRefusals())
        protocol = bounded_http(Limits(send_timeout_s=0.01), places)(config, ServerState(), {})
        transport = Transport(left)
        protocol.connection_made(transport)
        transport.closed = closed
        protocol.on_response_complete()
        try:
            await asyncio.wait_for(transport.aborted.wait(), 20 if left else 0.1)
        except asyncio.TimeoutError:
            return False
        finally:
            protocol.connection_lost(None)
        return True

    assert asyncio.run(answer()) is (left > 0)
