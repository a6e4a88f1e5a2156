"""What the exercises are, and whether they still judge as they did: a command for one change.

python tests/inventory.py --out before.json
python tests/inventory.py --compare before.json after.json
python tests/inventory.py --cross OLD_CHECKOUT [--only 6. 10.1]

`--cross` loads another checkout's course, helpers and all, from its files as `old_course`. There
its exercises are judged by its own judge, and here by ours; only answers go from one to the other.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import importlib.util
import inspect
import json
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
warnings.simplefilter("ignore", FutureWarning)
SEEDS = range(3)
ABOUT = (
    "number", "title", "name", "points", "minutes", "difficulty", "because", "hints", "allows",
    "forbids", "n_cases",
)  # fmt: skip


def home(name: str, *modules: str):
    """What a module of the current course calls so, the new homes first."""
    for module in modules:
        try:
            return getattr(importlib.import_module(f"kvlab.course.{module}"), name)
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("kvlab.course"):
                raise
        except AttributeError:
            continue
    raise LookupError(f"{name} is in none of {', '.join(modules)}")


class World:
    """The current course: exercises by number, their judge, and the sources of right answers."""

    def __init__(self) -> None:
        self.root = ROOT
        self.all = {e.number: e for e in home("ALL", "exercises")}
        self.judge = home("judge", "judge", "judge.judging", "judging")
        self.draw = home("draw", "judge", "judge.judging", "judging")
        self.local = home(
            "LocalAnswer", "sandbox.answer", "sandbox.local", "judge.answer", "sandbox", "answer"
        )

    def right(self, exercise) -> dict[str, str]:
        """The right answers' sources: the second one, and the solution's cell."""
        second = exercise.second
        if not isinstance(second, str):
            second = inspect.getsource(second)
        found = {"second": second}
        for cell in cells_of(self.root, exercise):
            grader = cell["metadata"].get("nbgrader", {})
            if grader.get("grade_id") == "q" + exercise.number.replace(".", "_"):
                found["solution"] = source(cell)
        return found


class OldWorld(World):
    """Another checkout's course, as it was."""

    def __init__(self, root: Path) -> None:
        self.root = root
        sys.meta_path.insert(0, _Finder(root / "kvlab" / "course"))
        judging = importlib.import_module("old_course.judging")
        self.judge, self.draw = judging.judge, judging.draw
        self.local = importlib.import_module("old_course.answer").LocalAnswer
        chapters = sorted(p.stem for p in (root / "kvlab" / "course").glob("ch[0-9][0-9].py"))
        modules = [importlib.import_module(f"old_course.{chapter}") for chapter in chapters]
        self.all = {e.number: e for module in modules for e in module.EXERCISES}


class _Finder:
    """Finds `old_course` and its modules in a checkout's kvlab/course."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        package, _, module = name.partition(".")
        if package != "old_course":
            return None
        file = self._folder / f"{module or '__init__'}.py"
        where = None if module else []
        return importlib.util.spec_from_file_location(
            name, file, loader=_Loader(name, str(file)), submodule_search_locations=where
        )


class _Loader(SourceFileLoader):
    """Reads a file as if its course had been called `old_course`; leaves no bytecode behind."""

    def get_code(self, fullname: str):
        path = self.get_filename(fullname)
        text = Path(path).read_text(encoding="utf-8").replace("kvlab.course", "old_course")
        return compile(text, path, "exec", dont_inherit=True)


# --- what there is ------------------------------------------------------------------------------


def source(cell: dict) -> str:
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def notebooks(root: Path) -> dict[str, list[dict]]:
    files = sorted((root / "solutions").glob("*.ipynb"))
    return {f.name: json.loads(f.read_text(encoding="utf-8"))["cells"] for f in files}


def cells_of(root: Path, exercise) -> list[dict]:
    """An exercise's cells in the solutions: from its heading to its check."""
    end = "q" + exercise.number.replace(".", "_") + "_check"
    for cells in notebooks(root).values():
        ids = [cell["metadata"].get("nbgrader", {}).get("grade_id") for cell in cells]
        heads = [i for i, c in enumerate(cells) if source(c).startswith(f"## {exercise.number} ")]
        if heads and end in ids:
            return cells[heads[0] : ids.index(end) + 1]
    return []


def digest(value) -> str:
    """Of numbers, text, tensors, and lists and dicts of them; of other objects, their type."""
    hashed = hashlib.sha256()

    def add(x) -> None:
        if isinstance(x, torch.Tensor):
            x = x.detach().contiguous()
            hashed.update(f"{x.dtype}{tuple(x.shape)}".encode())
            hashed.update(x.flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(x, Mapping):
            for key in x:
                add(key)
                add(x[key])
        elif isinstance(x, (list, tuple)):
            hashed.update(f"{type(x).__name__}{len(x)}".encode())
            for y in x:
                add(y)
        elif x is None or isinstance(x, (bool, int, float, str)):
            hashed.update(repr(x).encode() + b";")
        else:
            hashed.update(type(x).__qualname__.encode())

    add(value)
    return hashed.hexdigest()[:20]


def inventory(world: World) -> dict:
    found, taken = {}, set()
    for e in world.all.values():
        about = {name: getattr(e, name) for name in ABOUT}
        drawn = {seed: world.draw(e, e.cases, seed) for seed in SEEDS}
        cells = [source(cell) for cell in cells_of(world.root, e)]
        taken |= set(cells)
        found[e.number] = about | {
            "laws": [law.name for law in e.laws],
            "clock": None if e.clock is None else [e.clock.name, e.clock.at_least],
            "says": [wrong.says for wrong in e.wrong],
            "wrong answers": len(e.wrong),
            "cases": [digest(cases) for cases in drawn.values()],
            "sizes": [[e.size(case) for case in cases] for cases in drawn.values()],
            # as code, since neither layout nor comments make another answer
            "second": ast.unparse(ast.parse(world.right(e)["second"])),
            "cells": cells,
        }
    for name, cells in notebooks(world.root).items():
        rest = [source(cell) for cell in cells if source(cell) not in taken]
        found[f"solutions/{name}"] = {"other cells": rest}
    return found


def compare(before: Path, after: Path) -> int:
    """Print what was lost, gained and changed; how much."""
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    counts = Counter()
    for key in dict.fromkeys([*old, *new]):
        if key not in old or key not in new:
            counts["lost" if key in old else "gained"] += 1
            print(f"{key}: {'lost' if key in old else 'gained'}")
            continue
        for name in dict.fromkeys([*old[key], *new[key]]):
            a, b = old[key].get(name), new[key].get(name)
            if a != b:
                counts["changed"] += 1
                print(f"{key}, {name}:", *difference(a, b), sep="\n  ")
    print(f"{len(old)} before, {len(new)} after: {dict(counts) or 'all the same'}")
    return sum(counts.values())


def difference(a, b) -> list[str]:
    """Two values as the lines in which they differ."""
    if a is not None and b is not None and type(a) is not type(b):
        return [f"- {a!r}", f"+ {b!r}"]
    sides = [lines(a), lines(b)]
    return list(difflib.unified_diff(*sides, n=0, lineterm=""))[2:]


def lines(value) -> list[str]:
    if isinstance(value, str):
        return value.splitlines()
    if isinstance(value, list):
        return [line for x in value for line in (lines(x) if isinstance(x, str) else [repr(x)])]
    return [] if value is None else [repr(value)]


def made(text: str, name: str):
    """What a cell defines."""
    namespace = {"torch": torch, "__name__": "answer"}
    exec(text, namespace)
    return namespace[name]


def crossed(giver: World, taker: World, direction: str, named: bool, only: list[str]) -> int:
    """All answers of one course to the exercises of another; how many disagree.

    With `named`, a wrong answer must be told its own sentence.
    """
    counts: dict[str, Counter] = {}
    complaints = []
    for number, theirs in giver.all.items():
        if only and not number.startswith(tuple(only)):
            continue
        count = counts.setdefault(number.split(".")[0], Counter())
        if number not in taker.all:
            complaints.append(f"{number} is not there")
            continue
        exercise = taker.all[number]
        for i, wrong in enumerate(theirs.wrong, 1):
            count["wrong"] += 1
            found = lost(taker, exercise, wrong, named)
            count["wrong, as before"] += not found
            complaints += [f"{number} wrong {i} ({wrong.says[:60]}…): {said}" for said in found]
        for kind, text in giver.right(theirs).items():
            count["right"] += 1
            found = passed(taker, exercise, text, theirs.name)
            count["right, as before"] += not found
            complaints += [f"{number} {kind}: {said}" for said in found]
        print(f"{direction}, {number}: {len(complaints)} disagree so far", file=sys.stderr)
    for chapter, count in counts.items():
        print(f"{direction}, chapter {chapter}: {dict(count)}")
    print(f"{direction}: {sum(counts.values(), Counter())}, {len(complaints)} disagree")
    print(*complaints, sep="\n")
    return len(complaints)


def lost(world: World, exercise, wrong, named: bool) -> list[str]:
    """What is said of a wrong answer that does not lose, or is not named."""
    found = []
    for seed in SEEDS:
        verdict = world.judge(exercise, world.local(wrong.answer), seed)
        if verdict.state != "failed":
            found.append(f"seed {seed}: {verdict.state}, {verdict.message}")
        elif named and wrong.says not in (verdict.mistake or ""):
            found.append(f"seed {seed}: told {verdict.mistake!r}; {verdict.message}")
    return found


def passed(world: World, exercise, text: str, name: str) -> list[str]:
    """What is said of a right answer that does not pass."""
    found = []
    for seed in SEEDS:
        answer = world.local(made(text, name), exercise.forbids)
        verdict = world.judge(exercise, answer, seed, clock=False)
        if verdict.state != "passed":
            found.append(f"seed {seed}: {verdict.state}, {verdict.message}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2)
    parser.add_argument("--cross", type=Path, metavar="OLD_CHECKOUT")
    parser.add_argument("--only", nargs="*", default=[], help="how the numbers to cross begin")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.compare:
        return compare(*args.compare) > 0
    new = World()
    if args.out:
        text = json.dumps(inventory(new), indent=1, ensure_ascii=False)
        args.out.write_text(text + "\n", encoding="utf-8")
    if not args.cross:
        return 0
    old = OldWorld(args.cross)
    disagree = crossed(old, new, "old answers, new exercises", True, args.only)
    return disagree + crossed(new, old, "new answers, old exercises", False, args.only) > 0


if __name__ == "__main__":
    sys.exit(main())
