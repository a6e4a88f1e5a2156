"""Chapter 6, "Never compute the same key twice"."""

from kvlab.old._exercises import by_old_name

NOTEBOOK = "06_kv_cache"

INTRODUCTION = """
# Exercises to chapter 6: never compute the same key twice

Six questions and two short quizzes. Each has a cell for your answer and a cell that checks it. The check tries your answer
on fresh random cases in a few seconds. If it fails it says on which case, where the first wrong number
is, and, if it can tell, which well-known mistake you made.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("6.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed: `audit(**verdict.case)` makes that very call again, lent objects and all. Of a class, it has its calls: `verdict.case.on(KVCache)`.
- Everything is in float64, so that right answers agree to nine digits.

Letters: L layers, B rows of the batch, H query heads, G key/value heads, S new tokens, T slots, D width
of one head, C model width, P prompt tokens, N new tokens. A tensor's name ends in its axes.
"""

__getattr__ = by_old_name(__name__)
