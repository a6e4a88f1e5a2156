"""Chapter 8, "The cache that ate the memory"."""

NOTEBOOK = "08_memory"

INTRODUCTION = """
# Exercises to chapter 8: the cache that ate the memory

Three functions and four classes. Each has a cell for your answer and a cell that checks it. The check tries your answer on
fresh random cases in a few seconds. If it fails it says on which case, what is wrong there, and, if it can tell, which
well-known mistake you made. An allocator that fails is told by the shortest story that shows it: who came, who left, and
who then reads what.

- Write each answer in its own cell, and keep what it needs in that cell: when a notebook is graded,
  each answer runs alone.
- Stuck? Call `hint("8.1")`. There are three to each question, from a nudge to nearly the answer.
- A failed check keeps what failed: `kv_bytes(**verdict.case)` makes that very call again. Of a class, it has its calls:
  `verdict.case.on(Blocks)`.
- A call of torch that is new to you? [A dozen of them](../docs/torch.md), each shown on four numbers.
- Counts are whole numbers (`int`), and blocks and slots are counted from 0.

A *slot* is the place of one token's keys and values in all layers. A *block* is `size` slots that follow each other: block
b has the slots b * size to b * size + size - 1. A *table* is the list of a chat's blocks in the order of its text.
"""
