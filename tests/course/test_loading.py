"""Exercises in a folder of a teacher's own, from the file to the marks."""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from kvlab.course import exercises, record
from kvlab.course.author import entries
from kvlab.course.author.variant import for_student
from kvlab.course.checking import check, hint
from kvlab.course.grading import notebooks
from kvlab.course.grading.grade import grade_source
from kvlab.course.sandbox import shown
from kvlab.course.sandbox.nursery import Nursery
from kvlab.shell import surroundings
from kvlab.shell.cli import ROOT, main
from tests.course.answering import local, run_cell

PAGE = (ROOT / "docs" / "how-to-add-an-exercise.md").read_text(encoding="utf-8")
SUM = re.findall(r"```python\n(.*?)```", PAGE, re.S)[0].replace("99.1", "20.1")
RIGHT = "def sum_slots(x_STD):\n    return x_STD.sum(1)\n"
WRONG = "def sum_slots(x_STD):\n    return x_STD.sum(0)\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with one exercise, that of docs/how-to-add-an-exercise.md."""
    home = tmp_path / "my exercises"
    home.mkdir()
    (home / "q20_1_sum.py").write_text(SUM, encoding="utf-8")
    return home


@pytest.fixture
def own(folder, monkeypatch):
    monkeypatch.setenv("KVLAB_EXERCISES", str(folder))
    return folder


def handed_in(folder, name, source):
    made = notebooks.read(folder / "exercises" / "20_exercises.ipynb")
    for cell in made["cells"]:
        if notebooks.grade_id(cell) == "q20_1":
            cell["source"] = source
    path = folder.parent / "in" / name / "20_exercises.ipynb"
    path.parent.mkdir(parents=True)
    notebooks.write(path, made)


def test_one_of_ones_own_goes_from_its_file_to_the_gradebook(folder, capsys):
    given = ["--exercises", str(folder)]
    assert main(["release", *given]) == 0
    assert "20_exercises.ipynb written" in capsys.readouterr().out
    assert main(["release", *given, "--check"]) == 0
    out = notebooks.read(folder / "exercises" / "20_exercises.ipynb")
    text = "\n".join(map(notebooks.source, out["cells"]))
    assert notebooks.STUB in text and "BEGIN SOLUTION" not in text and 'hint("20.1")' in text
    assert not re.search(re.escape(str(folder)), json.dumps(out))
    for name, source in (("ann", RIGHT), ("bob", WRONG)):
        handed_in(folder, name, source)
    marks = folder.parent / "marks.json"
    line = ["grade", str(folder.parent / "in"), *given, "--chapter", "20", "--json", str(marks)]
    assert main(line) == 0
    ann, bob = json.loads(marks.read_text(encoding="utf-8"))["notebooks"]
    assert (ann["points"], bob["points"], bob["out_of"]) == (2, 0, 2)
    assert bob["questions"][0]["mistake"] == "the sum runs over rows, not slots."
    capsys.readouterr()
    line = ["marks", str(marks), *given, "--weights", "20=2", "--per-student"]
    assert main(line) == 0 and '"ann","",4,4,4,4,0,2' in capsys.readouterr().out
    assert main(["hint", "20.1", *given]) == 0 and "Which axis" in capsys.readouterr().out
    assert main(["progress", *given]) == 0 and "Sum over slots" in capsys.readouterr().out
    assert "KVLAB_EXERCISES" not in os.environ
    assert main(["hint", "20.1"]) == 1 and "KVLAB_EXERCISES names" in capsys.readouterr().err


def test_a_notebook_finds_them_by_the_variable(own):
    assert check("20.1", lambda x: x.sum(1), seed=1).passed
    assert check("20.1", lambda x: x.sum(0), seed=1).mistake == "the sum runs over rows, not slots."
    assert "Which axis" in repr(hint("20.1", 1)) and "20.1" in record.as_text()
    assert [e.number for e in exercises.ALL] == [
        e.number for e in exercises.exercises() if e.chapter != "20"
    ]
    assert surroundings.OWN == shown.OWN


def test_folders_of_chapters_share_files_and_name_their_notebooks(own):
    (own / "ch21").mkdir()
    (own / "ch21" / "__init__.py").write_text("NOTEBOOK = '21_sums'\nINTRODUCTION = '# Sums'\n")
    (own / "ch21" / "_sizes.py").write_text("SIZES = [2, 3, 4, 5, 6]\n")
    text = SUM.replace("20.1", "21.1").replace("[2, 3, 4, 5, 6]", "SIZES")
    (own / "ch21" / "q21_1_sum.py").write_text("from ._sizes import SIZES\n" + text)
    (own / "q6_9_sum.py").write_text(SUM.replace("20.1", "6.9"))
    found = {c.number: c for c in exercises.chapters()}
    assert found["21"].notebook == "21_sums" and found["21"].introduction == "# Sums"
    assert check("21.1", lambda x: x.sum(1), seed=1).passed
    assert [e.number for e in found["6"].exercises][-2:] == ["6.8", "6.9"]
    assert found["6"].notebook == "06_kv_cache" and found["6"].folder == own
    assert found["5"].folder is None


FAULTS = {
    "not there": ({}, "is not there; expected a folder of exercises"),
    "empty": ({"_shared.py": ""}, "has no exercise in it; expected files like q20_1_sum.py"),
    "no Q": ({"q20_1_sum.py": "x = 1\n"}, "q20_1_sum.py is no exercise: it has no Q; expected"),
    "Q is text": ({"q20_1_sum.py": "Q = 'sum'\n"}, "it has a Q of type str; expected"),
    "not named": ({"sum.py": SUM}, "sum.py is not named like an exercise (q20_1_sum.py"),
    "other number": ({"q20_2_sum.py": SUM}, "has the number '20.1'; a file of this name holds"),
    "other chapter": ({"ch21/q20_1_sum.py": SUM}, "is not named like an exercise (q21_1_sum.py"),
    "other folder": ({"sums/q20_1_sum.py": SUM}, "is not named like a chapter's folder (ch20)"),
    "twice": (
        {"q20_1_a.py": SUM, "q20_1_b.py": SUM},
        "There are two exercises with the number 20.1; one of them is in",
    ),
    "as the book": (
        {"q6_1_sum.py": SUM.replace("20.1", "6.1")},
        "There are two exercises with the number 6.1; one of them is in",
    ),
    "one name": (
        {"q20_1_a.py": SUM, "q20_2_b.py": SUM.replace("20.1", "20.2")},
        "The exercises 20.1 and 20.2 both ask for sum_slots; one of them is in",
    ),
    "import": (
        {"q20_1_sum.py": "import torch\nimport no_such\n"},
        "q20_1_sum.py does not run: ModuleNotFoundError: No module named 'no_such' (line 2).",
    ),
    "name": (
        {"q20_1_sum.py": SUM.replace("from kvlab.course.author import Exercise", "")},
        "q20_1_sum.py does not run: NameError: name 'Exercise' is not defined (line",
    ),
    "syntax": ({"q20_1_sum.py": "Q = = 1\n"}, "does not run: invalid syntax (q20_1_sum.py, line 1"),
    "exit": ({"q20_1_sum.py": "exit(0)\n"}, "q20_1_sum.py does not run: SystemExit: 0 (line 1)."),
    "half": (
        {"q20_1_sum.py": SUM.split("@Q.case")[0]},
        "exercise 20.1 has no case (@Q.case), no solution (@Q.solution), no law (@Q.law",
    ),
    "notebook": (
        {"ch20/q20_1_sum.py": SUM, "ch20/__init__.py": "NOTEBOOK = '../sums'\n"},
        "__init__.py: NOTEBOOK is '../sums'; expected a name that begins with the chapter's number",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_will_not_do_is_refused_by_name(name, tmp_path, capsys):
    files, said = FAULTS[name]
    folder = tmp_path / "own"
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    assert main(["hint", "6.1", "--exercises", str(folder)]) == 1
    err = capsys.readouterr().err
    assert said in err and str(folder) in err and err.count("\n") == 1, err


def test_a_file_that_was_mended_is_read_again(own):
    path = own / "q20_2_other.py"
    path.write_text("Q = = 1\n")
    with pytest.raises(ValueError, match="invalid syntax"):
        exercises.find("20.1")
    path.unlink()
    assert exercises.find("20.1").title == "Sum over slots"


def test_an_answer_does_not_see_the_folder_though_it_lies_beside_python(monkeypatch):
    with tempfile.TemporaryDirectory(dir=sys.prefix) as home:
        Path(home, "q20_1_sum.py").write_text(SUM, encoding="utf-8")
        monkeypatch.setenv("KVLAB_EXERCISES", home)
        assert str(Path(home).resolve()) in shown.hidden()
        source = (
            "import os\n\n\ndef sum_slots(x_STD):\n"
            f"    told = {shown.OWN!r} in os.environ\n"
            f"    seen = os.listdir({home!r})\n"
            "    raise ValueError(f'saw {seen}, {told}')\n"
        )
        with Nursery() as nursery:
            if nursery.level.name not in ("bubblewrap", "namespaces"):
                pytest.skip("nothing is hidden on this system")
            found = grade_source(exercises.find("20.1"), source, 1, nursery)
            assert "saw [], False" in found.message
            assert grade_source(exercises.find("20.1"), RIGHT, 1, nursery).passed


EACH = re.findall(r"```python\n(.*?)```", PAGE, re.S)[-1].replace("99.6", "20.1")


def answer_of(notebook):
    """The right number for the exercise that a notebook asks."""
    text = "\n".join(map(notebooks.source, notebook["cells"]))
    prompt, new = map(int, re.search(r"(\d+) prompt tokens, (\d+) new", text).groups())
    return f"def rows_of_my_loop():\n    return {sum(range(prompt, prompt + new))}\n"


def test_a_number_copied_from_a_neighbour_fails(folder, capsys):
    (folder / "q20_1_sum.py").write_text(EACH, encoding="utf-8")
    roster = folder.parent / "class.csv"
    roster.write_text("id,name\ns-1,Ann\ns-2,Bob\n s-3,Eve\n", encoding="utf-8")
    given = ["--exercises", str(folder), "--roster", str(roster)]
    assert main(["release", *given]) == main(["release", *given, "--check"]) == 0
    of = {n: folder / "students" / f"s-{n}" / "20_exercises.ipynb" for n in (1, 2, 3)}
    texts = {n: answer_of(notebooks.read(path)) for n, path in of.items()}
    assert len(set(texts.values())) == 3
    # Bob copies Ann's answer into his notebook; Eve hands in Ann's whole notebook
    for who, made_for in (("Ann", 1), ("s-2", 2), ("S-3 ", 1)):
        notebook = notebooks.read(of[made_for])
        for cell in notebook["cells"]:
            if notebooks.grade_id(cell) == "q20_1":
                cell["source"] = texts[1]
        path = folder.parent / "in" / who / "20_exercises.ipynb"
        path.parent.mkdir(parents=True)
        notebooks.write(path, notebook)
    marks = folder.parent / "marks.json"
    assert main(["grade", str(folder.parent / "in"), *given, "--json", str(marks)]) == 0
    rows = {r["name"][:3]: r for r in json.loads(marks.read_text("utf-8"))["notebooks"]}
    assert {who: row["points"] for who, row in rows.items()} == {"Ann": 1, "s-2": 0, "S-3": 0}
    assert rows["S-3"]["note"].startswith("made for s-1, judged by the numbers of s-3")
    assert "is not right" in rows["s-2"]["questions"][0]["message"]
    # one notebook alone is its own student's, or whose one says
    ann = str(folder.parent / "in" / "Ann" / "20_exercises.ipynb")
    for more, code in (([], 0), (["--student", "S-1"], 0), (["--student", "s-2"], 1)):
        assert main(["grade", ann, *given[:2], *more]) == code
    capsys.readouterr()
    assert main(["grade", str(folder.parent / "in"), *given, "--student", "s-1"]) == 1
    assert "it says whose a single one is" in capsys.readouterr().err


def test_check_asks_for_the_students_own_numbers(own, monkeypatch):
    (own / "q20_1_sum.py").write_text(EACH, encoding="utf-8")
    made = {s: for_student(exercises.find("20.1"), s) for s in ("s-1", "s-2")}
    right = {s: run_cell(e.second, "rows_of_my_loop") for s, e in made.items()}
    assert made["s-1"].statement == for_student(exercises.find("20.1"), " S-1").statement
    assert check("20.1", right["s-1"], student="s-1").passed
    assert not check("20.1", right["s-1"], student="s-2").passed
    monkeypatch.setenv("KVLAB_STUDENT", "s-2")
    assert check("20.1", right["s-2"]).passed and not check("20.1", right["s-1"]).passed
    with pytest.raises(ValueError, match="The student 7 was named; expected an id as text"):
        check("20.1", right["s-2"], student=7)
    for n in ("6.1", "20.1"):
        assert "Hint 1 of 3" in repr(hint(n, 1, student="s-1"))


IN_MAKE = """
from kvlab.course.author import Exercise, per_student


def make(rng):
    factor = rng.randint(2, 99)
    Q = Exercise(
        "20.1", "Times", "times", points=1, minutes=1, difficulty=1,
        statement=f"Return {factor} times x.", hints=("a", "b", "c"),
    )
    Q.case(lambda rng: {"x": rng.randint(1, 9)})

    @Q.solution
    def times(x):
        ### BEGIN SOLUTION
        return factor * x
        ### END SOLUTION

    Q.agrees("the product", "x")
    return Q


Q = per_student(make)
"""


def test_constants_of_a_variant_stand_above_its_solution(own):
    (own / "q20_1_times.py").write_text(IN_MAKE)
    (own / "q20_1_sum.py").unlink()
    two = [for_student(exercises.find("20.1"), s) for s in ("s-1", "s-2")]
    for one, other in (two, two[::-1]):
        factor = re.search(r"Return (\d+) times", one.statement)[1]
        assert one.cell.startswith(f"factor = {factor}\n\n\ndef times(x):")
        assert local(one, one.cell).passed and not local(other, one.cell).passed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rng.randint(2, 99)", "7"), "has the same statement for every student"),
        (('"Times"', 'f"Times {factor}"'), "has the title 'Times"),
        (("factor = rng.randint(2, 99)", "factor = [rng.randint(2, 99)]"), "uses factor of the"),
    ],
)
def test_a_variant_that_is_none_is_refused(change, said, own):
    (own / "q20_1_sum.py").write_text(IN_MAKE.replace(*change))
    with pytest.raises(ValueError, match=said):
        exercises.find("20.1")


def test_the_entries_of_cases_are_listed(own, capsys):
    assert main(["cases", "20.1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"x_STD +torch.float64 +position × slot × channel, for example \(\d", out)
    assert "All sizes different, no special values." in out
    assert main(["cases"]) == 0
    out = capsys.readouterr().out
    for exercise in exercises.exercises():
        assert f"{exercise.number} {exercise.title}\n" in out
    assert (
        re.search(r"  n_new +int +\d+ to \d+\n", out)
        and "No entries: this question is the same" in out
    )
    assert main(["cases", "9.9"]) == 1 and "9.9" in capsys.readouterr().err


def test_a_case_is_held_to_the_entries(own):
    known = entries.entries(exercises.find("20.1"))
    good = {"x_STD": torch.zeros(1, 2, 3).double()}
    assert entries.fault(known, good) == ""
    assert "x_STD is of type torch.float32; expected torch.float64" in entries.fault(
        known, {"x_STD": good["x_STD"].float()}
    )
    assert "x_STD has 2 axes; expected 3" in entries.fault(known, {"x_STD": good["x_STD"][0]})
    assert "the entries none came" in entries.fault(known, {})
