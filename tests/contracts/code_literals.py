"""Finds the codes that are written as text in a source tree, from its syntax tree."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

WORD = re.compile(r"[a-z][a-z0-9_]*")
"""What a code looks like; a sentence or a format string that stands in the same place is none."""
TABLE = re.compile(r"(^ERROR_CODES|_CODES|_BY_CODE|_OF_CODE|_CODE_OF_[A-Z]+)$")
"""Names of dictionaries and tuples of codes."""


def code_literals(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Code to the places (`file:line`) where it is written as text."""
    trees = {path: ast.parse(path.read_text()) for path in paths}
    positions = _positions(trees.values())
    found = defaultdict(list)
    for path, tree in trees.items():
        constants = _constants(tree)
        for expression in _expressions(tree, positions):
            for text, line in _texts(expression, constants):
                if WORD.fullmatch(text):
                    found[text].append(f"{path}:{line}")
    return dict(found)


def _positions(trees: Iterable[ast.Module]) -> Mapping[str, set[int]]:
    """Which positional argument of a function, or of a class and what inherits from it, is called `code`."""
    positions: dict[str, set[int]] = defaultdict(set)
    bases: dict[str, list[str]] = defaultdict(list)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                _note(positions[node.name], [argument.arg for argument in node.args.args])
            elif isinstance(node, ast.ClassDef):
                bases[node.name] += [ast.unparse(base).rpartition(".")[2] for base in node.bases]
                _note(positions[node.name], [ast.unparse(m.target) for m in node.body if isinstance(m, ast.AnnAssign)])
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                        _note(positions[node.name], [argument.arg for argument in method.args.args])
    for _ in range(8):  # as deep as classes inherit
        for name, parents in bases.items():
            positions[name] = positions[name] or set().union(*(positions.get(parent, set()) for parent in parents))
    return positions


def _note(into: set[int], names: list[str]) -> None:
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    into.update([names.index("code")] if "code" in names else [])


def _constants(tree: ast.Module) -> dict[str, str]:
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def _expressions(tree: ast.Module, positions: Mapping[str, set[int]]) -> Iterator[ast.expr]:
    """All that is given as a code, compared with one, or stands in a table of codes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "code")
            yield from (node.args[at] for at in positions.get(name, ()) if at < len(node.args))
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            yield from sides if any(_is_code(side) for side in sides) else ()
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(_is_code(target) for target in targets):
                yield node.value
            elif any(isinstance(target, ast.Name) and TABLE.search(target.id) for target in targets):
                yield from (part for part in ast.walk(node.value) if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from (value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "code")
        elif isinstance(node, ast.arguments):
            with_default = node.args[len(node.args) - len(node.defaults) :] + node.kwonlyargs
            places = zip(with_default, [*node.defaults, *node.kw_defaults], strict=True)
            yield from (default for argument, default in places if argument.arg == "code" and default is not None)


def _is_code(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "code") or (
        isinstance(node, ast.Name) and node.id == "code"
    )


def _texts(node: ast.expr, constants: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """The texts that an expression can have; names of the file's constants are followed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value, node.lineno
    elif isinstance(node, ast.Name) and node.id in constants:
        yield constants[node.id], node.lineno
    else:
        parts = [node.body, node.orelse] if isinstance(node, ast.IfExp) else []
        parts += node.values if isinstance(node, ast.BoolOp) else []
        parts += node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else []
        for part in parts:
            yield from _texts(part, constants)
