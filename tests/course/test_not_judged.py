"""An answer that the judge cannot judge is a state in every report, and nowhere a silent 0."""

import json

import pytest

from kvlab.course.author.spec import Verdict
from kvlab.course.exercises import find
from kvlab.course.grading import analysis, analysis_page, feedback, gradebook, marks, report
from kvlab.course.grading.grade import Graded
from kvlab.course.grading.marks import Scheme
from kvlab.course.sandbox.walls import LEVELS
from kvlab.shell.cli import ROOT

MET = "The judge met something that it cannot judge (KeyError: 3). Read this answer by hand."
ASKS = "6.3 not judged: to be read by hand"


@pytest.fixture
def graded():
    verdicts = Verdict(find("6.1"), "passed", "x"), Verdict(find("6.3"), "not judged", MET)
    return Graded("ann/06.ipynb", verdicts, LEVELS["namespaces"], "odd", "ann/06")


@pytest.fixture
def klass(graded):
    return marks.by_student([report.row(graded)], Scheme())


def test_in_the_table(graded):
    text = report.as_text(graded)
    assert "0 of 4   not judged" in text and MET in text


def test_in_the_json_which_keeps_its_schema(graded):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "marks.schema.json").read_text(encoding="utf-8"))
    text = report.as_json([report.row(graded)], report.head("walls", "grade 1"))
    jsonschema.validate(json.loads(text), schema)
    [found] = json.loads(text)["notebooks"]
    assert found["questions"][1]["state"] == "not judged" and found["note"] == f"odd; {ASKS}"


def test_in_the_csv_for_gradescope_and_per_student(graded, klass):
    one = report.row(graded)
    shown = json.loads(report.as_gradescope(one))
    assert shown["tests"][1]["status"] == "failed" and shown["tests"][1]["output"] == MET
    for text in (report.as_csv([one]), shown["output"], gradebook.per_student(klass)):
        assert f"odd; {ASKS}" in text


def test_in_what_the_student_and_the_class_see(klass):
    [student] = klass.students
    for page in (feedback.as_markdown(klass, student, "ann"), feedback.as_html(klass, student)):
        assert "to be read by hand" in page and "cannot judge" in page
    [line] = [line for line in analysis.as_text(klass).splitlines() if line.startswith("6.3 ")]
    assert line.split()[-4:] == ["0", "0", "0", "1"]  # passed, failed, not answered, other
    pytest.importorskip("matplotlib")
    assert "<td>0</td><td>0</td><td>0</td><td>1</td>" in analysis_page.page(klass)


def test_it_keeps_no_share_of_its_points(klass):
    [student] = marks.by_student(
        [report.row(Graded("a", (Verdict(find("6.3"), "not judged", MET, held=3),),
                           LEVELS["limits"]))], Scheme(partial=True),
    ).students  # fmt: skip
    assert student.points(Scheme(partial=True)) == 0
