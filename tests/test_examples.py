"""Every public name has an example, which runs and prints what stands below it."""

import contextlib
import inspect
import io
import re

import pytest

from kvlab.shell.cli import ROOT
from kvlab.shell.site import examples, public

ROOMS = (
    "kvlab", "kvlab.prune.scores", "kvlab.prune", "kvlab.pack", "kvlab.measure", "kvlab.serve",
    "kvlab.quality", "kvlab.view",
)  # fmt: skip
FOLDER = ROOT / "docs" / "examples"
EXAMPLES = examples(FOLDER)
NUMBER = re.compile(r"-?\d+\.\d*(?:e[-+]\d+)?")


def wanted(rooms):
    """The full names that need an example: what several rooms hand on has one in the first."""
    found, before = [], []
    for room in rooms:
        names = public(room)
        found += [
            f"{room}.{name}"
            for name, of in names.items()
            if not (inspect.isroutine(of) or inspect.isclass(of)) or of not in before
        ]
        before += names.values()
    return found


def alike(got, told):
    """Whether two outputs agree: words and whole numbers exactly, others in the digits shown."""
    if NUMBER.sub("#", got) != NUMBER.sub("#", told):
        return False
    pairs = zip(NUMBER.findall(got), NUMBER.findall(told), strict=True)
    return all(abs(float(a) - float(b)) <= 10.0 ** -len(b.partition(".")[2]) for a, b in pairs)


def test_every_public_name_has_an_example_and_no_other_name_has():
    assert sorted(EXAMPLES) == sorted(wanted(ROOMS))
    for page in FOLDER.glob("*.md"):
        headings = re.findall(r"^## `?(.+?)`?$", page.read_text(encoding="utf-8"), re.M)
        own = [name.rpartition(".")[2] for name in EXAMPLES if name.rpartition(".")[0] == page.stem]
        assert headings == own, f"{page.name}: a heading, a sentence, a block, and what it prints"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_stands_below_it(name):
    example, said = EXAMPLES[name], io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example.code, name, "exec"), {"__name__": name})
    got = said.getvalue().rstrip()
    assert alike(got, example.printed.rstrip()), got


def test_outputs_are_compared_in_the_digits_that_are_shown():
    assert alike("tensor([0.8044, 1.])", "tensor([0.8043, 1.])")
    assert not alike("0.8044", "0.8021") and not alike("2 slots", "3 slots")
    assert not alike("0.5 of it", "0.5") and not alike("1.0 2.0", "1.0")
