"""Notebooks, changed and then read as the grader, the release and the tidying read them."""

import json
import shutil
from functools import cache

from kvlab.course.exercises import CHAPTERS
from kvlab.course.grading import notebooks
from kvlab.shell.cli import ROOT
from tests.fuzz.mutating import bytes_of, json_of, text_of

REFUSALS = (ValueError,)
NAMES = {e.number: e.name for chapter in CHAPTERS for e in chapter.exercises}


@cache
def bases():
    paths = [ROOT / "chapters" / f"{c.notebook}.ipynb" for c in CHAPTERS[:2]]
    paths += [ROOT / "exercises" / f"{c.notebook}.ipynb" for c in CHAPTERS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def make(rng):
    whole = rng.choice(bases())
    whole = {**whole, "cells": rng.sample(whole["cells"], min(4, len(whole["cells"])))}
    if rng.random() < 0.8:
        return {"a.ipynb": text_of(json_of(rng, whole))}
    return {"a.ipynb": bytes_of(rng, text_of(whole))}


def run(case, folder):
    (folder / "a.ipynb").write_bytes(case["a.ipynb"])
    notebook = notebooks.read(folder / "a.ipynb")
    notebooks.collect(notebook, NAMES)
    for use in (notebooks.answers, notebooks.release, notebooks.normalise):
        notebooks.write(folder / "b.ipynb", use(notebook))


def tidy(folder):
    shutil.rmtree(folder)
