"""Looks for an entry point's function in its module without running it: else only a device would find that it lacks.

Only what certainly lacks is refused. A name may come into a module by a definition, an assignment or an import, behind
any `if` or `try`, or in ways that only running would show: a star import, `exec`, `globals()["create"]`.
"""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

from registry.client.errors import UsageFault
from registry.contracts.catalogue.entry_points import MAX_MODULE_BYTES

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def require_function(path: Path, function: str) -> None:
    """Raises UsageFault: the file at `path` is no Python that is read here, or binds no such name at its top level."""
    with path.open("rb") as file:
        source = file.read(MAX_MODULE_BYTES + 1)
    if len(source) > MAX_MODULE_BYTES:
        raise UsageFault(f"The entry point {path} is over {MAX_MODULE_BYTES} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its style
            module = ast.parse(source)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise UsageFault(f"The entry point {path}{where}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UsageFault(f"The entry point {path} is no Python: {str(error) or 'nested too deeply'}") from None
    if not _may_bind(module, function):
        raise UsageFault(
            f"The entry point {path} has no function {function!r} at its top level",
            hint="--entry-point FILE.py:FUNCTION, or `function` in the publish file",
        )


def _may_bind(module: ast.Module, name: str) -> bool:
    if any(_binds_from_afar(node, name) for node in ast.walk(module)):
        return True
    left: list[ast.AST] = [*module.body]
    while left:
        node = left.pop()
        if _binds(node, name):
            return True
        if not isinstance(node, _SCOPES):
            left += ast.iter_child_nodes(node)
    return False


def _binds(node: ast.AST, name: str) -> bool:
    """At the top level: as a definition, an import or an assignment."""
    if isinstance(node, ast.alias):
        return (node.asname or node.name.partition(".")[0]) in (name, "*")
    if isinstance(node, ast.Name):
        return node.id == name and isinstance(node.ctx, ast.Store)
    return getattr(node, "name", None) in (name, "__getattr__")  # a definition, or what a pattern takes


def _binds_from_afar(node: ast.AST, name: str) -> bool:
    """At any depth: in ways that reach the top level from elsewhere."""
    if isinstance(node, ast.Global):
        return name in node.names
    if isinstance(node, ast.Attribute):
        return node.attr == name and isinstance(node.ctx, ast.Store)
    if isinstance(node, ast.Constant):
        return bool(node.value == name)
    return isinstance(node, ast.Name) and node.id == "exec"
