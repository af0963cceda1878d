"""`StrEnum` for Python 3.10, which lacks it: a member is its string, also when printed or formatted.

An agent may be older than the registry that tells it what to do. One value that it does not know must not make it
refuse all the rest, so what a device reads is open: see `newer`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationInfo

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:
    from enum import Enum

    class StrEnum(str, Enum):
        """As in Python 3.11."""

        __str__ = str.__str__

        def __format__(self, format_spec: str) -> str:
            return str.__format__(self, format_spec)


OLDER_READER: Mapping[str, Any] = MappingProxyType({"older_reader": True})
"""Validation context of who may be older than the writer. Without it an unknown value is refused: it is a mistake."""


def newer(kind: type[StrEnum], instead: StrEnum) -> Callable[[Any, ValidationInfo], Any]:
    """For `pydantic.BeforeValidator`: to an older reader, a value that it does not know is `instead`.

    Only for how something is done. What is to be done is kept as it was said, and refused by itself.
    """

    def read(value: Any, info: ValidationInfo) -> Any:
        older = bool(info.context) and isinstance(value, str) and value not in set(kind)
        return instead if older else value

    return read


def as_said(kind: type[StrEnum]) -> Callable[[Any, ValidationInfo], Any]:
    """For `pydantic.BeforeValidator`: to an older reader, a value that it does not know stands for itself.

    It is written as it was read, and `kind` does not have it: `value in tuple(kind)` is False. For what names a part
    that the reader can leave out.
    """

    def read(value: Any, info: ValidationInfo) -> Any:
        if not info.context or not isinstance(value, str) or value in tuple(kind):
            return value
        member = str.__new__(kind, value)
        member._name_ = member._value_ = value
        return member

    return read


__all__ = ["OLDER_READER", "StrEnum", "as_said", "newer"]
