"""Every public name has an example, which runs and prints what stands below it."""

import contextlib
import importlib.util
import inspect
import io
import json
import os
import re
import socket
import subprocess
import sys

import pytest

from kvlab.shell.cli import ROOT
from kvlab.shell.site import examples, public

ROOMS = (
    "kvlab", "kvlab.prune.scores", "kvlab.prune", "kvlab.pack", "kvlab.measure", "kvlab.serve",
    "kvlab.quality", "kvlab.view", "kvlab.parallel",
    *(["kvlab.hf"] if importlib.util.find_spec("transformers") else []),
)  # fmt: skip
FOLDER = ROOT / "docs" / "examples"
EXAMPLES = examples(FOLDER)
SPREAD = [name for name, example in EXAMPLES.items() if "joined(" in example.code]
# Runs programs one after the other in each of two processes; each starts from a port of its own.
DRIVER = """
import json, os, sys
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
for name, (port, code) in json.load(open(sys.argv[1])).items():
    os.environ["MASTER_PORT"] = str(port)
    sys.stdout = open(f"{sys.argv[1]}.{name}.{os.environ['RANK']}", "w")
    exec(compile(code, name, "exec"), {"__name__": name})
    sys.stdout.close()
"""
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
    absent = () if "kvlab.hf" in ROOMS else ("kvlab.hf",)  # needs transformers, to be looked at
    there = [name for name in EXAMPLES if name.rpartition(".")[0] not in absent]
    assert sorted(there) == sorted(wanted(ROOMS))
    for page in FOLDER.glob("*.md"):
        headings = re.findall(r"^## `?(.+?)`?$", page.read_text(encoding="utf-8"), re.M)
        own = [name.rpartition(".")[2] for name in EXAMPLES if name.rpartition(".")[0] == page.stem]
        assert headings == own, f"{page.name}: a heading, a sentence, a block, and what it prints"


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in SPREAD])
def test_an_example_prints_what_stands_below_it(name):
    if name.startswith("kvlab.hf."):
        pytest.importorskip("transformers", reason="needs transformers")
    example, said = EXAMPLES[name], io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example.code, name, "exec"), {"__name__": name})
    got = said.getvalue().rstrip()
    assert alike(got, example.printed.rstrip()), got


def free_ports(n):
    """Ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        asked = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [one.getsockname()[1] for one in asked]


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """What the programs for two processes printed; torchrun starts the two once for all."""
    folder = tmp_path_factory.mktemp("spread")
    codes = [EXAMPLES[name].code for name in SPREAD]
    programs = dict(zip(SPREAD, zip(free_ports(len(SPREAD)), codes, strict=True), strict=True))
    (folder / "programs").write_text(json.dumps(programs))
    (folder / "run.py").write_text(DRIVER)
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(folder / "run.py"), str(folder / "programs")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return {
        name: "".join((folder / f"programs.{name}.{rank}").read_text() for rank in range(2))
        for name in SPREAD
    }


@pytest.mark.parametrize("name", SPREAD)
def test_an_example_for_two_processes_prints_what_stands_below_it(name, spread):
    assert alike(spread[name].rstrip(), EXAMPLES[name].printed.rstrip()), spread[name]


def test_outputs_are_compared_in_the_digits_that_are_shown():
    assert alike("tensor([0.8044, 1.])", "tensor([0.8043, 1.])")
    assert not alike("0.8044", "0.8021") and not alike("2 slots", "3 slots")
    assert not alike("0.5 of it", "0.5") and not alike("1.0 2.0", "1.0")
