"""How much of a wrong engine the suite would notice: a command of its own, never part of the suite.

    pip install cosmic-ray==8.7.0
    python -m tests.mutation --sample 100 --seed 0 --out mutants.jsonl

Each mutant is one small change that cosmic-ray makes to one file, in a copy of the project. The
tests of its room run on it until one fails. Files take turns, so that a run that is stopped has
sampled them evenly, and `--out` is written as it goes. A mutant that does what the original does
is listed in `equivalent_mutants.toml`, with the reason, and counts for nothing.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import tokenize
import tomllib
from collections import Counter
from functools import cache
from itertools import chain, pairwise, zip_longest
from pathlib import Path

ROOT = Path(__file__).parent.parent
EQUIVALENT = Path(__file__).parent / "equivalent_mutants.toml"
SECONDS = 600  # a mutant that runs for ever is killed by then

_PACKED = "tests/pack/test_packed.py"
_PRUNE = (
    f"tests/prune/test_prune.py tests/prune/test_policies.py tests/quality/test_laws.py {_PACKED}"
)
_JUDGE = "tests/course/test_judge.py tests/course/test_compare.py tests/course/test_author.py"
# the tests that a file's mutants meet, the quickest first
TESTS = {
    "ops.py": "tests/test_ops.py tests/test_model.py tests/test_families.py",
    "attention.py": "tests/test_attention.py tests/test_model.py tests/prune/test_prune.py "
    f"{_PACKED}",
    "model.py": "tests/test_model.py tests/test_families.py tests/measure/test_probe.py",
    "slots.py": "tests/test_slots.py tests/test_cache.py tests/test_generation.py",
    "cache.py": "tests/test_cache.py tests/test_generation.py tests/test_cache_machine.py",
    "sampling.py": "tests/test_sampling.py tests/test_generation.py",
    "generation.py": "tests/test_generation.py tests/test_sampling.py tests/prune/test_prune.py",
    "prune/density.py": _PRUNE,
    "prune/elements.py": _PRUNE,
    "prune/evidence.py": _PRUNE,
    "prune/masks.py": _PRUNE,
    "prune/parts.py": _PRUNE,
    "prune/policy.py": _PRUNE,
    "prune/pruner.py": _PRUNE,
    "prune/scores.py": _PRUNE,
    "prune/tokens.py": _PRUNE,
    "pack/rows.py": "tests/pack/test_rows.py tests/pack/test_rules.py tests/pack/test_packed.py",
    "pack/rules.py": "tests/pack/test_rules.py tests/pack/test_packed.py",
    "pack/layer.py": "tests/pack tests/kernels/test_kernels_packed_triton.py tests/test_hf.py",
    "pack/cache.py": "tests/pack",
    "pack/body.py": "tests/pack",
    "course/judge.py": _JUDGE,
    "course/author/compare.py": _JUDGE,
    "course/author/laws.py": _JUDGE,
}


def main() -> int:
    """Try mutants, print the survivors and a table; 1 if any was neither killed nor equivalent."""
    parser = argparse.ArgumentParser("python -m tests.mutation", description=main.__doc__)
    parser.add_argument("--sample", type=int, default=100, help="mutants in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=TESTS, help="files; default: all of them")
    parser.add_argument("--out", type=Path, help="a line of JSON for each mutant")
    args = parser.parse_args()
    out = args.out and args.out.resolve()
    rows = []
    with tempfile.TemporaryDirectory(prefix="kvlab-mutants-") as place:
        stand_in(Path(place))
        for name, mutation in sampled(args.only or list(TESTS), args.sample, args.seed):
            rows.append(tried(name, mutation))
            print(f"{len(rows)} {rows[-1]['outcome']} {name}:{rows[-1]['line']}", flush=True)
            if out:
                with open(out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(as_text(rows))
    return int(any(row["outcome"] == "survived" for row in rows))


def stand_in(place: Path) -> None:
    """Copy what git knows of the project, and make it the project for this process and its tests.

    Mutants are written over the copies, so the project itself stays as it is.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    os.chdir(place)
    # a mutant of the same size and second would be taken for its original
    os.environ |= {
        "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"
    }  # fmt: skip


def sampled(names: list[str], n: int, seed: int) -> list[tuple]:
    """Draw mutations of files that take turns: (file, cosmic-ray's mutation)."""
    draw, drawn = random.Random(seed), []
    for name in names:
        found = mutations(Path("kvlab", name))
        drawn.append([(name, one) for one in draw.sample(found, min(n, len(found)))])
    turns = chain.from_iterable(zip_longest(*drawn))
    return [one for one in turns if one is not None][:n]


def mutations(path: Path) -> list:
    """All that cosmic-ray would change in a file, but for what no run of it could tell.

    Those are annotations, and the bare star of a signature, which it takes for a product.
    """
    from cosmic_ray.commands.init import init
    from cosmic_ray.work_db import WorkDB

    with tempfile.TemporaryDirectory() as folder:
        store = WorkDB(f"{folder}/session.sqlite", WorkDB.Mode.create)
        init([path], store, {})
        found = [item.mutations[0] for item in store.work_items]
        store.close()
    source = path.read_text(encoding="utf-8")
    silent = [*annotations(source), *bare_stars(source)]
    return [m for m in found if not any(a <= m.start_pos < z for a, z in silent)]


def annotations(source: str) -> list[tuple]:
    """Where a file's annotations begin and end, as (line, column) each."""
    nodes = []
    for node in ast.walk(ast.parse(source)):
        nodes += [getattr(node, name, None) for name in ("annotation", "returns")]
    return [
        ((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset))
        for n in nodes
        if isinstance(n, ast.AST)
    ]


def bare_stars(source: str) -> list[tuple]:
    """Where the stars are after which arguments need their names, as (line, column) each."""
    words = list(tokenize.generate_tokens(io.StringIO(source).readline))
    return [
        (word.start, word.end)
        for word, after in pairwise(words)
        if (word.string, after.string) == ("*", ",")
    ]


def command(tests: str) -> str:
    """How some tests are run until one fails."""
    return f"{shlex.quote(sys.executable)} -m pytest -x -q -p no:cacheprovider {tests}"


@cache
def passes_unchanged(tests: str) -> None:
    """Stop if tests fail without any mutant: they would seem to kill them all."""
    done = subprocess.run(shlex.split(command(tests)), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tests} fail without any mutant:\n{done.stdout[-2000:]}")


def tried(name: str, mutation) -> dict:
    """One mutant, what it changed, and what became of it."""
    from cosmic_ray.mutating import mutate_and_test

    passes_unchanged(TESTS[name])
    result = mutate_and_test([mutation], command(TESTS[name]), SECONDS)
    lines = (result.diff or "").splitlines()
    was = "\n".join(one[1:].strip() for one in lines if one.startswith("-") and one[1:2] != "-")
    now = "\n".join(one[1:].strip() for one in lines if one.startswith("+") and one[1:2] != "+")
    outcome = str(result.test_outcome.value)
    if outcome == "incompetent":  # nothing was tried, and so nothing was killed
        raise SystemExit(f"{name}:{mutation.start_pos[0]}: the tests did not run. {result.output}")
    listed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutant"]
    if any((m["file"], m["was"], m["now"]) == (name, was, now) for m in listed):
        outcome = "equivalent"
    return {
        "file": name, "line": mutation.start_pos[0], "outcome": outcome, "was": was, "now": now
    }  # fmt: skip


def as_text(rows: list[dict]) -> str:
    """Survivors, then a table of files, and the share that was killed of what could be."""
    lines = [
        f"survived: {row['file']}:{row['line']}\n  - {row['was']}\n  + {row['now']}"
        for row in rows
        if row["outcome"] == "survived"
    ]
    states = ("killed", "survived", "equivalent")
    lines.append(f"{'file':<26}" + "".join(f"{state:>12}" for state in states))
    files = {row["file"]: Counter() for row in rows}
    for row in rows:
        files[row["file"]][row["outcome"]] += 1
    total = sum(files.values(), Counter())
    for name, count in [*files.items(), ("all", total)]:
        lines.append(f"{name:<26}" + "".join(f"{count[state]:>12}" for state in states))
    if alive := total["killed"] + total["survived"]:
        lines.append(f"{total['killed'] / alive:.1%} of those that differ were killed.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
