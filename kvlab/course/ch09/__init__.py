"""Chapter 9, "Many readers, one librarian"."""

NOTEBOOK = "09_many_readers"

INTRODUCTION = """
# Exercises to chapter 9: many readers, one librarian

Eight questions. Each has a cell for your answer and a cell that checks it. The check tries your answer on fresh random
cases in a few seconds. If it fails it says on which case, what is wrong there, and, if it can tell, which well-known
mistake you made. Nothing is judged by a clock: calls, tokens and messages are counted.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("9.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed: `plan(**verdict.case)` makes that very call again, lent objects and all. Of a class, it has its calls: `verdict.case.on(Shown)`.
- Tensors are in float64, so that right answers agree to nine digits.

Letters: B rows of a call, S tokens, H query heads, G key/value heads, D width of one head, C model width, V vocabulary.
A tensor's name ends in its axes.
"""
