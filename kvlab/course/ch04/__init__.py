"""Chapter 4, "Where do logits come from?"."""

NOTEBOOK = "04_logits"

INTRODUCTION = """
# Exercises to chapter 4: where do logits come from?

Six questions and a short quiz. Each has a cell for your answer and a cell that checks it. The check tries your answer
on fresh random cases in a few seconds. If it fails it says on which case, where the first wrong number
is, and, if it can tell, which well-known mistake you made.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("4.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- `verdict = check("4.1", block)` keeps the inputs of a failed check in `verdict.case`: try them by hand.
- Everything is in float64, so that right answers agree to nine digits.

Letters: B texts, S tokens of a text (their rows stand below each other), C width of the residual stream, F width inside
the MLP, V tokens of the vocabulary, L layers. A tensor's name ends in its axes. Positions count from 0.
"""
