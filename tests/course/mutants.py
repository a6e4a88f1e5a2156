"""Mutants of the exercises' right answers, each put before the judge.

A mutant is a solution with one small change that a machine can make: a comparison, an operator, a
constant, a bound, an order, a statement left out. It must lose on every seed, or stand in
`survivors.py` with the reason why nothing that the statement says tells it from the right answer.
Quizzes have no mutants worth the name: every other value than the right one loses.

    python -m tests.course.mutants               # all of the book, about a quarter of an hour
    python -m tests.course.mutants 2.3 5.1       # two exercises
    python -m tests.course.mutants --second 2.3  # of the second right answer, to hunt for holes
"""

from __future__ import annotations

import argparse
import ast
import copy
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from kvlab.course.author.spec import Exercise
from kvlab.course.exercises import ALL, find
from kvlab.course.judge import judge
from kvlab.course.sandbox.answer import LocalAnswer

SEEDS = (0, 1, 2)
CPU_SECONDS = 30  # what grading allows one answer

COMPARED = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
COMPUTED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
ORDERED = (ast.Sub, ast.Div, ast.MatMult, ast.FloorDiv, ast.Mod, ast.Pow)
SYMMETRIC = ("transpose", "swapaxes", "max", "min")  # the order of their arguments says nothing
LOST, PASSED, IDLE = "lost", "passed", "idle"
NARROW = """
_narrowed = []
def _narrow(value):
    if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
        _narrowed.append(True)
        return value.float()
    return type(value)(map(_narrow, value)) if type(value) in (list, tuple) else value
"""


@dataclass(frozen=True)
class Mutant:
    """One change of an answer: what became what, and the whole source."""

    name: str
    source: str


def mutants(cell: str) -> list[Mutant]:
    """Every mutant of an answer's cell, in the order of its source; names are one of a kind."""
    tree, found, seen = ast.parse(cell), [], Counter()
    marked = _marked(cell)
    for i, node in enumerate(ast.walk(tree)):
        if getattr(node, "lineno", None) not in marked:
            continue
        for k in range(len(_changes(node))):
            mutated = copy.deepcopy(tree)
            target = list(ast.walk(mutated))[i]
            old, new = _label(target), _changes(target)[k]
            name = f"{old} -> {_label(new)}" + _place(cell, target, old)
            seen[name] += 1
            if seen[name] > 1:
                name += f" ({seen[name]})"
            mutated = ast.fix_missing_locations(_Put(target, new).visit(mutated))
            source = ast.unparse(mutated)
            found.append(Mutant(name, source + NARROW if "_narrow(" in source else source))
    return found


def _marked(cell: str) -> set[int]:
    """The numbers of the lines between the markers: all of them if there are none."""
    inside, lines, whole = False, set(), cell.splitlines()
    for i, line in enumerate(whole, 1):
        inside = (inside or "BEGIN SOLUTION" in line) and "END SOLUTION" not in line
        lines |= {i} if inside else set()
    return lines or set(range(1, len(whole) + 1))


class _Put(ast.NodeTransformer):
    """One node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else self.generic_visit(node)


def _label(node: ast.AST) -> str:
    lines = ast.unparse(node).splitlines()
    return " ".join(lines[0].split()) + (" ..." if len(lines) > 1 else "")


def _place(cell: str, node: ast.AST, label: str) -> str:
    """Where a part of a statement stands, if it would not be found by itself."""
    line = cell.splitlines()[node.lineno - 1].strip()
    return "" if isinstance(node, ast.stmt) or len(label) > 30 else f"  in  {line[:60]}"


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _changes(node: ast.AST) -> list[ast.AST]:
    """What a machine may put in a node's place."""
    makers = {
        ast.Compare: _compared,
        ast.BinOp: _computed,
        ast.BoolOp: _joined,
        ast.UnaryOp: lambda n: (
            [n.operand] if isinstance(n.op, ast.Not | ast.Invert | ast.USub) else []
        ),
        ast.Constant: _constant,
        ast.Slice: _bounds,
        ast.Call: _called,
        ast.Return: _returned,
        ast.Attribute: _typed,
        ast.If: lambda n: [_with(n, test=ast.UnaryOp(ast.Not(), n.test)), ast.Pass()],
        ast.IfExp: lambda n: [n.body, n.orelse],
    }
    if isinstance(
        node, ast.Assign | ast.AugAssign | ast.Expr | ast.For | ast.While | ast.Continue | ast.Break
    ):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return [] if text else [ast.Pass()]
    return makers.get(type(node), lambda n: [])(node)


def _compared(node: ast.Compare) -> list[ast.AST]:
    return [
        _with(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])
        for i, op in enumerate(node.ops)
        for other in COMPARED[type(op)]
    ]


def _computed(node: ast.BinOp) -> list[ast.AST]:
    made = [_with(node, op=COMPUTED[type(node.op)]())] if type(node.op) in COMPUTED else []
    if isinstance(node.op, ORDERED):
        made.append(_with(node, left=node.right, right=node.left))
    return [*made, node.left]


def _joined(node: ast.BoolOp) -> list[ast.AST]:
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return [_with(node, op=other), *node.values]


def _constant(node: ast.Constant) -> list[ast.AST]:
    if isinstance(node.value, bool):
        return [ast.Constant(not node.value)]
    if isinstance(node.value, int | float):
        return [ast.Constant(node.value + 1), ast.Constant(node.value - 1)]
    return []


def _bounds(node: ast.Slice) -> list[ast.AST]:
    """Each bound that is computed one further or one nearer; a missing one at the second place."""
    made = []
    for bound, missing in (("lower", 1), ("upper", -1)):
        there = getattr(node, bound)
        if there is None:
            made.append(_with(node, **{bound: ast.Constant(missing)}))
        elif not isinstance(there, ast.Constant):
            made += [_with(node, **{bound: moved}) for moved in _moved(there)]
    return made


def _moved(node: ast.AST) -> list[ast.AST]:
    return [ast.BinOp(node, op, ast.Constant(1)) for op in (ast.Add(), ast.Sub())]


def _called(node: ast.Call) -> list[ast.AST]:
    """Arguments in another order, a range that ends elsewhere, a method that is not called."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    turned = name not in SYMMETRIC and not any(isinstance(a, ast.Starred) for a in node.args)
    made = [
        _with(node, args=[*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]])
        for i in range(len(node.args) - 1)
        if turned
    ]
    if name in ("range", "arange"):
        ends = range(min(2, len(node.args)))
        made += [
            _with(node, args=[*node.args[:i], moved, *node.args[i + 1 :]])
            for i in ends
            if not isinstance(node.args[i], ast.Constant)
            for moved in _moved(node.args[i])
        ]
    if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) != "torch":
        made.append(node.func.value)
    return made


def _returned(node: ast.Return) -> list[ast.AST]:
    if node.value is None:
        return [ast.Pass()]
    return [ast.Pass(), ast.Return(ast.Call(ast.Name("_narrow"), [node.value], []))]


def _typed(node: ast.Attribute) -> list[ast.AST]:
    other = {"float64": "float32", "double": "float"}.get(node.attr)
    return [_with(node, attr=other)] if other else []


# --- before the judge -----------------------------------------------------------------------------


class _TooLong(BaseException):
    """More time than grading allows; a BaseException, so that the judge does not catch it."""


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def tried(exercise: Exercise, mutant: Mutant, seed: int) -> str:
    """What becomes of a mutant: LOST, PASSED, or IDLE if it cannot differ (nothing was narrowed).

    The clock is not asked.
    """
    space: dict[str, object] = {"torch": torch, "__name__": "answer"}
    try:
        with _limited():
            exec(mutant.source, space)
            answer = LocalAnswer(space[exercise.name], exercise.forbids)
            verdict = judge(replace(exercise, wrong=[]), answer, seed, clock=False)
    except (_TooLong, SyntaxError):
        return LOST
    if verdict.passed:
        return PASSED if space.get("_narrowed", True) else IDLE
    return LOST


def with_mutants() -> list[Exercise]:
    """The exercises that have any: all but the quizzes."""
    return [e for e in ALL if e.n_cases > 1]


def sweep(exercise: Exercise, second: bool = False) -> tuple[int, dict[str, int]]:
    """How many mutants there are, and those that pass, with on how many seeds they do."""
    n, alive = 0, {}
    for mutant in mutants(exercise.second if second else exercise.cell):
        seen = [tried(exercise, mutant, seed) for seed in SEEDS]
        n += seen != [IDLE] * len(SEEDS)
        if PASSED in seen:
            alive[mutant.name] = seen.count(PASSED)
    return n, alive


def main(arguments: list[str]) -> int:
    from tests.course.survivors import SECOND, SURVIVORS

    parser = argparse.ArgumentParser(prog="python -m tests.course.mutants")
    parser.add_argument("numbers", nargs="*", metavar="EXERCISE")
    parser.add_argument("--second", action="store_true", help="mutate the second right answer")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    n_tried = n_excused = n_passed = 0
    for exercise in [find(n) for n in asked.numbers] or with_mutants():
        start = time.perf_counter()
        known = (SECOND if asked.second else SURVIVORS).get(exercise.number, {})
        n, alive = sweep(exercise, asked.second)
        fresh = {name: k for name, k in alive.items() if name not in known}
        n_tried, n_passed = n_tried + n, n_passed + len(fresh)
        n_excused += len(alive) - len(fresh)
        seconds = time.perf_counter() - start
        print(
            f"{exercise.number}: {n} tried, {n - len(alive)} lost, {len(alive) - len(fresh)} "
            f"excused, {len(fresh)} passed ({seconds:.0f} s)",
            flush=True,
        )
        for name, k in fresh.items():
            print(f"    {name}   [{k} of {len(SEEDS)} seeds]")
        for name in known.keys() - alive.keys():
            print(f"    excused and yet lost: {name}")
    n_lost = n_tried - n_excused - n_passed
    print(f"{n_tried} tried, {n_lost} lost, {n_excused} excused, {n_passed} passed")
    return int(n_passed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
