"""Chapter 12, "Zeros are not free"."""

NOTEBOOK = "12_zeros_are_not_free"

INTRODUCTION = """
# Exercises to chapter 12: zeros are not free

Seven questions. Each has a cell for your answer and a cell that checks it. The check tries your answer on
fresh random cases in a few seconds. If it fails it says on which case, where the first wrong number is,
and, if it can tell, which well-known mistake you made.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("12.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed: `compare(**verdict.case)` makes that very call again, lent objects and all. Of a class, it has its calls: `verdict.case.on(PackedRows)`.
- Where nothing else is said numbers are in float64, so that right answers agree to nine digits.

Letters: B rows of the batch, G key/value heads, R query heads that share one, T slots, D width of one head, N kept
tokens, channels or numbers, X bytes of a row's bitmap. A tensor's name ends in its axes.
"""
