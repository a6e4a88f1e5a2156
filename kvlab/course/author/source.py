"""An answer's cell, made from the function or class that an exercise's file defines."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def source_of(answer: Callable[..., Any], name: str, also: Sequence[str] = ()) -> str:
    """The source of a function or class as a cell of its own, under the name that is asked for.

    The imports of its module that it uses are put above it, and those named in `also`.
    Raises: ValueError when it uses another name of its module, which a cell would not have.
    """
    text = textwrap.dedent(inspect.getsource(answer))
    node = ast.parse(text).body[0]
    own = "\n".join(text.splitlines()[node.lineno - 1 :])  # without decorators
    node.decorator_list = []
    own = re.sub(rf"\b{answer.__name__}\b", name, own)
    # the formatter wants an empty line between a docstring and a function inside; a cell has none
    own = re.sub(r"\n\n( *### BEGIN SOLUTION\n *def )", r"\n\1", own)
    used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - _bound(node)
    head, others = _module_names(sys.modules[answer.__module__], used.union(also))
    stray = others - {answer.__name__}
    if stray:
        raise ValueError(
            f"{answer.__module__}.{answer.__name__} uses {', '.join(sorted(stray))} of its module, "
            "and an answer's cell stands alone. Put it inside."
        )
    head = "\n\n".join(filter(None, [head, _drawn(answer)]))
    return f"{head}\n\n\n{own}" if head else own


def _drawn(answer: Callable[..., Any]) -> str:
    """The constants that a function takes from the one it was made in: of a student's variant."""
    cells = getattr(answer, "__closure__", None) or ()
    names = answer.__code__.co_freevars if cells else ()
    values = {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}
    strange = [n for n, v in values.items() if type(v) not in (bool, int, float, str)]
    if strange:
        raise ValueError(
            f"{answer.__module__}.{answer.__qualname__} uses {', '.join(strange)} of the function "
            "around it, and an answer's cell can only be given numbers and text."
        )
    return "\n".join(f"{name} = {value!r}" for name, value in values.items())


def _module_names(module: ModuleType, used: set[str]) -> tuple[str, set[str]]:
    """Of the names that are used: the imports that bring them, and those that the module makes."""
    imports, others = [], set()
    for statement in ast.parse(inspect.getsource(module)).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found = [a for a in statement.names if (a.asname or a.name.split(".")[0]) in used]
            if found and getattr(statement, "module", "") != "__future__":
                statement.names = found
                imports.append(ast.unparse(statement))
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            others |= {statement.name} & used
        elif isinstance(statement, ast.Assign):
            others |= {t.id for t in statement.targets if isinstance(t, ast.Name)} & used
    return "\n".join(imports), others


def _bound(node: ast.AST) -> set[str]:
    """Names that a piece of code makes itself."""
    parts = list(ast.walk(node))
    made = {n.id for n in parts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    made |= {n.arg for n in parts if isinstance(n, ast.arg)}
    return made | {n.name for n in parts if isinstance(n, ast.FunctionDef | ast.ClassDef)}
