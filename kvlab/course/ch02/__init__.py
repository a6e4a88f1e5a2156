"""Chapter 2, "Who may look at whom?"."""

from kvlab.old._exercises import by_old_name

NOTEBOOK = "02_causal_attention"

INTRODUCTION = """
# Exercises to chapter 2: who may look at whom?

Eight questions, the last one with the pocket model. Each has a cell for your answer and a cell that checks it. The check tries your answer
on fresh random cases in a few seconds. If it fails it says on which case, where the first wrong number
is, and, if it can tell, which well-known mistake you made.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("2.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed: `causal_mask(**verdict.case)` makes that very call again, lent objects and all.
- Everything is in float64, so that right answers agree to nine digits.

Letters: B texts, H heads, S queries (new tokens), T slots, C width of a token's vector, D width of one head,
L layers, V vocabulary. A tensor's name ends in its axes. Positions count from 0.
"""

__getattr__ = by_old_name(__name__)
