"""Chapter 1, "What is a token asking for?"."""

from kvlab.old._exercises import by_old_name

NOTEBOOK = "01_queries_keys_values"

INTRODUCTION = """
# Exercises to chapter 1: what is a token asking for?

Seven questions, the last one with the pocket model. Each has a cell for your answer and a cell that checks it. The check tries your answer
on fresh random cases in a few seconds. If it fails it says on which case, where the first wrong number
is, and, if it can tell, which well-known mistake you made.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("1.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed: `project(**verdict.case)` makes that very call again. The end of [chapter 1](../chapters/01_queries_keys_values.ipynb)
  goes from a wrong answer to its bug, step by step.
- Everything is in float64, so that right answers agree to nine digits.

Letters: S tokens that ask, T tokens that are asked (a message calls one of them a slot), N examples, C width of an embedding, D width of a query
and a key, E width of a value; in 1.7 also L layers, H heads and G sets of keys. A tensor's name ends in its axes.
"""

__getattr__ = by_old_name(__name__)
