"""How texts for people put a number and what it counts."""

from __future__ import annotations


def how_many(number: int, noun: str) -> str:
    """`1 device`, `2 devices`; for nouns whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
