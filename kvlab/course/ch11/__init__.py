"""Chapter 11, "What is an answer worth?"."""

NOTEBOOK = "11_answers"

INTRODUCTION = """
# Exercises to chapter 11: what is an answer worth?

Six questions. Each has a cell for your answer and a cell that checks it. The check tries your answer on
fresh random cases in a few seconds. If it fails it says on which case, where the first wrong number is, and, if it
can tell, which well-known mistake you made.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("11.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed: `choose_tokens(**verdict.case)` makes that very call again, lent objects and all.
- Numbers are in float64. A mask is a tensor of `True` (stays) and `False` (goes).

Letters: G key/value heads, H query heads, R = H / G query heads that share a KV head, T tokens, S queries or scored tokens, W
latest queries, D width of one head, V vocabulary. A tensor's name ends in its axes.
"""
