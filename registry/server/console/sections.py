"""What a group of pages is to the rest of the console: its routes, and its place in the navigation."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter

from registry.contracts.api.answers import Scope


@dataclass(frozen=True)
class NavEntry:
    """One entry of the navigation, with the routes behind it."""

    title: str
    """As the navigation shows it."""
    path: str
    """Of its first page, below the console's address."""
    icon: str
    """A name of `icons.html`."""
    router: APIRouter
    scope: Scope = Scope.READ
    """Who sees the entry."""
    groups: tuple[APIRouter, ...] = ()
    """More routes of the section."""

    def is_open(self, path: str) -> bool:
        """Does this path belong to the section?"""
        return path == self.path or path.startswith(self.path + "/")
