"""What is said of a version that was yanked or taken back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from registry.cli.output import Output, time_text
from registry.contracts.api.versions import VersionView


def withdrawn_text(view: VersionView, at: Callable[[datetime | None], str] = time_text) -> str:
    """Who withdrew the version, when and why, as the end of a sentence; empty: it counts as any other."""
    if view.yanked is not None:
        said = view.yanked
        return f"yanked by {said.by or 'anonymous'}, {at(said.at)}: {said.reason}"
    if view.taken_back is not None:
        back = view.taken_back
        return f"taken back by rollout {back.rollout}, {at(back.at)}: {back.text or back.code}"
    return ""


def warn_withdrawn(out: Output, view: VersionView) -> None:
    """On stderr, before the answer."""
    if text := withdrawn_text(view):
        out.warn(f"{view.model}@{view.version} was {text}")
