"""Requests as an existing client encoded them are understood, and replies stay as that client read them.

The file was recorded with the client named in its `source`; it is never edited.
"""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.dataplane.oip_models import echo, input_bytes, make_codec, spec

EXCHANGES = json.loads((Path(__file__).parent / "golden" / "v1" / "oip-exchanges.json").read_bytes())["cases"]


@pytest.mark.parametrize("case", EXCHANGES, ids=lambda case: case["name"])
def test_what_an_existing_client_sends_and_reads(case: dict[str, Any]) -> None:
    for shape in (case["shape"], [-1] * len(case["shape"])):
        codec = make_codec([spec("x", case["datatype"], *shape)], [spec("y", case["datatype"], *shape)])
        payload = b64decode(case["payload"])
        plan, start = codec.decode(payload, "", case["header_length"])
        assert input_bytes(plan, payload[start:]) == [b64decode(case["tensor"])]
        reply = echo(codec, payload, case["header_length"])
        assert (reply.join(), reply.header_length) == (b64decode(case["reply"]), case["reply_header_length"])
