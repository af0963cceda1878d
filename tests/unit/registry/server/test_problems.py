"""Errors inside are told to the log, never to the client."""

from __future__ import annotations

import asyncio
import json
import logging
import re

import pytest
from starlette.types import Message, Receive, Scope, Send

import registry.errors
from registry.contracts.api.answers import STATUS_OF_CODE
from registry.errors import RegistryError
from registry.server.middleware.problems import UnexpectedErrors, problem_response

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": []}


async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ZeroDivisionError("the secret is 42")


def test_what_nobody_expected_is_a_500_with_an_id_that_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with caplog.at_level(logging.ERROR):
        asyncio.run(UnexpectedErrors(broken)(SCOPE, receive, send))
    assert sent[0]["status"] == 500
    body = json.loads(sent[1]["body"])
    assert body["code"] == "internal"
    assert "secret" not in body["detail"]  # the id may have a 42 in it
    incident = re.search(r"incident ([0-9a-f]{16})", body["detail"])
    assert incident
    assert incident[1] in caplog.text
    assert "the secret is 42" in caplog.text


REFUSALS = [
    kind for kind in vars(registry.errors).values() if isinstance(kind, type) and issubclass(kind, RegistryError)
]


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.__name__)
def test_every_refusal_of_a_use_case_has_a_status(kind: type[RegistryError]) -> None:
    assert 400 <= STATUS_OF_CODE[kind.code] < 600


def test_a_list_of_faults_is_bounded() -> None:
    body = json.loads(bytes(problem_response("invalid", "", tuple(map(str, range(1000)))).body))
    assert len(body["errors"]) == 51
    assert body["errors"][-1] == "and 950 more"
