"""Forms that pages send: urlencoded or multipart, bounded, their texts free of what no database keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile

from registry.contracts.texts import visible
from registry.errors import InvalidError
from registry.server.middleware.problems import faults_of

Parsed = TypeVar("Parsed")
MAX_FIELDS = 2000
MAX_FILES = 16
MAX_TEXT = 1 << 20
"""Characters of one field."""


class Form:
    """The fields of one request."""

    def __init__(self, data: FormData) -> None:
        self._data = data

    def text(self, name: str, default: str = "") -> str:
        """A field without the spaces around it; the default where it is absent. Raises InvalidError."""
        return _checked(name, self._data.get(name, default)).strip()

    def texts(self, name: str) -> list[str]:
        """All values of a field that is there more than once. Raises InvalidError."""
        return [_checked(name, value) for value in self._data.getlist(name)]

    def ticked(self, name: str) -> bool:
        """Is the box ticked?"""
        return bool(self.text(name))

    def file(self, name: str) -> UploadFile | None:
        """A file that was chosen; None: none was."""
        found = self._data.get(name)
        return found if isinstance(found, UploadFile) and found.filename else None

    def hidden(self, *without: str) -> Iterator[tuple[str, str]]:
        """All texts, to be sent again by the page that asks for confirmation."""
        for name, value in self._data.multi_items():
            if isinstance(value, str) and name not in without:
                yield name, value


def _checked(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidError(f"The field {name!r} is a file, and a text is expected.")
    text = value.replace("\r\n", "\n")
    if len(text) > MAX_TEXT:
        raise InvalidError(f"The field {name!r} has over {MAX_TEXT} characters.")
    if "\0" in text:
        raise InvalidError(f"The field {name!r} has a NUL character, which no text may have.")
    return text


def parsed(kind: TypeAdapter[Parsed], value: object, what: str) -> Parsed:
    """The value as this type. Raises InvalidError that says what is wrong with `what`."""
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise InvalidError(f"{what} is not right: {visible(str(value)[:100])}", faults_of(error)) from error


async def _form(request: Request) -> Form:
    return Form(await request.form(max_fields=MAX_FIELDS, max_files=MAX_FILES, max_part_size=MAX_TEXT))


FormDep = Annotated[Form, Depends(_form)]
"""Behind `Reading` and the like in a function's parameters: who asks is found out before the body is parsed."""
