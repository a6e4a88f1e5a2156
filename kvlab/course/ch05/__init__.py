"""Chapter 5, "Two phases, one prompt"."""

from kvlab.old._exercises import by_old_name

NOTEBOOK = "05_prefill_decode"

INTRODUCTION = """
# Exercises to chapter 5: two phases, one prompt

Six functions and a short quiz, the pocket model at the end. Each has a cell for your answer and a cell that checks it. The check tries
your answer on fresh random cases in a few seconds. If it fails it says on which case, what is wrong
there, and, if it can tell, which well-known mistake you made.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("5.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed: `prefill(**verdict.case)` makes that very call again, lent objects and all.
- Tensors are in float64, so that right answers agree to nine digits.

Letters: L layers, S tokens, D width of one head, C model width, V vocabulary, P prompt tokens, N new tokens,
T slots. A tensor's name ends in its axes.
"""

__getattr__ = by_old_name(__name__)
