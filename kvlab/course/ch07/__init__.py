"""Chapter 7, "Why is decode still slow?"."""

NOTEBOOK = "07_slow_decode"

INTRODUCTION = """
# Exercises to chapter 7: why is decode still slow?

Eight functions. Each has a cell for your answer and a cell that checks it. The check tries your answer on fresh random
cases in a few seconds. If it fails it says on which case, what is wrong there, and, if it can tell, which well-known
mistake you made. No answer is judged by a time that your machine took: where a clock is needed, one is lent to you.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("7.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed: `add_block(**verdict.case)` makes that very call again, lent objects and all.
- Tensors are in float64, so that right answers agree to nine digits.

Letters: L layers, B chats in a batch, S query rows or new tokens, T slots, H query heads, G key/value heads, D width of
one head, C model width, F width of the MLP, V vocabulary. A tensor's name ends in its axes.
"""
