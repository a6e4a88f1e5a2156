"""What a student gets back: one page each, as HTML and as Markdown, made from the marks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvlab import files
from kvlab.course.grading.marks import Klass, Student
from kvlab.course.grading.names import file_name
from kvlab.course.grading.tables import number, printable

Question = dict[str, Any]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
h3 { margin: 1.6rem 0 .3rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
td.n { text-align: right; } pre { white-space: pre-wrap; background: #f2f2f2; padding: .7rem; }
p.mistake { border-left: .3rem solid #d55e00; padding-left: .8rem; } svg { max-width: 100%; }
"""
# A state as a reader's words; those in which there is nothing to add but the mark.
_SAYS = {"not answered": "not answered yet", "no cell": "not found in the notebook",
         "too noisy": "could not be timed", "error": "not graded",
         "not judged": "to be read by hand"}  # fmt: skip


def write(klass: Klass, folder: str | Path) -> list[str]:
    """Two files per student, named by id and name; the names without their endings.

    Raises: ValueError where a file cannot be written.
    """
    folder, names = Path(folder), []
    try:
        folder.mkdir(exist_ok=True)
        for student in klass.students:
            name = file_name("-".join(filter(None, [student.id, student.name])), names)
            names.append(name)
            files.write(folder / f"{name}.html", as_html(klass, student))
            files.write(folder / f"{name}.md", as_markdown(klass, student, name))
            for q in _questions(student):
                if _is_drawing(q.get("picture") or ""):
                    files.write(folder / _picture_name(name, q), q["picture"] + "\n")
    except OSError as error:
        where = error.filename or folder
        raise ValueError(f"Feedback cannot be written to {where}: {error.strerror}.") from None
    return names


def _picture_name(name: str, q: Question) -> str:
    return f"{name}-{q['number']}.svg"


def _questions(student: Student) -> Iterator[Question]:
    for chapter in student.chapters.values():
        yield from chapter.questions


def hint_to_read(q: Question) -> int | None:
    """The hint that helps next: the first for what is not begun, the second for what fails, the
    third where some laws already held; none where there is nothing to mend."""
    if q["state"] == "not answered":
        return 2 if q.get("held") else 1
    if q["state"] != "failed":
        return None
    return 3 if q.get("held") else 2


def _state(q: Question) -> str:
    return _SAYS.get(q["state"], q["state"])


def as_markdown(klass: Klass, student: Student, name: str) -> str:
    """One student's page as Markdown; what came from a notebook stands in fences."""
    lines = [f"# {_escaped(student.name)}", "", *_summary(klass, student), ""]
    for note in student.notes:
        lines += [f"Note: {_escaped(note)}.", ""]
    for chapter, there in student.chapters.items():
        lines += [f"## Chapter {chapter}", "", "| question | points | |", "|---|---|---|"]
        for q in there.questions:
            points = f"{number(q['points'])} of {number(q['out_of'])}"
            title = f"{q['number']} {_escaped(q['title'])}"
            lines.append(f"| {title} | {points} | {_state(q)} |")
        for q in there.questions:
            lines += ["", f"### {q['number']} {_escaped(q['title'])}: {_state(q)}", ""]
            lines += _fenced(q["message"])
            if q.get("mistake"):
                lines += ["", f"This is a known mistake: {_escaped(q['mistake'])}"]
            if _is_drawing(q.get("picture") or ""):
                lines += ["", f"![Where it is wrong]({_picture_name(name, q)})"]
            if hint_to_read(q):
                lines += ["", f'To read next: `hint("{q["number"]}", {hint_to_read(q)})`']
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _summary(klass: Klass, student: Student) -> list[str]:
    lines = []
    if len(klass.questions) > 1 or student.chapters.keys() != klass.questions.keys():
        for chapter in klass.questions:
            got, most = number(klass.points(student, chapter)), number(klass.out_of(chapter))
            there = "" if chapter in student.chapters else ": nothing was handed in"
            lines.append(f"- Chapter {chapter}: {got} of {most} points{there}")
        lines.append("")
    total = number(student.points(klass.scheme)), number(klass.total)
    return [*lines, f"Points: {total[0]} of {total[1]}"]


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    text = printable(" ".join(text.split()))
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", text)


def _fenced(text: str) -> list[str]:
    ticks = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return [f"{fence}text", *(printable(line) for line in text.splitlines()), fence]


def as_html(klass: Klass, student: Student) -> str:
    """One student's page, complete in itself; everything in it is escaped but our own drawing."""

    def text(said: str) -> str:
        return html.escape(printable(said))

    parts = [f"<h1>{text(student.name)}</h1>"]
    parts += [
        f"<p>{text(line.removeprefix('- '))}</p>" for line in _summary(klass, student) if line
    ]
    parts += [f"<p>Note: {text(note)}.</p>" for note in student.notes]
    for chapter, there in student.chapters.items():
        parts.append(f"<h2>Chapter {chapter}</h2><table>")
        for q in there.questions:
            points = f"{number(q['points'])} of {number(q['out_of'])}"
            cells = (text(f"{q['number']} {q['title']}"), points, text(_state(q)))
            parts.append('<tr><td>{}</td><td class="n">{}</td><td>{}</td></tr>'.format(*cells))
        parts.append("</table>")
        parts += map(_html_question, there.questions)
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{text(student.name)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _html_question(q: Question) -> str:
    lines = "\n".join(html.escape(printable(line)) for line in q["message"].splitlines())
    head = html.escape(f"{q['number']} {q['title']}: {_state(q)}")
    parts = [f"<h3>{head}</h3>", f"<pre>{lines}</pre>"]
    if q.get("mistake"):
        mistake = html.escape(printable(q["mistake"]))
        parts.append(f'<p class="mistake">This is a known mistake: {mistake}</p>')
    if _is_drawing(q.get("picture") or ""):
        parts.append(q["picture"])
    if hint_to_read(q):
        call = html.escape(f'hint("{q["number"]}", {hint_to_read(q)})')
        parts.append(f"<p>To read next: <code>{call}</code></p>")
    return "\n".join(parts)


def _is_drawing(picture: str) -> bool:
    """Whether it is a drawing as the judge makes it, and nothing that runs or loads anything."""
    return picture.startswith("<svg ") and not re.search(
        r"<(?!/?(?:svg|text|rect)[ >])|\bon\w+\s*=|href", picture
    )
