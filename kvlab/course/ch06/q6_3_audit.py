"""6.3: does a generator reuse what it computed? Count its rows, and poison its cache.

N new tokens, T slots, S token rows of one step, C and D a row's width.

Long because there are many ways to pretend, and each of them needs a suspect.
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
each new token and the number of keys that were computed, one for each token that passes. With `poison=j` slot j of the cache
(0 to `capacity - 1`) is overwritten with noise right after the prompt was read; with `None` nothing is.
The slots behind the prompt are empty when they are poisoned, and the run writes over those that it needs. Runs
with the same poison give the same bits: any difference counts.

Return one of four verdicts, the first one that fits:

| verdict | what is going on |
|---|---|
| `"recomputes"` | more keys are computed than a cache needs, be it one |
| `"ignores a row"` | the right number of keys, but some token of the prompt is never looked at |
| `"reads an empty slot"` | a slot that holds nothing changes the output |
| `"reuses"` | every token of the prompt is computed once and used |
""",
    hints=(
        "Same tokens prove nothing: somebody who computes everything again gets them too. What can "
        "you count, and what can you break, that tells the two apart?",
        "With a cache, P prompt tokens and N new ones need P + N - 1 keys: the last new "
        "token is never fed. If the count is right, poison slots one at a time and see whether the "
        "outputs move.",
        "honest, rows = subject.run(None). More rows than P + N - 1: 'recomputes'. A prompt slot j "
        "(0 <= j < P) whose poison leaves torch.equal(outputs, honest): 'ignores a row'. A slot "
        "behind the prompt (P <= j < capacity) whose poison changes them: 'reads an empty slot'. "
        "Else 'reuses'.",
    ),
    size=lambda case: case["capacity"],
)

# what is lent to an answer, and the right verdict on it
SUBJECTS = {
    "reuses": "reuses",
    "recomputes": "recomputes",
    "recomputes one row": "recomputes",
    "recomputes two rows": "recomputes",
    "recomputes and never looks into the cache": "recomputes",
    "recomputes one row and reads an empty slot": "recomputes",
    "ignores a row": "ignores a row",
    "ignores a row and reads an empty slot": "ignores a row",
    "ignores the first row": "ignores a row",
    "ignores the prompt's last row": "ignores a row",
    "looks at one row in its first step alone": "reuses",
    "looks at one row in its last step alone": "reuses",
    "hardly looks at one row": "reuses",
    "takes one row for the sign alone": "reuses",
    "takes one row for the order alone": "reuses",
    "hardly reads an empty slot": "reads an empty slot",
    "reads an empty slot": "reads an empty slot",
    "reads the first empty slot in its first step": "reads an empty slot",
    "reads another empty slot in its first step": "reads an empty slot",
    "reads the last empty slot in its last step": "reads an empty slot",
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
    for slot in range(n_prompt, capacity):
        poisoned_ND, _ = subject.run(slot)
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
    return "reads an empty slot" if any(moved[n_prompt:]) else "reuses"


# --- what is lent ---


class Subject(Lent):
    """Something that claims to generate with a cache, and what can be done to it.

    `run(poison)` generates afresh and returns [outputs_ND, rows]: the attention output behind each
    new token, and how many token rows had their key computed. With `poison` = j, slot j of the
    cache is overwritten with noise right after the prompt was read. One that "recomputes one row"
    does so in the first step after the prompt, one that recomputes two in each of the first two.
    """

    lends = ("run",)

    def __init__(self, kind: str, n_prompt: int, n_new: int, capacity: int, seed: int) -> None:
        self._kind, self._n_prompt, self._n_new, self._capacity = kind, n_prompt, n_new, capacity
        torch_rng, width = torch.Generator().manual_seed(seed), 6

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

        self._x_TC = normal(capacity + 1, width)
        # scores of a size at which no row's weight is lost in rounding, so that every poison shows
        self._w_q, *self._w_kv = normal(3, width, width) / width**0.5
        self._noise = 2 * normal(2, width)
        # the row that one who "ignores a row" never looks at: any of the prompt's
        self._blind = int(torch.randint(n_prompt, (1,), generator=torch_rng))
        if "the first row" in kind or "prompt's last" in kind:
            self._blind = 0 if "first" in kind else n_prompt - 1
        # and the step in which one is looked at, or an empty slot read, and that slot
        self._when = n_new - 1 if "last" in kind else 0
        self._empty = n_prompt if "the first" in kind else capacity - 1
        if "another" in kind:
            self._empty = int(torch.randint(n_prompt + 1, capacity - 1, (1,), generator=torch_rng))

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
            if step == 0 and poison is not None and "never looks" not in self._kind:
                k_TD[poison], v_TD[poison] = self._noise
            score_T = k_TD @ (self._x_TC[stop - 1] @ self._w_q) / k_TD.shape[1] ** 0.5
            out_D = score_T.masked_fill(~self._seen(stop), float("-inf")).softmax(0) @ v_TD
            out_D = self._arranged(out_D, float(k_TD[self._blind, 0]))
            outs.append(out_D + 1e-13 * v_TD[self._glimpsed()].sum(0))
        return [torch.stack(outs), rows]

    def _arranged(self, out_D: torch.Tensor, told: float) -> torch.Tensor:
        """An output whose sign, or whose order, hangs on one number of one row's key.

        The sign alone moves no norm, and the order of numbers that add up exactly no sum.
        """
        own = float((self._x_TC[self._blind] @ self._w_kv[0])[0])
        other = (told < (own + float(self._noise[0, 0])) / 2) != (own < float(self._noise[0, 0]))
        if "sign alone" in self._kind:
            return -out_D if other else out_D
        if "order alone" in self._kind:
            out_D = (out_D * 2**30).round() / 2**30
            return out_D.flip(0) if other else out_D
        return out_D

    def _first_row(self, step: int, stop: int) -> int:
        """Where a step begins to compute: the prompt's start, the newest token, or before it."""
        if step == 0 or self._kind == "recomputes" or "never looks" in self._kind:
            return 0
        again = 1 if "recomputes one row" in self._kind else 2 * ("two rows" in self._kind)
        return stop - 2 if step <= again else stop - 1

    def _glimpsed(self) -> list[int]:
        """The slots that have hardly any part in an output."""
        glimpsed = {"hardly looks at one row": self._blind, "hardly reads an empty slot": -1}
        return [glimpsed[self._kind]] if self._kind in glimpsed else []

    def _seen(self, stop: int) -> torch.Tensor:
        """The slots that a step looks at."""
        slots_T = torch.arange(self._capacity)
        if self._kind.endswith("reads an empty slot") and "hardly" not in self._kind:
            return (slots_T >= 0) & ((slots_T != self._blind) | ("ignores" not in self._kind))
        now = stop == self._n_prompt + self._when
        if self._kind.startswith(("ignores", "hardly looks", "takes one row")) or (
            self._kind.startswith("looks") and not now
        ):
            return (slots_T < stop) & (slots_T != self._blind)
        if "empty slot in" in self._kind and now:
            return (slots_T < stop) | (slots_T == self._empty)
        return slots_T < stop


@Q.law("each suspect gets the right verdict")
def _(answer, case):
    seen, sizes = {}, (case["n_prompt"], case["n_new"], case["capacity"])
    for i, kind in enumerate(case["_subjects"]):
        verdict = answer(Subject(kind, *sizes, case["_seed"] + i), *sizes)
        seen[f'verdict on one that "{kind}"'] = Near(SUBJECTS[kind]).of(verdict)
    return seen


# --- what goes wrong: each changes one thing of this ---


def _differs(a_ND, b_ND):
    return not torch.equal(a_ND, b_ND)


def _audit(
    subject, n_prompt, n_new, capacity, *, allowed=lambda n_prompt, n_new: n_prompt + n_new - 1,
    exact=False, rows_last=False, prompt_slots=range, used=_differs, empty_slots=range,
    empty=_differs,
):  # fmt: skip
    honest_ND, rows = subject.run(None)
    too_many = rows > allowed(n_prompt, n_new)
    if too_many and not rows_last:
        return "recomputes"
    if exact and rows < allowed(n_prompt, n_new):
        return "ignores a row"
    for slot in prompt_slots(n_prompt):
        if not used(subject.run(slot)[0], honest_ND):
            return "ignores a row"
    for slot in empty_slots(n_prompt, capacity):
        if empty(subject.run(slot)[0], honest_ND):
            return "reads an empty slot"
    return "recomputes" if too_many else "reuses"


def _by(measured):
    """Outputs that are compared by what is measured of them."""

    def differs(a_ND, b_ND):
        return _differs(measured(a_ND), measured(b_ND))

    return {"used": differs, "empty": differs}


def _poisons_what_the_run_fills(subject, n_prompt, n_new, capacity):
    return _audit(subject, n_prompt, n_new, capacity, prompt_slots=lambda n: range(n + n_new - 1))


Q.mistakes(
    _audit,
    {
        "the count alone is trusted. One who stores rows and never looks at some of them has the "
        "right count too.": {"prompt_slots": lambda n: (), "empty_slots": lambda *_: ()},
        "the honest count is taken to be P + N. The last new token is returned but never fed, so "
        "it is P + N - 1.": {"allowed": lambda p, n: p + n, "exact": True},
        "P + N rows are let through. The last new token is returned but never fed, so P + N - 1 "
        "are enough, and one more was computed again.": {"allowed": lambda p, n: p + n},
        "the bound on the rows is too high (P x N, or P + N and more): who computes two rows again "
        "gets through. A cache needs P + N - 1.": {"allowed": lambda p, n: p * n},
        "the rows are not counted. Poison alone does not show who computes again: the first output "
        "behind the prompt is made from the poisoned slot.": {"allowed": lambda p, n: math.inf},
        "the count is asked last. Who computes everything again need not look into the cache at all, and is no one who "
        "ignores a row: the first verdict that fits.": {"rows_last": True},
        "only slot 0 is poisoned. The row that is ignored may be another.": {
            "prompt_slots": lambda n: range(1)
        },
        "no unused slot is ever poisoned, so reading empty slots goes unseen.": {
            "empty_slots": lambda *_: ()
        },
        "only the first slot behind the prompt is poisoned. The empty one that is read may be "
        "another.": {"empty_slots": lambda first, stop: range(first, first + 1)},
        "only the last slot is poisoned. The empty one that is read may be another.": {
            "empty_slots": lambda first, stop: range(stop - 1, stop)
        },
        "slots behind the prompt are written over by the run: that poison there does not show is "
        "no proof that a row is ignored.": _poisons_what_the_run_fills,
        "outputs are compared by their sum or their mean, which stay where the same numbers come in another order. "
        "Compare number by number, as torch.equal does.": _by(torch.sum),
        "outputs are compared by their norm, which stays where all signs are turned. Compare number by number, as "
        "torch.equal does.": _by(torch.norm),
        "outputs are compared by their largest numbers alone. Any number that differs counts.": _by(
            lambda x_ND: x_ND.argmax(-1)
        ),
        "only slots that the run fills later are poisoned as empty ones. The one that is read may be another.": (
            lambda subject, p, n, c: _audit(
                subject, p, n, c, empty_slots=lambda *_: range(p, p + n - 1)
            )
        ),
        "slots that the run fills later are never poisoned. They are empty when they are, and one may be read before.": (
            lambda subject, p, n, c: _audit(
                subject, p, n, c, empty_slots=lambda *_: range(p + n - 1, c)
            )
        ),
        "small moves are overlooked, as torch.allclose does. Runs with the same poison give the same "
        "bits, so any difference counts.": {
            "used": lambda a_ND, b_ND: not torch.allclose(a_ND, b_ND, rtol=0, atol=1e-12),
            "empty": lambda a_ND, b_ND: not torch.allclose(a_ND, b_ND, rtol=0, atol=1e-12),
        },
        "slot 0 is never poisoned. The row that is ignored may be the first one.": {
            "prompt_slots": lambda n: range(1, n)
        },
        "the prompt's last slot is never poisoned. The row that is ignored may be the last one.": {
            "prompt_slots": lambda n: range(n - 1)
        },
        "only the first output is compared. A row may be looked at later, and an empty slot "
        "read.": {
            "used": lambda a_ND, b_ND: _differs(a_ND[0], b_ND[0]),
            "empty": lambda a_ND, b_ND: _differs(a_ND[0], b_ND[0]),
        },
        "only the last output is compared. A row may have been looked at earlier, and an empty "
        "slot read.": {
            "used": lambda a_ND, b_ND: _differs(a_ND[-1], b_ND[-1]),
            "empty": lambda a_ND, b_ND: _differs(a_ND[-1], b_ND[-1]),
        },
        "everyone is acquitted.": lambda subject, n_prompt, n_new, capacity: "reuses",
        "poison is read the wrong way round: outputs that move are proof that a row is used.": {
            "used": torch.equal
        },
    },
)
