"""What did not work is told as the records have it."""

import ast
import inspect
import json

import pytest

from benchmarks import chapters, filling
from benchmarks.negative import TABLES, laws, packing, serving

WORDS = {"task": "words", "question": "unseen", "of": 300}


def claim(sparsity, verdict, text="a beats b", **more):
    return WORDS | {
        "claim": text, "source": "somebody", "sparsity": sparsity, "verdict": verdict,
        "better_right": 10, "worse_right": 20,
    } | more  # fmt: skip


def record(name):
    return json.loads((filling.RECORDS / f"{name}.json").read_text("utf-8"))


def test_a_verdict_stands_with_its_sparsities_and_the_last_ones_counts():
    every = [claim(s, "no difference") for s in (0.5, 0.7, 0.8)] + [claim(0.9, "holds")]
    assert laws.said(every) == "no difference at 50 to 80 % (10 : 20); holds at 90 % (10 : 20)"


def test_a_range_never_spans_a_sparsity_with_another_verdict():
    every = [claim(s, "no difference") for s in (0.5, 0.7, 0.9)] + [claim(0.8, "holds")]
    assert laws.said(every).startswith("no difference at 50, 70, 90 % (")
    text = claim(0.875, "holds", task="text", better_kl=0.1, worse_kl=2.0)
    assert laws.said([text]) == "holds at 87.5 % (0.1 : 2 nats)"


def test_a_claim_is_shown_when_it_fails_anywhere_and_not_when_it_holds():
    claims = [
        claim(0.5, "holds", "good"),
        claim(0.5, "holds", "bad"),
        claim(0.9, "no difference", "bad"),
    ]
    shown = "\n".join(laws.not_held({}, claims))
    assert "| bad |" in shown and "| good |" not in shown


def test_every_claim_of_the_record_that_fails_is_on_the_page():
    result, page = record("orderings"), (filling.ROOT / "docs/negative.md").read_text("utf-8")
    failed = {c["claim"] for c in result["claims"] if c["verdict"] != "holds"}
    assert len(failed) > 15 and all(f"| {text} |" in page for text in failed)


def rows_of(method, right, sparsity=0.9):
    places = [("words", "visible"), ("words", "unseen"), ("codes", "visible"), ("codes", "unseen")]
    return [
        {"method": method, "sparsity": sparsity, "task": task, "question": question, "model": model,
         "right": right, "of": 100}
        for task, question in places for model in "xyz"
    ]  # fmt: skip


def test_a_score_is_behind_chance_only_where_the_intervals_part():
    rows = rows_of("evict: random", 50) + rows_of("evict: a", 20) + rows_of("evict: b", 47)
    shown = "\n".join(laws.behind_random({"rows": rows}))
    assert "| a | 90 % (60 : 150) |" in shown and "| b |" not in shown


def real(*claims, right=(9,)):
    rows = [{"method": "dense", "model": "m", "task": "words", "question": "unseen", "tokens": 512,
             "right": n, "of": 10} for n in right]  # fmt: skip
    where = {"cpu": "one", "threads": 1, "torch": "2"}
    return {"model": "m", "rows": rows, "machine": where, "command": "it",
            "claims": [c | {"tokens": 512} for c in claims]}  # fmt: skip


def test_a_law_is_told_where_the_real_model_parts_from_the_pocket_model():
    text = "evicting: knorm beats random"
    other, same = claim(0.5, "holds", text), claim(0.5, "the opposite holds", text)
    open_ = claim(0.5, "not decided", text)
    line = f"| {text} | words, 512 tokens, unseen | the opposite holds at 50 to 90 %"
    assert line in "\n".join(laws.real_model(real(other)))
    assert text not in "\n".join(laws.real_model(real(same)))
    assert text not in "\n".join(laws.real_model(real(open_)))


def test_a_task_that_the_real_model_cannot_do_is_left_out_and_named():
    other = claim(0.5, "holds", "evicting: knorm beats random")
    shown = "\n".join(laws.real_model(real(other, right=(7,))))
    assert "evicting: knorm" not in shown and "answers too few: words, 512 tokens, unseen." in shown


def test_a_record_that_is_not_there_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "RECORDS", tmp_path)
    page = "<!-- one: b -->\nold\n<!-- /one: b -->\n"
    assert "`benchmarks/results/one.json` is not there" in filling.filled(page, {"one: b": len})


def test_every_losing_case_of_the_serving_record_is_on_the_page():
    result = record("serve-pocket")
    lost = [r for r in result["rows"] if r.get("ratio", 1) < 1]
    shown = "\n".join(serving.twins(result))
    assert lost and all(r["name"].removeprefix("twin: ") in shown for r in lost)


def test_packed_rows_that_lose_are_shown_and_those_that_win_are_not():
    won = {"what": "attention", "name": "packed 50 %", "ratio": 1.2, "target": None, "bytes": 0.5,
           "tokens": 64, "dtype": "float32", "threads": 1}  # fmt: skip
    lost = won | {"tokens": 32, "ratio": 0.9}
    short = won | {"tokens": 16, "ratio": 1.2, "target": 1.6}
    result = {"rows": [won, lost, short], "command": "it",
              "machine": {"cpu": "one", "threads": 1, "torch": "2"}}  # fmt: skip
    shown = "\n".join(packing.packed(result))
    assert "| 64 |" not in shown and "| 0.9 (bytes 2) |" in shown
    assert "| 1.2 (bytes 2, aim 1.6) |" in shown


@pytest.mark.parametrize("number", sorted(chapters.READS))
def test_what_is_read_of_a_chapter_is_made_by_its_cells(number):
    reading = chapters.READS[number]
    made = set()
    for cell in chapters.cells(reading.file):
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                made.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                made.add(node.id)
            elif isinstance(node, ast.ImportFrom):
                made |= {name.name for name in node.names}
    assert set(reading.names) <= made, f"benchmarks/chapters.py reads what {reading.file} lacks"
    source = inspect.getsource(reading.rows)
    read = {
        node.attr for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "its"
    }  # fmt: skip
    assert read == set(reading.names)


def test_only_the_real_models_record_may_be_missing():
    names = {name.partition(":")[0] for name in TABLES} - {"orderings-smollm2"}
    assert all((filling.RECORDS / f"{name}.json").exists() for name in names)
