"""What an answer takes from other cells of its notebook. In grading its cell runs alone."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterator
from typing import Any

from kvlab.course.sandbox.answer import is_a_librarys
from kvlab.course.sandbox.cell import OFFERED
from kvlab.course.sandbox.magics import python_of

_THERE = {*dir(builtins), *OFFERED, "torch", "__name__", "__doc__"}


def warning(answer: Any, name: str) -> str:
    """Why an answer that passes in this notebook will not pass where its cell runs alone, or "".

    The cell is the last one run that defines `name`, as IPython remembers it; where there is no
    IPython nothing is known.
    """
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    if shell is None:
        return ""
    if shell.user_ns.get(name) is not answer:
        return f"Grading tries what its cell calls {name}, which is not what was tried here."
    statements = _cell(shell, name)
    if statements is None:
        return ""
    needed = _needed(statements, name)
    used, made = _names(needed)[0], _names(statements)[1]
    foreign = sorted(n for n in used - made - _THERE if n in shell.user_ns)
    if foreign:
        are = "is" if len(foreign) == 1 else "are"
        return (
            f"In grading this cell runs alone, without the other cells: {', '.join(foreign)} {are} "
            "not there and your answer will fail. Copy what it needs into this cell."
        )
    files = sorted(_own_files(needed))
    if files:
        return (
            f"In grading this cell runs alone, without the files beside the notebook: "
            f"{', '.join(files)} cannot be imported there and your answer will fail. Copy what it "
            "needs into this cell."
        )
    return ""


def _cell(shell: Any, name: str) -> list[ast.stmt] | None:
    """The statements of the last cell that defines a name, None if no cell does."""
    for source in reversed(shell.history_manager.input_hist_raw):
        if name in source:
            try:
                statements = ast.parse(python_of(source)).body
                made = _names(statements)[1]
            except (SyntaxError, ValueError, RecursionError):
                continue
            if name in made:
                return _without_annotations(statements)
    return None


def _needed(statements: list[ast.stmt], name: str) -> list[ast.stmt]:
    """What of a cell matters to one of its names: what runs before it, and what those use."""
    of = [(s, *_names([s])) for s in statements]
    last = max(i for i, (_, _, made) in enumerate(of) if name in made)
    defines = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    wanted, found = {name}, set()
    while True:
        new = {
            i
            for i, (s, _, made) in enumerate(of)
            if made & wanted or (i < last and not isinstance(s, defines))
        } - found
        if not new:
            return [s for i, s in enumerate(statements) if i in found]
        found |= new
        wanted |= set().union(*(of[i][1] for i in new))


def _names(statements: list[ast.stmt]) -> tuple[set[str], set[str]]:
    """The globals that statements use, and those that they make."""
    used: set[str] = set()
    made: set[str] = set()
    source = "\n".join(map(ast.unparse, statements))
    for table in _tables(symtable.symtable(source, "<cell>", "exec")):
        for symbol in table.get_symbols():
            if table.get_type() == "module" or symbol.is_global():
                if symbol.is_referenced():
                    used.add(symbol.get_name())
                if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
                    made.add(symbol.get_name())
    for node in _walk(statements):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            made |= set(dir(sys.modules.get(node.module or "")))
    return used, made


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for inner in table.get_children():
        yield from _tables(inner)


def _walk(statements: list[ast.stmt]) -> Iterator[ast.AST]:
    for statement in statements:
        yield from ast.walk(statement)


def _without_annotations(statements: list[ast.stmt]) -> list[ast.stmt]:
    """Where Python does not look into annotations before somebody asks, neither does this."""
    future = any(isinstance(s, ast.ImportFrom) and s.module == "__future__" for s in statements)
    if future or sys.version_info >= (3, 14):
        for node in _walk(statements):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                node.returns = None
            elif isinstance(node, ast.arg):
                node.annotation = None
    return statements


def _own_files(statements: list[ast.stmt]) -> Iterator[str]:
    """Imported files that are neither Python's nor an installed package's."""
    for node in _walk(statements):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            home = sys.modules.get(name.partition(".")[0])
            file = getattr(home, "__file__", None)
            if file and not is_a_librarys(file):
                yield file.rpartition("/")[2]
