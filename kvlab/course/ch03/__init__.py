"""Chapter 3, "How many libraries are in the building?"."""

NOTEBOOK = "03_heads"
INTRODUCTION = """
# Exercises to chapter 3: heads

Eight query heads share two libraries, that is two key/value heads: what shrinks, and by how much? You cut a
projection into heads and lay them side by side again, compute what torch's own attention computes, and let heads share libraries
without a copy of one. You count a model's parameters, turn queries and keys by their positions, and find out which heads of
the pocket model are needed.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("3.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed in `verdict.case`: try your answer on it by hand.
"""
