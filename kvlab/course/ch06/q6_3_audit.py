"""6.3: does a generator reuse what it computed? Count its rows, and poison its cache.

N new tokens, T slots, S token rows of one step, C and D a row's width.
"""

from __future__ import annotations

import math

import torch

from kvlab.course.author import Exercise, Lent, Near

Q = Exercise(
    "6.3",
    "Prove the reuse",
    "audit",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
Somebody hands you a generator and says that it uses a cache. Find out. All you have is

`outputs_ND, rows = subject.run(poison)`

which generates `n_new` tokens behind a prompt of `n_prompt`, and returns the attention output behind
each new token and the number of token rows whose key was computed. With `poison=j` slot j of the cache
(0 to `capacity - 1`) is overwritten with noise right after the prompt was read; with `None` nothing is.

Return one of four verdicts:

| verdict | what is going on |
|---|---|
| `"reuses"` | every prompt row is computed once and used |
| `"recomputes"` | more rows are computed than a cache needs, be it one |
| `"ignores a row"` | the right number of rows, but some prompt row is never looked at |
| `"reads an empty slot"` | a slot that holds nothing changes the output |
""",
    hints=(
        "Same tokens prove nothing: somebody who computes everything again gets them too. What can "
        "you count, and what can you break, that tells the two apart?",
        "With a cache, P prompt tokens and N new ones need P + N - 1 projected rows: the last new "
        "token is never fed. If the count is right, poison slots one at a time and see whether the "
        "outputs move.",
        "honest, rows = subject.run(None). More rows than P + N - 1: 'recomputes'. A prompt slot j "
        "(0 <= j < P) whose poison leaves torch.equal(outputs, honest): 'ignores a row'. The last "
        "slot (capacity - 1) whose poison changes the outputs: 'reads an empty slot'. Else "
        "'reuses'.",
    ),
    size=lambda case: case["capacity"],
)

# what is lent to an answer, and the right verdict on it
SUBJECTS = {
    "reuses": "reuses",
    "recomputes": "recomputes",
    "recomputes one row": "recomputes",
    "ignores a row": "ignores a row",
    "reads an empty slot": "reads an empty slot",
}


@Q.case
def case(rng):
    n_prompt, n_new = rng.sample(range(3, 9), 2)
    return {
        "n_prompt": n_prompt,
        "n_new": n_new,
        "capacity": n_prompt + n_new + rng.randint(1, 4),
        "_subjects": rng.sample(list(SUBJECTS), len(SUBJECTS)),
        "_seed": rng.randrange(2**31),
    }


@Q.solution
def audit(subject, n_prompt, n_new, capacity):
    """Return "reuses", "recomputes", "ignores a row" or "reads an empty slot"."""
    ### BEGIN SOLUTION
    honest_ND, rows = subject.run(None)
    if rows > n_prompt + n_new - 1:
        return "recomputes"
    for slot in range(n_prompt):
        poisoned_ND, _ = subject.run(slot)
        if torch.equal(poisoned_ND, honest_ND):
            return "ignores a row"
    poisoned_ND, _ = subject.run(capacity - 1)
    if not torch.equal(poisoned_ND, honest_ND):
        return "reads an empty slot"
    return "reuses"
    ### END SOLUTION


@Q.also_right
def poisons_every_slot(subject, n_prompt, n_new, capacity):
    clean, rows = subject.run(None)
    moved = [bool((subject.run(j)[0] != clean).any()) for j in range(capacity)]
    if rows != n_prompt + n_new - 1:
        return "recomputes"
    if not all(moved[:n_prompt]):
        return "ignores a row"
    return "reads an empty slot" if any(moved[n_prompt + n_new :]) else "reuses"


# --- what is lent ---


class Subject(Lent):
    """Something that claims to generate with a cache, and what can be done to it.

    `run(poison)` generates afresh and returns [outputs_ND, rows]: the attention output behind each
    new token, and how many token rows had their key computed. With `poison` = j, slot j of the
    cache is overwritten with noise right after the prompt was read. One that "recomputes one row"
    does so once, in the first step after the prompt.
    """

    lends = ("run",)

    def __init__(self, kind: str, n_prompt: int, n_new: int, capacity: int, seed: int) -> None:
        self._kind, self._n_prompt, self._n_new, self._capacity = kind, n_prompt, n_new, capacity
        torch_rng, width = torch.Generator().manual_seed(seed), 6

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

        self._x_TC = normal(capacity + 1, width)
        self._w_q, *self._w_kv = normal(3, width, width)
        self._noise = 4 * normal(2, width)
        # the row that one who "ignores a row" never looks at: any of the prompt's
        self._blind = int(torch.randint(n_prompt, (1,), generator=torch_rng))

    def run(self, poison: int | None = None) -> list:
        if poison is not None and not 0 <= poison < self._capacity:
            raise ValueError(
                f"slot {poison} was to be poisoned; slots are 0 to {self._capacity - 1}"
            )
        k_TD, v_TD = torch.zeros(2, self._capacity, self._x_TC.shape[1], dtype=torch.float64)
        outs, rows = [], 0
        for step in range(self._n_new):
            stop = self._n_prompt + step
            start = self._first_row(step, stop)
            rows += stop - start
            k_TD[start:stop], v_TD[start:stop] = (self._x_TC[start:stop] @ w for w in self._w_kv)
            if step == 0 and poison is not None:
                k_TD[poison], v_TD[poison] = self._noise
            score_T = k_TD @ (self._x_TC[stop - 1] @ self._w_q) / k_TD.shape[1] ** 0.5
            outs.append(score_T.masked_fill(~self._seen(stop), float("-inf")).softmax(0) @ v_TD)
        return [torch.stack(outs), rows]

    def _first_row(self, step: int, stop: int) -> int:
        """Where a step begins to compute: the prompt's start, the newest token, or before it."""
        if step == 0 or self._kind == "recomputes":
            return 0
        return stop - 2 if self._kind == "recomputes one row" and step == 1 else stop - 1

    def _seen(self, stop: int) -> torch.Tensor:
        """The slots that a step looks at."""
        slots_T = torch.arange(self._capacity)
        if self._kind == "reads an empty slot":
            return slots_T >= 0
        if self._kind == "ignores a row":
            return (slots_T < stop) & (slots_T != self._blind)
        return slots_T < stop


@Q.law("each suspect gets the right verdict")
def _(answer, case):
    seen, sizes = {}, (case["n_prompt"], case["n_new"], case["capacity"])
    for i, kind in enumerate(case["_subjects"]):
        verdict = answer(Subject(kind, *sizes, case["_seed"] + i), *sizes)
        seen[f"verdict on one that {kind}"] = Near(SUBJECTS[kind]).of(verdict)
    return seen


# --- what goes wrong: each changes one thing of this ---


def _audit(
    subject, n_prompt, n_new, capacity, *, spare=0, exact=False, tries=None, used=True, empty=True
):
    honest_ND, rows = subject.run(None)
    allowed = n_prompt + n_new - 1 + spare
    if rows > allowed:
        return "recomputes"
    if exact and rows < allowed:
        return "ignores a row"
    for slot in range(n_prompt)[:tries]:
        moved = not torch.equal(subject.run(slot)[0], honest_ND)
        if moved != used:
            return "ignores a row"
    if empty and not torch.equal(subject.run(capacity - 1)[0], honest_ND):
        return "reads an empty slot"
    return "reuses"


Q.mistakes(
    _audit,
    {
        "the count alone is trusted. One who stores rows and never looks at some of them has the "
        "right count too.": {"tries": 0, "empty": False},
        "the honest count is taken to be P + N. The last new token is returned but never fed, so "
        "it is P + N - 1.": {"spare": 1, "exact": True},
        "P + N rows are let through. The last new token is returned but never fed, so P + N - 1 "
        "are enough, and one more was computed again.": {"spare": 1},
        "the rows are not counted. Poison alone does not show who computes again: the first output "
        "behind the prompt is made from the poisoned slot.": {"spare": math.inf},
        "only slot 0 is poisoned. The row that is ignored may be another.": {"tries": 1},
        "no unused slot is ever poisoned, so reading empty slots goes unseen.": {"empty": False},
        "everyone is acquitted.": lambda subject, n_prompt, n_new, capacity: "reuses",
        "poison is read the wrong way round: outputs that move are proof that a row is used.": {
            "used": False
        },
    },
)
