"""8.2: what it costs to let a cache grow, by three ways, counted and in closed form."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial

import torch

from kvlab.course.author import Exercise, NotData, brief
from kvlab.course.author.compare import Near, Wanted
from kvlab.measure.allocating import new_bytes

Q = Exercise(
    "8.2",
    "What growing costs",
    "growth",
    points=3,
    minutes=20,
    difficulty=3,
    statement="""
A cache takes in a prompt of `n_prompt` tokens, one or more, in one call, and then `n_new` tokens, none or more, one a call (chapter 8, "It grows, and what grows must move"). How many tokens are moved on the way, and how many tokens is there memory for at the worst moment? `how` says how it grows:

- `"concatenated"`: each call takes memory for the old tokens and the new ones, and the old ones are copied there. While it copies, old and new memory are both there. The first call finds nothing to copy.
- `"doubled"`: the first call takes memory for exactly the prompt. A call that finds the memory full takes twice as much as there is, copies all tokens there, and writes its own; again old and new memory are both there for a moment.
- `"preallocated"`: memory for the prompt and all new tokens is taken at the start.

Return a dict with the whole numbers (`int`) `moved`, the tokens that were copied, all calls together, and `most`, the tokens that memory was taken for at the worst moment. The judge counts with real tensors, and then asks for chats of a billion tokens, so a loop over tokens will not do; one over the doublings does.

With a prompt of 3 and 5 new tokens, concatenation moves 3 + 4 + 5 + 6 + 7 = 25 tokens and has memory for 15 at once, when it makes 8 out of 7. Doubling has memory for 3, 6 and 12, moves 9, and has memory for 18 while it goes from 6 to 12. About 12 lines.
""",
    hints=(
        "Which tokens are there when the last call begins? And what do all calls before it have in common with it?",
        "concatenated: the i-th new token moves n_prompt + i tokens, from i = 0 on; sum that by a formula. Its worst moment is the last call: T - 1 old and T new ones. doubled: go through the doublings in a loop; each moves what was full, and needs three times as much for a moment.",
        "T = n_prompt + n_new. concatenated: moved = n_new * n_prompt + n_new * (n_new - 1) // 2; most = 2 * T - 1 if n_new else T. doubled: size, moved, most = n_prompt, 0, n_prompt; while size < T: moved += size; most = 3 * size; size *= 2. preallocated: 0 and T.",
    ),
    size=lambda case: case["n_prompt"] + case["n_new"],
)
WAYS = ("concatenated", "doubled", "preallocated")
COUNTS = ("moved", "most")


@Q.case
def case(rng):
    """More than two doublings, and the last memory not full."""
    n_prompt = rng.choice([3, 5, 7])
    return {"n_prompt": n_prompt, "n_new": 4 * n_prompt + rng.randint(1, 2 * n_prompt)}


@Q.solution
def growth(how, n_prompt, n_new):
    """Return how many tokens are moved, and are taken memory for at most, as a dict."""
    ### BEGIN SOLUTION
    total = n_prompt + n_new
    if how == "concatenated":
        moved = n_new * n_prompt + n_new * (n_new - 1) // 2
        return {"moved": moved, "most": 2 * total - 1 if n_new else total}
    if how == "preallocated":
        return {"moved": 0, "most": total}
    size, moved, most = n_prompt, 0, n_prompt
    while size < total:
        moved, most, size = moved + size, 3 * size, 2 * size
    return {"moved": moved, "most": most}
    ### END SOLUTION


@Q.also_right
def by_powers_of_two(how, n_prompt, n_new):
    last = n_prompt + n_new
    if how[0] == "p":
        return {"moved": 0, "most": last}
    if how[0] == "c":
        old = last - 1 if n_new > 0 else 0
        moved = (last * (last - 1) - n_prompt * (n_prompt - 1)) // 2
        return {"most": last + old, "moved": moved}
    times = (-(-last // n_prompt) - 1).bit_length()
    most = n_prompt if times == 0 else 3 * n_prompt * 2 ** (times - 1)
    return {"most": most, "moved": n_prompt * (2**times - 1)}


# --- what is counted: real tensors, and what torch says of the memory they take ---


@lru_cache(512)
def counted(how: str, n_prompt: int, n_new: int) -> dict[str, int]:
    """Tokens moved and held at most by a cache that really grows, one number a token."""
    held_T = torch.empty(n_prompt + n_new if how == "preallocated" else n_prompt)
    moved, most, new_1 = 0, len(held_T), torch.ones(1)
    for used in range(n_prompt, n_prompt + n_new):
        grown_T, n_bytes = held_T, 0
        if how == "concatenated":
            grown_T, n_bytes = _made(partial(torch.cat, (held_T, new_1)))
        elif used == len(held_T):
            grown_T, n_bytes = _made(partial(torch.empty, 2 * used))
            grown_T[:used] = held_T
        if n_bytes:
            moved, most = moved + used, max(most, len(held_T) + n_bytes // held_T.itemsize)
        held_T = grown_T
        held_T[used] = 1
    return {"moved": moved, "most": most}


def _made(make: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """What is made, and the bytes of memory that torch took for it."""
    made: list[torch.Tensor] = []
    n_bytes = new_bytes(lambda: made.append(make()))
    return made[0], n_bytes


def _asked(answer, how, n_prompt, n_new):
    got = answer(how, n_prompt, n_new)
    if not isinstance(got, dict) or set(got) != set(COUNTS):
        raise NotData(f"your code returned {brief(got)}; expected a dict with {', '.join(COUNTS)}.")
    for name in COUNTS:
        if type(got[name]) is float:
            raise NotData(
                f"your code returned {name} as {brief(got[name])}, a float; expected a whole number (int)."
            )
    return got


def _law(says, how, change, true=counted):
    def asked(case):
        given = {**case, **change(case)}
        return how, given["n_prompt"], given["n_new"]

    for name in COUNTS:

        @Q.law(f"{how}: {says}, {name}", shows=lambda case: "{!r}, {}, {}".format(*asked(case)))
        def _(answer, case, name=name):
            found = _asked(answer, *asked(case))
            return {name: Near(true(*asked(case))[name]).of(found[name])}


for way in WAYS:
    _law("counted with real tensors", way, lambda case: {})
for way in WAYS:
    _law("no new token", way, lambda case: {"n_new": 0})
    _law("one new token", way, lambda case: {"n_new": 1})
    _law("a prompt of one token", way, lambda case: {"n_prompt": 1})
    _law("memory that is just full", way, lambda case: {"n_new": 3 * case["n_prompt"]})
    _law("a token more than what is full", way, lambda case: {"n_new": 3 * case["n_prompt"] + 1})


TRIES, MOST_TIMES = 4, 20  # a loop over tokens takes thousands of times as long


class _NoLonger(Wanted):
    """True: that many tokens took about as long as few."""

    def fault(self, name, came):
        if came:
            return None
        return (
            f"Four million tokens take more than {MOST_TIMES} times as long as ten; expected about "
            "as long: a formula, no loop over tokens"
        )


def _seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _grows_no_longer(way):
    @Q.law(f"{way}: no loop over tokens", shows=lambda case: f"{way!r}, 7, {4 * 10**6}")
    def _(answer, case):
        """Asked before a billion is, for which a loop would run for minutes."""
        few = many = float("inf")
        for _ in range(TRIES):
            many = min(many, _seconds(lambda: answer(way, 7, 4 * 10**6)))
            few = min(few, _seconds(lambda: answer(way, 7, 10)))
            if many < MOST_TIMES * few:
                break
        return {"time": _NoLonger().of(many < MOST_TIMES * few)}


for way in WAYS:
    _grows_no_longer(way)
for way in WAYS:
    _law(
        "a billion tokens", way, lambda case: {"n_new": 10**9 + case["n_new"]},
        lambda *how: growth(*how),
    )  # fmt: skip


# --- what goes wrong: each changes one thing of this ---


def _growth(
    how, n_prompt, n_new, *, sums=lambda p, n: n * p + n * (n - 1) // 2, last=lambda T: 2 * T - 1,
    none=True, first=lambda p: p, adds=lambda size, old: size, both=3, ends=lambda size, T: size < T,
    room=lambda T, p: T, moves=0, factor=2,
):  # fmt: skip
    total = n_prompt + n_new
    if how == "concatenated":
        most = last(total) if n_new or not none else total
        return {"moved": sums(n_prompt, n_new), "most": most}
    if how == "preallocated":
        return {"moved": moves * n_prompt, "most": room(total, n_prompt)}
    size, moved, most = first(n_prompt), 0, first(n_prompt)
    while ends(size, total):
        moved, most, size = moved + adds(size, most), both * size, factor * size
    return {"moved": moved, "most": most}


def _loop(how, n_prompt, n_new):
    found = growth(how, n_prompt, n_new)
    if how == "concatenated":
        found["moved"] = sum(range(n_prompt, n_prompt + n_new))
    return found


def _floats(how, n_prompt, n_new):
    found = growth(how, n_prompt, n_new)
    if how == "concatenated":
        found["moved"] = n_new * n_prompt + n_new * (n_new - 1) / 2
    return found


Q.mistakes(
    _growth,
    {
        "the new token of each call is counted as moved. It is written once and was nowhere before.": {
            "sums": lambda p, n: n * p + n * (n + 1) // 2
        },
        "only the prompt is moved at each call. The new tokens that came before are moved as well.": {
            "sums": lambda p, n: n * p
        },
        "the sum is not halved.": {"sums": lambda p, n: n * p + n * (n - 1)},
        "the prompt counts as if it had come token by token. It comes in one call.": {
            "sums": lambda p, n: (p + n) * (p + n - 1) // 2
        },
        "only the new memory is counted at the worst moment. The old one is still there.": {
            "last": lambda T: T
        },
        "the old memory is as large as the new one. It is one token smaller.": {
            "last": lambda T: 2 * T
        },
        "nothing is concatenated when there is no new token.": {"none": False},
        "doubling begins with one token. The first memory is that of the prompt.": {
            "first": lambda p: 1
        },
        "what is moved is what is full, not the new memory.": {"adds": lambda size, old: 2 * size},
        "only the new memory is counted while it doubles. The old one is still there.": {"both": 2},
        "memory that is just full is doubled already. It is doubled when another token comes.": {
            "ends": lambda size, T: size <= T
        },
        "the memory doubles one token too late.": {"ends": lambda size, T: size + 1 < T},
        "memory is taken for the new tokens alone. The prompt lies in it, too.": {
            "room": lambda T, p: T - p
        },
        "memory that is taken once needs no copy, so nothing is moved.": {"moves": 1},
        "a loop goes over the tokens, and takes minutes for a billion. The sum of numbers in a row has a "
        "formula.": _loop,
        "the result is a float, and the last digits of large counts are lost. Divide with //.": _floats,
    },
)
