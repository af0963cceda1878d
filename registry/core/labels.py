"""What to say where a selector matches no device: the labels that there are, the nearest to what was asked first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from registry.core.selectors import Operator, Selector

SHOWN = 8


def nearest(asked: str, there: Sequence[str]) -> list[str]:
    """The same texts, those most like `asked` first; equals stay in their order."""
    return sorted(there, key=lambda text: -SequenceMatcher(None, asked.lower(), text.lower()).ratio())


def no_match_text(selector: Selector, keys: Mapping[str, Sequence[str]], more: Mapping[str, int] | None = None) -> str:
    """Why nothing matches, in sentences: for each condition that no device meets by itself, what there is.

    Args:
        selector: What was asked for.
        keys: Label keys to their values, the commonest first.
        more: Keys to how many further values they have.
    """
    said = []
    for term in selector.terms:
        values = keys.get(term.key)
        if values is None and term.operator in (Operator.IN, Operator.EXISTS):
            there = _some(nearest(term.key, list(keys)), 0)
            said.append(f"No device has a label {term.key}; keys are: {there}." if keys else "No device has labels.")
        elif values is not None and term.operator is Operator.IN and not set(term.values) & set(values):
            there = _some(nearest(term.values[0], values), (more or {}).get(term.key, 0))
            said.append(f"{term.key} is never {' or '.join(term.values)}; its values are: {there}.")
    if said:
        return " ".join(dict.fromkeys(said))
    if not selector.terms:
        return "There are no devices: registry devices add NAME."
    pairs = [f"{key}={value}" for key, found in keys.items() for value in found]
    return f"No device has all of it together; labels are: {_some(pairs, 0)}."


def _some(texts: Sequence[str], more: int) -> str:
    left = len(texts) - SHOWN + more if len(texts) > SHOWN else more
    return ", ".join(texts[:SHOWN]) + (f" and {left} more" if left else "")
