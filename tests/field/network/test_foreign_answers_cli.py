"""Commands and the Python client draw no conclusion from what a proxy or portal answers in the registry's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from registry.cli.output import ExitCode, exit_code_of
from registry.client import api
from registry.client.address import Address
from registry.client.api import ApiClient
from registry.client.errors import ForeignAnswerError, NoAnswerError, ProblemError
from registry.contracts.api.answers import PROBLEM_TYPE, Problem
from registry.contracts.api.versions import ModelView
from registry.contracts.backoff import Backoff
from registry.contracts.paths import blob_path, model_path
from registry.contracts.wire import digest_of
from tests.fakes.odd_server import OddServer

DIGEST = digest_of(b"x")
PROBLEM = Problem(title="", status=400, code="invalid")
PAGE = b"<html>Nothing to see here</html>"
Use = Callable[[ApiClient], Any]
USES: dict[str, Use] = {
    "a blob is looked for": lambda client: client.exists(blob_path(DIGEST)),
    "a document is read": lambda client: client.get(model_path("lenet"), ModelView),
    "a document is looked for": lambda client: client.find(model_path("lenet"), ModelView),
    "a list is read": lambda client: client.items("/v1/models", ModelView),
    "something is deleted": lambda client: client.send("DELETE", model_path("lenet"), repeatable=True),
    "something is changed": lambda client: client.send(
        "PUT", model_path("lenet"), Problem(title="", status=1, code="")
    ),
    "a blob is pulled": lambda client: client.download(blob_path(DIGEST), {}).__enter__(),
}
ANSWERS = [(200, PAGE), (200, b""), (201, PAGE), (301, PAGE), (403, PAGE), (404, PAGE), (404, b""), (502, PAGE)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "RETRIES", Backoff(0.001, 0.001, limit=4))


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize(("status", "body"), ANSWERS)
def test_a_page_of_somebody_else_is_no_answer(status: int, body: bytes, use: Use) -> None:
    with OddServer(status, body, "text/html") as odd:
        client = ApiClient(Address(odd.url, None))
        with pytest.raises(ForeignAnswerError, match=f"HTTP {status}") as foreign:
            use(client)
        client.close()
    assert (foreign.value.code, exit_code_of(foreign.value)) == ("bad_answer", ExitCode.FAILURE)


@pytest.mark.parametrize(
    ("use", "tries"), [("a document is read", 4), ("something is deleted", 4), ("something is changed", 1)]
)
def test_what_may_happen_twice_is_tried_again_as_after_a_lost_answer(use: str, tries: int) -> None:
    with OddServer(404, PAGE, "text/html") as odd:
        client = ApiClient(Address(odd.url, None))
        with pytest.raises(NoAnswerError):
            USES[use](client)
        client.close()
        assert len(odd.seen) == tries


@pytest.mark.parametrize(
    ("code", "status", "there"), [("not_found", 404, False), ("unauthorized", 401, None), ("forbidden", 403, None)]
)
def test_the_registrys_own_refusal_decides(code: str, status: int, there: bool | None) -> None:
    problem = Problem(title="x", status=status, code=code).canonical()
    with OddServer(status, problem, PROBLEM_TYPE) as odd:
        client = ApiClient(Address(odd.url, None))
        if there is None:
            with pytest.raises(ProblemError) as refused:
                client.exists(blob_path(DIGEST))
            assert refused.value.code == code
        else:
            assert client.exists(blob_path(DIGEST)) is there
            assert client.find(model_path("lenet"), ModelView) is None
        client.close()


def test_a_blob_is_there_only_under_its_own_digest() -> None:
    with OddServer(200, b"", "application/octet-stream", ETag=f'"{DIGEST}"') as odd:
        client = ApiClient(Address(odd.url, None))
        assert client.exists(blob_path(DIGEST))
        with pytest.raises(ForeignAnswerError):
            client.exists(blob_path(digest_of(b"y")))
        client.close()
