"""Answer cells as notebooks really have them: `check` in the notebook and `grade` agree on each."""

import sys

import pytest

from kvlab.course.grading import notebooks
from kvlab.course.grading.grade import grade_source
from kvlab.course.sandbox.magics import python_of
from tests.course.answering import ANSWERS, BY_NUMBER, STUBS

RIGHT = ANSWERS["2.1"]
CHECK = 'check("2.1", causal_mask)'
INDENTED = "\n".join("    " + line for line in RIGHT.splitlines())
POOL = """from multiprocessing import Pool

def double(x): return 2 * x

with Pool(2) as pool:
    assert pool.map(double, [1, 2]) == [2, 4]
"""
DATACLASS = """from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Size:
    new: int
    slots: int = 0
"""
MODERN = """import enum, pickle, typing, dataclasses
@dataclasses.dataclass(slots=True)
class A:
    n: int
    k: typing.ClassVar[int] = 3
class B(enum.Enum):
    x = 1
class C(typing.NamedTuple):
    n: int
assert pickle.loads(pickle.dumps(A(2))).n == 2 and C.__annotations__ == {"n": int}
"""

HONEST = {
    "check below": f"{RIGHT}\n{CHECK}",
    "the verdict kept": f"{RIGHT}\nv = {CHECK}\nassert v.passed, v\nprint(v.message, v.case)",
    "hint": f'{RIGHT}\nhint("2.1")\nprint(hint("2.1", 2))',
    "display": f"display(1)\n{RIGHT}\ndisplay(causal_mask(2, 3))",
    "from kvlab": f"from kvlab import check, hint\n{RIGHT}\n{CHECK}",
    "from kvlab.course": f"from kvlab.course import check\n{RIGHT}\n{CHECK}",
    "import kvlab": f"import kvlab\n{RIGHT}\nkvlab.{CHECK}",
    "IPython's display": f"from IPython.display import display\n{RIGHT}\ndisplay(1)",
    "IPython by other names": "import IPython, IPython.display as d\nimport ipywidgets\n"
    f"from IPython.display import HTML, clear_output\n{RIGHT}\nclear_output(wait=True)\n"
    "d.display(HTML('x'))\nipywidgets.IntSlider(3)",
    "get_ipython": f"{RIGHT}\nget_ipython().run_line_magic('timeit', '-n1 -r1 causal_mask(2, 3)')",
    "a question": f"?torch.arange\n{RIGHT}\ncausal_mask?\ntorch.arange??",
    "%timeit": f"{RIGHT}\n%timeit -n1 -r1 causal_mask(2, 3)",
    "%time that makes something": f"import torch\n%time one = 1\n{RIGHT.replace('+ 1', '+ one')}",
    "%%time": f"%%time\n{RIGHT}",
    "%%capture": f"%%capture out\n{RIGHT}\nprint(causal_mask(2, 3))",
    "!pip": f"!echo \\\n  here\n{RIGHT}",
    "what a shell said": f"files = !echo x\n{RIGHT}",
    "a remainder at the start of a line": f"%time x = 7\n{RIGHT}\ny = (x\n% 3)\n'''\n%time\n?\n'''",
    "dataclasses and annotations": DATACLASS + RIGHT,
    "magic above a future import": f"%time\n{DATACLASS}{RIGHT}",
    "classes that look for their module": MODERN + RIGHT,
    "under a main": f'if __name__ == "__main__":\n{INDENTED}',
    "indented": INDENTED,
    "prompts": "".join(f">>> {line}\n" for line in RIGHT.splitlines() if line),
    "processes": POOL + RIGHT,
    "tried out with what another cell has": f"{RIGHT}\ncausal_mask(elsewhere, 9)",
    "stops the notebook": f"import sys\n{RIGHT}\nsys.exit('stop here')  # elsewhere",
    "interrupts itself": f"{RIGHT}\nraise KeyboardInterrupt  # elsewhere",
    "an object that is called": f"{RIGHT}\nclass Called:\n    names = {{'mask': causal_mask}}\n"
    "    def __call__(self, *sizes): return self.mask(*sizes)\n"
    "    def __getattr__(self, name): return self.names[name]\ncausal_mask = Called()",
    "its helper below it": RIGHT.replace("def causal", "def own").join(
        ["def causal_mask(*sizes):\n    return own_mask(*sizes)\n", ""]
    ),
    "text beyond Latin": f'print("\\u2192 \\u674e")\n{RIGHT}',
    "an object's own annotations": f"import numpy as np\ndef f(x: np.ndarray): return x\n{RIGHT}",
}
# Right in a notebook where another cell, or a file, has what they use: cell, what is missing.
TAKEN = {
    "a helper": ("def causal_mask(*sizes):\n    return helper(*sizes)", "helper"),
    "an import": (f"import torch\n{RIGHT.replace('range(n', 'operator.index(1) * range(n')}"
                  .replace("operator.index(1) * range(n_new)", "range(operator.index(n_new))"),
                  "operator"),
    "a number": (RIGHT.replace("+ 1", "+ elsewhere - 1"), "elsewhere"),
    "what runs before it": (f"x = elsewhere + 1\n{RIGHT}", "elsewhere"),
    "through a helper below it": (
        "def causal_mask(*sizes):\n    return own(*sizes)\n"
        "def own(*sizes):\n    return helper(*sizes)",
        "helper",
    ),
    "under %%time": ("%%time\ndef causal_mask(*sizes):\n    return helper(*sizes)", "helper"),
    "a default": (RIGHT.replace("n_slots)", "n_slots, one=elsewhere)", 1), "elsewhere"),
    "a file": ("from own_file import helper as causal_mask", "own_file"),
    "a file, inside": ("def causal_mask(*sizes):\n    import own_file\n"
                       "    return own_file.helper(*sizes)", "own_file"),
}  # fmt: skip
OTHERS = RIGHT.replace("causal_mask", "helper") + "\nimport operator\nelsewhere = 2\n"


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """IPython as a notebook's kernel has it, with another cell run before."""
    pytest.importorskip("IPython")
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    for name in ("IPYTHONDIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "own_file.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    config = Config({"HistoryManager": {"enabled": False}})
    made = InteractiveShell.instance(config=config)
    made.run_cell("import torch\nfrom kvlab import check, hint", store_history=True)
    made.run_cell(OTHERS, store_history=True)
    yield made
    InteractiveShell.clear_instance()
    sys.modules.pop("own_file", None)


def checked(shell, source):
    """What `check` says in a notebook where this is the answer's cell."""
    shell.run_cell(source, store_history=True)
    done = shell.run_cell(CHECK, store_history=True)
    done.raise_error()
    return done.result


@pytest.mark.parametrize("style", HONEST)
def test_an_honest_cell_passes_both_ways(style, shell, nursery):
    verdict = checked(shell, HONEST[style])
    assert verdict.passed and "alone" not in verdict.message, verdict
    verdict = grade_source(BY_NUMBER["2.1"], HONEST[style], 3, nursery)
    assert verdict.passed, verdict
    assert ("stopped below its answer" in verdict.message) == ("elsewhere" in HONEST[style])


def test_what_shows_something_is_the_same_whether_the_grader_has_it_or_not(nursery):
    source = (
        "import IPython.display as d, ipywidgets\nfrom IPython.display import display\n"
        "for one in (d, display, ipywidgets, d.HTML('x')):\n"
        "    assert type(one).__name__ == 'Quiet'\n" + RIGHT
    )
    verdict = grade_source(BY_NUMBER["2.1"], source, 3, nursery)
    assert verdict.passed, verdict


@pytest.mark.parametrize("way", TAKEN)
def test_what_another_cell_has_is_told_by_both(way, shell, nursery):
    source, missing = TAKEN[way]
    verdict = checked(shell, source)
    assert verdict.passed and f"{missing}" in verdict.message, verdict
    assert "runs alone" in verdict.message and "into this cell" in verdict.message
    verdict = grade_source(BY_NUMBER["2.1"], source, 3, nursery)
    assert verdict.state == "failed" and "each answer cell runs alone" in verdict.message
    assert f"'{missing}'" in verdict.message and "copy" in verdict.message


def test_another_name_than_the_one_asked_for_is_told(shell, nursery):
    shell.run_cell(RIGHT.replace("causal_mask", "mine"), store_history=True)
    verdict = shell.run_cell('check("2.1", mine)').result
    assert verdict.passed and "Grading tries what its cell calls causal_mask" in verdict.message


def test_an_error_in_a_cell_with_magics_is_where_it_is(nursery):
    source = "%%time\n!pip list\ndef causal_mask(n_new, n_slots:\n    return 1"
    verdict = grade_source(BY_NUMBER["2.1"], source, 3, nursery)
    assert "SyntaxError" in verdict.message and "line 3" in verdict.message


@pytest.mark.parametrize(
    ("cell", "plain"),
    [
        ("x = 1 % 2", "x = 1 % 2"),
        ("%cd x\nx = (1\n%time\n)", "\nx = (1\n%time\n)"),
        ("if x:\n    %cd y\n    ?z", "if x:\n    pass\n    pass"),
        ("a = %time f(1)\nb = !ls\nc = %who", "a = f(1)\nb = []\nc = None"),
        ("!a \\\n b\nx = 1", "\n\nx = 1"),
        ("x = 1 + \\\n%y\nz = 2", "x = 1 + \\\n%y\nz = 2"),
        ("# is it right?\n%time\n", "# is it right?\n\n"),
        ("%time x = f(1)\r\n%%who\r\n", "x = f(1)\n\n"),
    ],
)
def test_lines_for_ipython_give_way_and_no_others(cell, plain):
    assert python_of(cell) == plain


def test_an_answer_beside_its_stub_is_found(tmp_path):
    notebook = notebooks.read(STUBS)
    right = {"cell_type": "code", "metadata": {}, "source": ANSWERS["6.3"], "outputs": []}
    notebook["cells"].append(right)
    names = {e.grade_id: e.name for e in BY_NUMBER.values() if e.chapter == "6"}
    found, notes = notebooks.collect(notebook, names)
    assert found["q6_3"] == ANSWERS["6.3"] and "q6_3 still holds the stub" in notes[0]
    assert notebooks.STUB in found["q6_1"]
