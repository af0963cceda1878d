"""What is wrong with a value is said in words, without a pattern and without the value."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator

from registry.contracts.faults import fault_lines
from registry.contracts.rollout.views import WebhookCreate
from registry.contracts.wire import Digest, LabelKey, Name, VersionName


class Ordered(BaseModel):
    """Refuses with words of its own."""

    sort: str
    size: Annotated[int, Field(ge=1)] = 1

    @field_validator("sort")
    @classmethod
    def _known(cls, text: str) -> str:
        if text != "name":
            raise ValueError(f"{text!r} is not one of 'name'.")
        return text


def faults(kind: object, value: object, whole: str = "") -> tuple[str, ...]:
    """What is said of it."""
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(kind).validate_python(value)
    return fault_lines(refused.value.errors(), whole)


@pytest.mark.parametrize("kind", [Name, VersionName, LabelKey, Digest])
def test_a_rule_of_the_contracts_is_told_in_words(kind: object) -> None:
    (said,) = faults(kind, "secret\x1b[31m")
    assert " 64 of " in said
    assert not any(part in said for part in ("^", "pattern", "secret"))


def test_a_fault_names_its_place() -> None:
    assert faults(WebhookCreate, {"url": "ftp://example.com"}) == ("url: an address begins with http:// or https://",)
    assert faults(Name, "Edge", "name") == (
        "name: a name is 1 to 64 of a-z 0-9 . _ -, beginning and ending with a letter or digit",
    )


def test_our_own_words_come_without_an_introduction() -> None:
    assert faults(Ordered, {"sort": "seen", "size": 0}) == (
        "sort: 'seen' is not one of 'name'.",
        "size: Input should be greater than or equal to 1",
    )
