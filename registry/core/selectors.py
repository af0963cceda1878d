"""Label selectors: `site=paris,ring!=canary,gpu,!old,zone in (a,b),zone notin (c)`; a comma means and; `*` is all.

The grammar is that of Kubernetes label selectors
(https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors), with one more word, `*`.
As there, `!=` and `notin` also match a device that lacks the key. Parsed into a neutral tree, which is matched here
or turned into SQL by the services.
"""

# ruff: noqa: A005 - imported only as registry.core.selectors
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from registry.contracts.enums import StrEnum
from registry.contracts.rollout.spec import MAX_SELECTOR_CHARS

MAX_TERMS = 32
MAX_VALUES = 64
_TOKEN = re.compile(
    r"\s*(?:(?P<op>!=|==|=|!|,|\(|\)|\*)|(?P<word>[A-Za-z0-9](?:[A-Za-z0-9._/:+-]{0,254}[A-Za-z0-9])?))"
)
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?\Z")


class Operator(StrEnum):
    """What one term asks of a label."""

    IN = "in"
    """The key is there, and its value is one of the values (`=` is one value)."""
    NOT_IN = "notin"
    """The key is not there, or its value is none of the values (`!=` is one value)."""
    EXISTS = "exists"
    MISSING = "missing"


@dataclass(frozen=True)
class Term:
    """One condition."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.operator is Operator.EXISTS:
            return self.key
        if self.operator is Operator.MISSING:
            return f"!{self.key}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.operator is Operator.IN else '!='}{self.values[0]}"
        return f"{self.key} {self.operator} ({','.join(self.values)})"


@dataclass(frozen=True)
class Selector:
    """All terms must hold; no terms: every device."""

    terms: tuple[Term, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a device with these labels is selected."""
        return all(_holds(term, labels) for term in self.terms)

    def __str__(self) -> str:
        return ",".join(map(str, self.terms)) or "*"


class SelectorError(ValueError):
    """The text is no selector; `position` is the character (from 0) where reading stopped."""

    def __init__(self, why: str, text: str, position: int) -> None:
        super().__init__(f"selector {text[:80]!r}, at character {position + 1}: {why}")
        self.position = position


def parse(text: str) -> Selector:
    """Read a selector.

    Raises:
        SelectorError: it is none; the message says where and why.
    """
    if len(text) > MAX_SELECTOR_CHARS:
        raise SelectorError(f"longer than {MAX_SELECTOR_CHARS} characters", text, MAX_SELECTOR_CHARS)
    reader = _Reader(text)
    if reader.take("*"):
        reader.end()
        return Selector()
    terms = [_term(reader)]
    while reader.take(","):
        if len(terms) == MAX_TERMS:
            raise reader.error(f"more than {MAX_TERMS} conditions")
        terms.append(_term(reader))
    reader.end()
    return Selector(tuple(terms))


def _holds(term: Term, labels: Mapping[str, str]) -> bool:
    value = labels.get(term.key)
    match term.operator:
        case Operator.IN:
            return value is not None and value in term.values
        case Operator.NOT_IN:
            return value is None or value not in term.values
        case Operator.EXISTS:
            return value is not None
        case _:
            return value is None


class _Reader:
    """The text as tokens, with where each one is."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.token = ""
        self._is_word = False
        self._start = 0
        self.next()

    def next(self) -> None:
        """On to the next token; the empty one is the end."""
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            rest = self._text[self._at :]
            self._start = self._at + len(rest) - len(rest.lstrip())
            if rest.strip():
                raise self.error(f"{rest.strip()[0]!r} does not belong in a selector")
            self.token, self._is_word = "", False
            return
        self._is_word = found["word"] is not None
        self.token = found["word"] or found["op"]
        self._start, self._at = found.end() - len(self.token), found.end()

    def take(self, *tokens: str) -> str:
        """The one of these operators or words that stands here, and on; empty when none of them does."""
        token = self.token
        if token not in tokens:
            return ""
        self.next()
        return token

    def word(self, what: str) -> str:
        """The word that must stand here, and on."""
        if not self._is_word:
            raise self.error(f"{what} is missing" + (f" before {self.token!r}" if self.token else ""))
        token = self.token
        self.next()
        return token

    def end(self) -> None:
        """Nothing may follow."""
        if self.token:
            raise self.error(f"{self.token!r} is one too many; a comma joins conditions")

    def error(self, why: str) -> SelectorError:
        """About the token that stands here."""
        return SelectorError(why, self._text, self._start)


def _term(reader: _Reader) -> Term:
    missing = bool(reader.take("!"))
    fault = reader.error("a label key has at most 64 of A-Z a-z 0-9 . _ / -")
    key = reader.word("a label key")
    if not _KEY.match(key):
        raise fault
    if missing:
        return Term(key, Operator.MISSING)
    if sign := reader.take("=", "==", "!="):
        values = (reader.word("a value"),)
        return Term(key, Operator.NOT_IN if sign == "!=" else Operator.IN, values)
    if word := reader.take("in", "notin"):
        return Term(key, Operator(word), _values(reader))
    return Term(key, Operator.EXISTS)


def _values(reader: _Reader) -> tuple[str, ...]:
    if not reader.take("("):
        raise reader.error("( is missing: write key in (a,b)")
    values = [reader.word("a value")]
    while reader.take(","):
        if len(values) == MAX_VALUES:
            raise reader.error(f"more than {MAX_VALUES} values")
        values.append(reader.word("a value"))
    if not reader.take(")"):
        raise reader.error(") is missing")
    return tuple(values)
