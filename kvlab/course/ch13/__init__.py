"""Chapter 13, "What did it cost on a real model?"."""

NOTEBOOK = "13_real_model"

INTRODUCTION = """
# Exercises to chapter 13: what it costs on a real model

Five questions, the last of which is the capstone of the book: a cache policy of your own, under a budget of bytes, on prompts that you do not see, and on two models. Each
has a cell for your answer and a cell that checks it. The check tries your answer on fresh random cases. If it fails it says on which case, where the first wrong number is,
and, if it can tell, which well-known mistake you made.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("13.1")`. There are three to each question, from a nudge to nearly the answer.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- A failed check keeps what failed: `remove_sinks(**verdict.case)` makes that very call again.
- Where nothing else is said numbers are in float64, so that right answers agree to nine digits.
- Exercise 13.5 is judged on SmolLM2 too, where that model is installed: `python3 -m kvlab fetch smollm2` brings it. Without it the pocket model alone decides.

Letters: G key/value heads, H query heads, S queries, T tokens, D width of one head. A tensor's name ends in its axes.
"""
