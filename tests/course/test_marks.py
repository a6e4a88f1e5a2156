"""Marks of a class: rosters, lateness, gradebooks, zips, feedback, analysis, similarity."""

import csv
import io
import json
import re
import stat
import zipfile
from datetime import datetime

import pytest

from kvlab.course.exercises import find
from kvlab.course.grading import (
    analysis,
    archive,
    feedback,
    gradebook,
    late,
    marks,
    names,
    roster,
    similarity,
    tables,
)
from kvlab.course.grading.marks import Scheme
from kvlab.shell.cli import ROOT, main
from tests import hostile

SCHEMA = ROOT / "docs" / "marks.schema.json"
STUB = json.dumps(hostile.filled())
RIGHT = json.dumps(hostile.filled(q6_3=hostile.ANSWERS["6.3"]))
CLASS = """id,name,section
4711,Jürgen Müller,A
4712,李小龙,B
4713,"O'Brien, Pat",A
4714,Łukasz Żak,B
"""


def question(number, state="passed", points=None, **more):
    e = find(number)
    points = (e.points if state == "passed" else 0) if points is None else points
    known = {"number": number, "title": e.title, "points": points, "out_of": e.points,
             "state": state, "message": "as it was", "mistake": None, "held": 0, "laws": 1,
             "picture": ""}  # fmt: skip
    return known | more


def row(name, *questions, note="", submitted=None):
    return {
        "name": name, "file": f"{name}.ipynb", "points": sum(q["points"] for q in questions),
        "out_of": sum(q["out_of"] for q in questions), "note": note, "isolation": "namespaces",
        "submitted": submitted, "questions": list(questions),
    }  # fmt: skip


def saved(path, *rows):
    head = {"kvlab": "0.1.0", "isolation": "walls", "seed": "grade 1"}
    path.write_text(json.dumps(head | {"notebooks": list(rows)}))
    return path


@pytest.fixture
def known(tmp_path):
    path = tmp_path / "roster.csv"
    path.write_text(CLASS, encoding="utf-8")
    return roster.read(path)


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


# --- who it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("submission", "id", "name"),
    [
        ("ann/06_kv_cache", "", "ann"),
        ("ann/ch06/06_kv_cache", "", "ann"),
        ("06_kv_cache", "", "06_kv_cache"),
        ("ann_06_kv_cache", "", "ann"),
        ("ann - 06_kv_cache (1)", "", "ann"),
        ("Jürgen Müller_4711_assignsubmission_file_/06_kv_cache", "4711", "Jürgen Müller"),
        ("Jürgen Müller_4711_assignsubmission_file_06_kv_cache", "4711", "Jürgen Müller"),
        ("Ann_Lee_12_assignsubmission_file_/x", "12", "Ann_Lee"),
        ("mullerjurgen_4711_99_06_kv_cache", "4711", "mullerjurgen"),
        ("mullerjurgen_LATE_4711_99_06_kv_cache-1", "4711", "mullerjurgen"),
    ],
)
def test_a_submission_tells_whose_it_is(submission, id, name):
    assert names.who(submission) == names.Who(id, name)


def test_names_are_sorted_as_people_look_for_them_and_stand_in_columns():
    some = ["tina", "Łukasz", "van der Berg", "李小龙", "ann", "Éva", "Zoë", "Martin", "lukas"]
    assert sorted(some, key=names.order) == [
        "ann", "Éva", "lukas", "Łukasz", "Martin", "tina", "van der Berg", "Zoë", "李小龙"
    ]  # fmt: skip
    assert [names.width(t) for t in ("ann", "李小龙", "Zoe\u0308", "ｱ")] == [3, 6, 3, 1]
    assert names.padded("李小龙", 8) == "李小龙  " and names.padded("long", 2) == "long"


@pytest.mark.parametrize(
    ("submission", "name"),
    [
        ("4711/06_kv_cache", "Jürgen Müller"),
        ("week6/4711/06_kv_cache", "Jürgen Müller"),
        ("jürgen  MÜLLER/06_kv_cache", "Jürgen Müller"),
        ("Ju\u0308rgen Mu\u0308ller/06", "Jürgen Müller"),  # as macOS writes it
        ("X_4712_assignsubmission_file_/06", "李小龙"),
        ("obrienpat_4713_9_06_kv_cache", "O'Brien, Pat"),
        ("ann/06_kv_cache", None),
    ],
)
def test_the_roster_knows_a_submission(known, submission, name):
    found = known.find(submission)
    assert (found and found.name) == name


def test_a_name_that_two_have_is_nobodys():
    cells = {}
    two = [roster.Member(str(n), "Ann Lee", "", frozenset({str(n)}), cells) for n in (1, 2)]
    assert roster.Roster((), tuple(two)).find("Ann Lee/06") is None
    assert roster.Roster((), tuple(two)).find("2/06").id == "2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("First name,Last name,ID number,Email address\nAnn,Lee,7,a@x.org\n", "7 Ann Lee "),
        ("First Name;Last Name;SID;Email;Sections\nAnn;Lee;7;a@x.org;B\n", "7 Ann Lee B"),
        ("Identifier\tFull name\tGrade\nParticipant 7\tAnn Lee\t\n", "Participant 7 Ann Lee "),
        ("Student,ID,SIS User ID,SIS Login ID,Section,K (1)\n    Points Possible,,,,,23\n"
         '"Lee, Ann",7,s7,ann,B,\n', "s7 Lee, Ann B"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_rosters_of_moodle_canvas_and_gradescope_are_read(tmp_path, text, said, encoding):
    path = tmp_path / "r.csv"
    path.write_text(text, encoding=encoding)
    found = roster.read(path)
    (one,) = found.members
    assert f"{one.id} {one.name} {one.section}" == said
    assert found.find("ann lee/06") is one or found.find("leeann_7_1_06") is one


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"id,name\n", "no student"),
        (b"number,who\n1,ann\n", "a roster needs one of ids"),
        (b"id,name\n1,ann\n1,bob\n", "row 3: the id 1 is also in row 2"),
        (b"id,name\n,ann\n", "row 2: ann has no id"),
        (b"id,name\n1,Lee, Ann\n", "3 cells came under 2 columns"),
        (b"id,id,name\n1,2,x\n", "two columns called 'id'"),
        ("id,name\n1,Jürgen\n".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_a_roster_that_cannot_be_used_says_why(tmp_path, content, said):
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        roster.read(path)


# --- what counts ----------------------------------------------------------------------------------


def test_one_record_per_student_with_those_who_sent_nothing(known):
    rows = [
        row("4711/06_kv_cache", question("6.1"), question("6.2", "failed")),
        row("4711/10_elements", question("10.1")),
        row("zed/06_kv_cache", question("6.1")),
        row("4712/06_kv_cache", note="it is not JSON"),
    ]
    klass = marks.by_student(rows, Scheme(known, {"10": 2}))
    assert [s.name for s in klass.students] == [
        "Jürgen Müller", "李小龙", "O'Brien, Pat", "Łukasz Żak", "zed"
    ]  # fmt: skip
    worth = {n: find(n).points for n in ("6.1", "6.2", "10.1")}
    assert klass.total == worth["6.1"] + worth["6.2"] + 2 * worth["10.1"]
    first, second, third, _, last = klass.students
    assert first.points(klass.scheme) == worth["6.1"] + 2 * worth["10.1"]
    assert third.points(klass.scheme) == 0 and third.notes == ["nothing was handed in"]
    assert second.notes == ["it is not JSON"] and last.notes == ["not on the roster"]
    lines = read_csv(gradebook.per_student(klass))
    assert list(lines[0]) == [
        "id", "name", "section", "points", "out_of", "chapter 6", "chapter 6 out of",
        "chapter 6 late", "6.1", "6.2", "chapter 10", "chapter 10 out of", "chapter 10 late",
        "10.1", "notes",
    ]  # fmt: skip
    assert lines[2]["name"] == "O'Brien, Pat" and lines[2]["6.1"] == "0"
    assert lines[0]["chapter 10"] == str(2 * worth["10.1"])


def test_the_better_of_two_notebooks_counts():
    rows = [row("ann/06 (1)", question("6.1", "failed")), row("ann/06", question("6.1"))]
    (ann,) = marks.by_student(rows, Scheme()).students
    assert ann.chapters["6"].submission == "ann/06" and "the best counts" in ann.notes[0]


def test_laws_that_held_count_only_where_that_was_asked_for():
    for state, share in (("failed", 0.5), ("not answered", 0.5), ("no cell", 0)):
        q = question("6.1", state, held=2, laws=4)
        assert marks.credit(q, partial=False) == 0
        assert marks.credit(q, partial=True) == share * q["out_of"]
    assert marks.credit(question("6.1"), True) == question("6.1")["points"]
    assert marks.credit(question("6.1", "failed", laws=0), True) == 0


@pytest.mark.parametrize(
    ("when", "days"),
    [
        ("2026-05-04T23:59:00", 0),
        ("2026-05-04T23:59:01", 1),
        ("2026-05-05T23:59:00", 1),
        ("2026-05-05T23:59:01", 2),
        ("2025-01-01", 0),
    ],
)
def test_days_late_begin_behind_the_deadline(when, days):
    rule = late.Late(late.deadlines(["2026-05-04T23:59"]))
    assert rule.begun("6", datetime.fromisoformat(when)) == days


def test_lateness_takes_its_share_and_after_some_days_all():
    rule = late.Late(late.deadlines(["6=2026-05-04T23:59"]), 0.25, 2)
    assert [rule.keeps(d) for d in range(5)] == [1, 0.75, 0.5, 0, 0]
    assert late.Late(share=0.4).keeps(3) == 0
    rows = [
        row("ann/06", question("6.1"), submitted="2026-05-05T12:00:00"),
        row("bob/06", question("6.1")),
        row("cy/10", question("10.1"), submitted="2027-01-01T00:00:00"),
    ]
    klass = marks.by_student(rows, Scheme(late=rule))
    ann, bob, cy = klass.students
    worth = find("6.1").points
    assert klass.points(ann, "6") == 0.75 * worth and ann.chapters["6"].days_late == 1
    assert "1 day late, 75% of the points count" in ann.notes[0]
    assert klass.points(bob, "6") == worth and "no submission time" in bob.notes[0]
    assert cy.notes == []  # chapter 10 has no deadline
    with pytest.raises(ValueError, match="one has a time zone"):
        rule.begun("6", datetime.fromisoformat("2026-05-04T10:00+02:00"))


def test_times_of_a_table_go_before_those_of_the_zip(known, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "name,chapter,submitted\nJürgen Müller,06,2026-05-06 10:00\nzed,,2026-05-01\n4712,6,\n",
        encoding="utf-8",
    )
    found = late.times(path, known)
    rule = late.Late(late.deadlines(["2026-05-04"]), times=found)
    assert rule.time(["4711", "x"], "6", "2026-01-01") == datetime(2026, 5, 6, 10)
    assert rule.time(["4711"], "10", "2026-01-01") == datetime(2026, 1, 1)
    assert rule.time(["", "zed"], "10", None) == datetime(2026, 5, 1)
    for text, said in [
        ("id,when\n1,2026\n", "one called submitted"),
        ("id,submitted\n1,yesterday\n", "row 2: 'yesterday' is not a time"),
        ("id,submitted\n1,2026-05-01\n1,2026-05-02\n", "a second time for 1"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(said)):
            late.times(path, None)


# --- gradebooks -----------------------------------------------------------------------------------


def test_a_table_that_excel_opens_is_marked_and_holds_no_formula():
    assert tables.marked("name\nann\n") == "name\nann\n"
    assert tables.marked("name\nJürgen\n").encode()[:3] == b"\xef\xbb\xbf"
    text = tables.table(["=a"], [["=1+1"], ["+1"], ["-1"], ["@x"], ["ok"], [-1], ["＝1"]])
    shown = [line[0] for line in csv.reader(io.StringIO(text))]
    assert shown == ["'=a", "'=1+1", "'+1", "'-1", "'@x", "ok", "-1", "'＝1"]
    assert [tables.number(x) for x in (2.0, 1 / 3, 0.0051, 7)] == [2, 0.33, 0.01, 7]


def test_moodle_takes_a_table_or_its_own_worksheet(known, tmp_path):
    rows = [row("4711/06", question("6.1"))]
    lines = read_csv(gradebook.moodle(marks.by_student(rows, Scheme(known)), {"6": "Homework"}))
    assert list(lines[0]) == ["ID number", "Full name", "Email address", "Homework"]
    assert [line["Homework"] for line in lines] == ["3", "0", "0", "0"]
    path = tmp_path / "w.csv"
    path.write_text(
        "Identifier,Full name,Email address,Status,Grade,Maximum Grade,Feedback comments\n"
        "Participant 7,Ann Lee,a@x.org,Submitted,,3.00,\n"
        "Participant 8,Bob Orr,b@x.org,No submission,,3.00,\n"
    )
    sheet = roster.read(path)
    rows = [row("Ann Lee_7_assignsubmission_file_/06", question("6.1"))]
    klass = marks.by_student(rows, Scheme(sheet))
    ann, bob = read_csv(gradebook.moodle(klass, {}))
    assert ann["Grade"] == "3" and ann["Identifier"] == "Participant 7" and bob["Grade"] == "0"
    assert bob["Feedback comments"] == "nothing was handed in"
    with pytest.raises(ValueError, match=r"Maximum Grade is 3.00, and 6 points"):
        gradebook.moodle(marks.by_student(rows, Scheme(sheet, {"6": 2})), {})
    rows.append(row("Bob Orr_8_assignsubmission_file_/10", question("10.1")))
    with pytest.raises(ValueError, match="for one assignment"):
        gradebook.moodle(marks.by_student(rows, Scheme(sheet)), {})


def test_canvas_takes_its_own_columns_and_the_points_that_can_be_had(known, tmp_path):
    path = tmp_path / "c.csv"
    path.write_text(
        "Student,ID,SIS User ID,SIS Login ID,Section,Old (1)\n    Points Possible,,,,,5\n"
        '"Lee, Ann",7,s7,ann,B,4\n'
    )
    rows = [row("leeann_7_99_06_kv_cache", question("6.1"))]
    klass = marks.by_student(rows, Scheme(roster.read(path)))
    possible, ann = read_csv(gradebook.canvas(klass, {"6": "KV cache (812)"}))
    assert list(ann) == [
        "Student",
        "ID",
        "SIS User ID",
        "SIS Login ID",
        "Section",
        "KV cache (812)",
    ]
    assert possible["KV cache (812)"] == ann["KV cache (812)"] == "3"
    assert (ann["Student"], ann["ID"], ann["SIS User ID"]) == ("Lee, Ann", "7", "s7")
    own = read_csv(gradebook.canvas(marks.by_student([], Scheme(known)), {}))
    assert own[1]["SIS User ID"] == "4711" and own[1]["Section"] == "A"


# --- a zip ----------------------------------------------------------------------------------------


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            if info.date_time == (1980, 1, 1, 0, 0, 0):
                info.date_time = (2026, 5, 5, 12, 0, 0)
            file.writestr(info, content)
    return path


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_a_zip_gives_its_notebooks_and_refuses_what_is_odd(tmp_path, monkeypatch):
    into = tmp_path / "into"
    into.mkdir()
    path = zipped(
        tmp_path / "m.zip",
        {
            "Jürgen Müller_1_assignsubmission_file_/06_kv_cache.ipynb": STUB,
            "leeann_LATE_2_99_06_kv_cache-1.ipynb": STUB,
            "../../out.ipynb": STUB,
            "/etc/out.ipynb": STUB,
            "a\\..\\..\\out.ipynb": STUB,
            "C:/out.ipynb": STUB,
            link("bob/06_kv_cache.ipynb"): "/etc/passwd",
            "x" * 300 + "/06.ipynb": STUB,
            "cy/notes.pdf": "pdf",
            "__MACOSX/cy/._06.ipynb": "?",
            "cy/.ipynb_checkpoints/06.ipynb": STUB,
            "dan/huge.ipynb": bytes(archive.MAX_BYTES + 5),
        },
    )
    found = archive.unpack(path, into)
    assert {k: p.name for k, p in found.files.items() if len(k) < 200} == {
        "Jürgen Müller_1_assignsubmission_file_/06_kv_cache": "06_kv_cache.ipynb",
        "leeann_LATE_2_99_06_kv_cache-1": "06_kv_cache-1.ipynb",
        "dan/huge": "huge.ipynb",
    }
    assert len(found.refused) == 5 and len(found.files) == 4
    assert "is a link" in found.refused["bob/06_kv_cache"]
    assert sum("leads outside" in why for why in found.refused.values()) == 4
    assert found.left_out == ["cy/notes.pdf"]
    assert set(found.times.values()) == {"2026-05-05T12:00:00"}
    assert all(into in p.parents for p in tmp_path.rglob("*.ipynb"))
    assert found.files["dan/huge"].stat().st_size == archive.MAX_BYTES + 1
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        archive.unpack(path, tmp_path / "again")
    monkeypatch.setattr(archive, "MOST_ENTRIES", 3)
    with pytest.raises(ValueError, match="12 entries; at most 3"):
        archive.unpack(path, into)


def test_a_zip_that_is_none_or_damaged_or_empty_says_so(tmp_path):
    path = tmp_path / "a.zip"
    for content, said in [(b"", "cannot be read as a zip"), (b"PK\3\4 cut", "cannot be read as")]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            archive.unpack(path, tmp_path)
    zipped(path, {"ann/x.zip": "?"})
    with pytest.raises(ValueError, match=r"no notebook .*zip in zip"):
        archive.unpack(path, tmp_path)
    zipped(path, {"ann/06.ipynb": STUB * 3})
    raw = bytearray(path.read_bytes())
    raw[60:90] = bytes(30)
    path.write_bytes(raw)
    into = tmp_path / "into"
    into.mkdir()
    assert "cannot be unpacked" in archive.unpack(path, into).refused["ann/06"]


def test_a_class_comes_as_a_zip(tmp_path, capsys):
    folder = "{}_assignsubmission_file_/06_kv_cache.ipynb".format
    path = zipped(
        tmp_path / "moodle.zip",
        {folder("Jürgen Müller_4711"): RIGHT, folder("李小龙_4712"): "?", link("x.ipynb"): "/etc"},
    )
    (tmp_path / "roster.csv").write_text(CLASS, encoding="utf-8")
    table, found, page = tmp_path / "s.csv", tmp_path / "m.json", tmp_path / "page.html"
    line = ["grade", str(path), "--chapter", "6", "--json", str(found), "--per-student", str(table),
            "--roster", str(tmp_path / "roster.csv"), "--deadline", "2026-05-05T11:00",
            "--feedback", str(tmp_path / "back"), "--analysis", str(page)]  # fmt: skip
    assert main(line) == 0
    seen = capsys.readouterr()
    assert re.search(r"^Jürgen Müller +3.6 of 27", seen.out, re.M), seen.out
    rows = json.loads(found.read_text())["notebooks"]
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(found.read_text()), json.loads(SCHEMA.read_text()))
    assert [r["points"] for r in rows] == [4, 0, 0]
    assert all(str(path) in r["file"] or r["name"] == "x" for r in rows)
    assert not any("kvlab-zip" in json.dumps(r) for r in rows)
    assert table.read_bytes()[:3] == b"\xef\xbb\xbf"
    lines = read_csv(table.read_text(encoding="utf-8-sig"))
    assert [(s["id"], s["points"]) for s in lines[:4]] == [
        ("4711", "3.6"), ("4712", "0"), ("4713", "0"), ("4714", "0")
    ]  # fmt: skip
    assert "is a link" in lines[4]["notes"]
    assert (tmp_path / "back" / "4711-Jürgen-Müller.html").is_file()
    assert "<svg" in page.read_text(encoding="utf-8")


# --- feedback -------------------------------------------------------------------------------------

NASTY = "<script>alert(1)</script> ``` </pre> | [x](javascript:1) \x1b[2J"
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" width="1"><text x="1">a</text></svg>'


def test_a_page_of_feedback_says_why_and_is_escaped(tmp_path):
    rows = [
        row(
            "<b>ann</b>/06",
            question("6.1", "failed", message=NASTY, mistake=NASTY, held=1, picture=DRAWING),
            question("6.2", "not answered"),
            question("6.3"),
            question("6.4", "failed", picture="<svg onload=alert(1)></svg>"),
            note=NASTY,
        )
    ]
    klass = marks.by_student(rows, Scheme())
    (name,) = feedback.write(klass, tmp_path / "back")
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == [
        f"{name}-6.1.svg", f"{name}.html", f"{name}.md"
    ]  # fmt: skip
    page = (tmp_path / "back" / f"{name}.html").read_text(encoding="utf-8")
    assert "<script" not in page and "onload" not in page and "\x1b" not in page
    assert page.count("<svg") == 1 and "&lt;script&gt;" in page and "known mistake" in page
    text = (tmp_path / "back" / f"{name}.md").read_text(encoding="utf-8")
    assert "````text\n<script>" in text and "\x1b" not in text
    assert r"\<script\>" in text and "<script>" not in text.replace("text\n<script>", "")
    for n, hint in (("6.1", 3), ("6.2", 1), ("6.4", 2)):
        assert f'hint("{n}", {hint})' in text and f"hint(&quot;{n}&quot;, {hint})" in page
    assert 'hint("6.3"' not in text


def test_pages_have_names_of_their_own_that_lead_nowhere_else(tmp_path):
    rows = [row(f"{n}/06", question("6.1")) for n in ("a b", "a-b", "A b", "..", "x" * 300, "李")]
    found = feedback.write(marks.by_student(rows, Scheme()), tmp_path / "back")
    assert len({n.casefold() for n in found}) == 6
    assert len(list((tmp_path / "back").iterdir())) == 12
    assert all(len(n) < 80 and "/" not in n and not n.startswith(".") for n in found)


def test_no_picture_tells_of_a_private_case():
    import torch

    from kvlab.course.judge import judge
    from kvlab.course.sandbox.answer import LocalAnswer

    e, made = find("2.2"), {}
    exec(e.cell, made)

    def wrong(*args, **more):
        out = made[e.name](*args, **more)
        return out + 1 if isinstance(out, torch.Tensor) else out

    seen = [judge(e, LocalAnswer(wrong), n, clock=False, private=e.cases) for n in range(8)]
    private = [v for v in seen if "a private case" in v.message]
    assert private and len(private) < len(seen)
    assert all(v.picture == "" and v.case is None for v in private)
    assert all(v.picture and v.case for v in seen if v not in private)


# --- the class as a whole -------------------------------------------------------------------------


def klass_of_six():
    said = '"law" does not hold on f(n={}).\nx: expected {}, got {} (line {}: return {}).'
    rows = []
    for n in range(6):
        state = "passed" if n < 2 else "failed"
        message = said.format(n, n + 0.5, -n, n, n) if n < 5 else "another thing"
        q = question("6.1", state, message=message, mistake="forgot P" if n == 2 else None)
        rows.append(row(f"s{n}/06", q, question("6.3", "passed" if n < 3 else "not answered")))
    return marks.by_student(rows, Scheme())


def test_the_analysis_counts_names_and_groups():
    first, second = analysis.items(klass_of_six())
    assert first.states == {"passed": 2, "failed": 4} and first.rate == 2 / 6
    assert first.mistakes == {"forgot P": 1}
    assert [g.students for g in first.unnamed] == [("s3", "s4"), ("s5",)]
    assert first.rest == pytest.approx(0.7071, abs=1e-3) and second.rate == 0.5
    text = analysis.as_text(klass_of_six())
    assert "2 × without a name: s3, s4" in text and "1 × forgot P" in text
    assert analysis.as_text(marks.by_student([], Scheme())) == "No question was graded."


def test_messages_of_one_mistake_are_alike_and_others_are_not():
    one = '"law" does not hold on f(x=tensor([1.0, 2])).\nout[0, 1]: expected 1.5, got -2e-07.'
    other = '"law" does not hold on a longer text, n 3.\nout[2, 0]: expected 0.25, got 3.'
    assert analysis.signature(one) == analysis.signature(other)
    assert analysis.signature(one) != analysis.signature(one.replace("law", "rule"))


def test_the_page_of_the_class_is_one_file_with_plots():
    pytest.importorskip("matplotlib")
    from kvlab.course.grading.analysis_page import page

    text = page(klass_of_six())
    assert text.count("<svg") == 2 and "forgot P" in text and "<?xml" not in text
    assert not re.search(r'(?:src|href)="(?!#)', text)
    assert page(klass_of_six()) == text
    with pytest.raises(ValueError, match="nothing to draw"):
        page(marks.by_student([], Scheme()))


def test_answers_that_differ_in_names_and_comments_alone_are_alike(tmp_path):
    pytest.importorskip("rapidfuzz")
    answer = hostile.ANSWERS["6.3"]
    renamed = "# mine\n" + answer.replace("subject", "suspect").replace("rows", "count")
    assert renamed.count("suspect") > 2
    other = "def audit(s, p, n, c):\n    return " + " + ".join(
        f"len(str(s)[{i}:])" for i in range(9)
    )
    for name, text in {"ann": answer, "bob": renamed, "cy": other, "dan": None}.items():
        path = tmp_path / name / "06_kv_cache.ipynb"
        path.parent.mkdir()
        path.write_text(json.dumps(hostile.filled(q6_3=text) if text else hostile.filled()))
    from kvlab.course.grading.collect import collected

    with collected([tmp_path]) as there:
        found = similarity.alike(there.submissions, chapter="6", at_least=0.8)
        with pytest.raises(ValueError, match="share up to 1"):
            similarity.alike(there.submissions, at_least=1.5)
    pairs = [(f.question, f.one, f.other) for f in found]
    assert [f.share for f in found if (f.one, f.other) == ("ann", "bob")] == [1]
    assert ("6.3", "ann", "bob") in pairs and not any("cy" in p or "dan" in p for p in pairs)
    assert "no proof" in similarity.as_text(found)
    assert similarity.shape("def f(:") == () and similarity.shape("x = '''\n") == ()


# --- kvlab marks ----------------------------------------------------------------------------------


def test_jobs_are_put_together_by_their_files_names(tmp_path, capsys):
    one = saved(tmp_path / "Ann Lee.json", row("06_kv_cache", question("6.1")))
    two = saved(tmp_path / "bob.json", row("06_kv_cache", question("6.1", "failed")))
    out = tmp_path / "all.json"
    assert main(["marks", str(one), str(two), "--json", str(out), "--csv"]) == 0
    lines = read_csv(capsys.readouterr().out)
    assert [line["name"] for line in lines] == ["Ann Lee/06_kv_cache", "bob/06_kv_cache"]
    assert [r["name"] for r in json.loads(out.read_text())["notebooks"]] == [
        "Ann Lee/06_kv_cache", "bob/06_kv_cache"
    ]  # fmt: skip
    assert main(["marks", str(out), "--weights", "6=2", "--analysis"]) == 0
    assert "passed" in capsys.readouterr().out
    assert main(["marks", str(out), "--weights", "6=2"]) == 0
    assert re.search(r"^Ann Lee +6 of 6", capsys.readouterr().out, re.M)
    saved(two, row("bob/06_kv_cache", question("6.1")), row("x/06", question("6.1")))
    assert main(["marks", str(out), str(two)]) == 1
    assert "not the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("?", "is not JSON"),
        ("[]", "no list of notebooks"),
        ('{"notebooks": [3]}', "notebook 1: name is missing"),
        ('{"notebooks": [{"name": "a", "points": 1, "out_of": 1, "note": "", "questions": [{}]}]}',
         "a question of a: number is missing"),
    ],
)  # fmt: skip
def test_what_are_no_marks_is_told(content, said, tmp_path, capsys):
    (tmp_path / "m.json").write_text(content)
    assert main(["marks", str(tmp_path / "m.json")]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--weights", "6"], "like 6=2,10=0.5"),
        (["--weights", "6=-1"], "like 6=2,10=0.5"),
        (["--weights", "6=nan"], "like 6=2,10=0.5"),
        (["--weights", ""], "like 6=2,10=0.5"),
        (["--weights", "99=1"], "there are exercises of chapters"),
        (["--weights", "6=1,6=2"], "chapter 6 is there twice"),
        (["--late-days", "2"], "--late-days came without a --deadline"),
        (["--late-share", "0.1"], "--late-share came without"),
        (["--times", "x"], "--times came without"),
        (["--deadline", "tomorrow"], "'tomorrow' is not a time"),
        (["--deadline", "99=2026-05-04"], "there are exercises of"),
        (["--deadline", "2026-05-04", "--deadline", "2026-05-05"], "came twice"),
        (["--deadline", "2026-05-04", "--late-share", "10"], "a share of the points"),
        (["--deadline", "2026-05-04", "--late-days", "-1"], "0 or more"),
        (["--deadline", "2026-05-04", "--times", "none.csv"], "none.csv is not there"),
        (["--roster", "none.csv"], "none.csv is not there"),
        (["--per-student", "no/where.csv"], "its folder is not there"),
        (["--canvas", "x.ipynb"], "expected a new file's name"),
        (["--analysis", "page.pdf"], "the page is HTML"),
        (["--feedback", "no/where"], "expected a folder"),
        (["--nbgrader", "none.db"], "none.db is not there"),
        (["--moodle", "m.csv", "--title", "6"], "expected a column's name"),
        (["--moodle", "m.csv", "--title", "99=x"], "there are exercises of"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["grade", "marks"])
def test_a_wrong_option_is_told_before_any_work(
    command, options, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "m.json", row("a/06", question("6.1")))
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "06_kv_cache.ipynb").write_text(STUB)
    assert main([command, "class" if command == "grade" else "m.json", *options]) == 1
    seen = capsys.readouterr()
    assert said in seen.err and seen.out == "", seen
    assert sorted(p.name for p in tmp_path.iterdir()) == ["class", "m.json"]
