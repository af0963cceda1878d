"""Pages from templates. A page is a template and its values; a part of a page is a block of the same template.

A template says `{% extends "page.html" %}`. With `?part=NAME` only its block `part_NAME` is answered: pages renew parts
of themselves so, when the live stream says that there is news. Everything that is put into a page is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from registry.contracts.api.answers import Scope
from registry.contracts.paths import CONSOLE
from registry.errors import NotFoundError
from registry.server.console.assets import Assets
from registry.server.console.filters import FILTERS, FUNCTIONS, age
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import PART, Visitor
from registry.server.middleware.auth import services_of


class Pages:
    """Renders the templates of one application."""

    def __init__(self, sections: tuple[NavEntry, ...]) -> None:
        self._sections = sections
        self.assets = Assets()
        self._templates = Environment(
            loader=PackageLoader("registry.server.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals.update(FUNCTIONS)
        self._templates.globals["icons"] = self._templates.get_template("icons.html").module
        self._templates.globals.update(asset=lambda name: CONSOLE + self.assets.path(name), base=CONSOLE, Scope=Scope)

    def render(self, request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        """The page, or the part that was asked for. Raises NotFoundError: it has no such part."""
        now = services_of(request).clock()
        visitor = getattr(request.state, "visitor", None)
        path = request.url.path.removeprefix(CONSOLE)
        said = take_said(request, visitor) if isinstance(visitor, Visitor) and status < 400 else ""
        shown = {
            "request": request,
            "now": now,
            "age": age(now),
            "visitor": visitor,
            "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            "path": path,
            "said": said,
            "sections": [each for each in self._sections if visitor is None or visitor.may(each.scope)],
            **values,
        }
        shown["ui"] = self._templates.get_template("macros.html").make_module(shown)
        found = self._templates.get_template(template)
        part = request.query_params.get(PART)
        if part is None or status != 200:
            return HTMLResponse(found.render(shown), status)
        block = found.blocks.get(f"part_{part}")
        if block is None:
            raise NotFoundError("The page has no such part.")
        return HTMLResponse("".join(block(found.new_context(shown))))


def take_said(request: Request, visitor: Visitor) -> str:
    """What the last action left to be told; told once."""
    if visitor.session is None or not visitor.session.said or PART in request.query_params:
        return ""
    services_of(request).sessions.say(visitor.session.id, "")
    return visitor.session.said


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """What a page's function returns."""
    pages: Pages = request.app.state.pages
    return pages.render(request, template, values, status)


def done(request: Request, visitor: Visitor, text: str, path: str) -> Response:
    """After an action: go to this page of the console (a path below its address), which says what was done."""
    if visitor.session is not None:
        services_of(request).sessions.say(visitor.session.id, text)
    return RedirectResponse(CONSOLE + path, 303)


def go(path: str) -> Response:
    """To another page of the console: a path below its address."""
    return RedirectResponse(CONSOLE + path, 303)
