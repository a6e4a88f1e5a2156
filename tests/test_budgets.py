"""Files and functions are short, or their file's head says why not: "Long because ..."."""

import ast
import re
from pathlib import Path

import kvlab

PACKAGE = Path(kvlab.__file__).parent
FILE_LINES, FUNCTION_LINES, CORE_LINES = 300, 40, 2300
# what one reads to know how a prompt is answered; beside these stand checks, readers of files, hf
CORE = [
    "families",
    "config",
    "ops",
    "tokenizer",
    "ledger",
    "protocol",
    "slots",
    "cache",
    "attention",
    "model",
    "prompts",
    "sampling",
    "generation",
    "checkpoint",
]


def long_ones(source):
    """What of a file is over budget."""
    n_lines = len(source.splitlines())
    found = [f"{n_lines} lines"] if n_lines > FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            n_lines = node.end_lineno - node.lineno + 1
            if n_lines > FUNCTION_LINES:
                found.append(f"{node.name} has {n_lines}")
    return found


def says_why(source):
    """Whether a file's docstring gives a reason."""
    head = ast.get_docstring(ast.parse(source)) or ""
    return bool(re.search(r"(^|[.:]\s+|\n)Long because \S", head))


def test_what_is_long_says_why():
    over = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        found = long_ones(source)
        if found and not says_why(source):
            over[path.relative_to(PACKAGE).as_posix()] = found
    assert over == {}


def test_a_reason_is_given_only_where_it_is_needed():
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert long_ones(source) or not says_why(source), f"{path} is not long"


def test_the_core_is_read_in_an_evening():
    lines = {name: len((PACKAGE / f"{name}.py").read_text("utf-8").splitlines()) for name in CORE}
    assert sum(lines.values()) <= CORE_LINES, lines


def test_long_files_and_functions_are_found():
    line = "x = 1\n"
    assert long_ones(line * 300) == [] and long_ones(line * 301) == ["301 lines"]
    body = "    x = 1\n"
    assert long_ones("def f():\n" + body * 39) == []
    assert long_ones("class A:\n    def f():\n" + f"    {body}" * 40) == ["f has 41"]
    assert says_why('"""Head.\n\nLong because it is.\n"""\n') and not says_why('"""Head."""\n')
    assert not says_why("# Long because it is.\n")
