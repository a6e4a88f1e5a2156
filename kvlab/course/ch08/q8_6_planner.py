"""8.6: how many chats fit next to a model, in blocks, with a common beginning."""

from __future__ import annotations

from functools import lru_cache

from kvlab.course.author import Exercise, NotData, brief
from kvlab.course.author.compare import Near
from kvlab.serve.blocks import BlockPool, Prefix

Q = Exercise(
    "8.6",
    "The capacity planner",
    "chats_that_fit",
    points=4,
    minutes=25,
    difficulty=3,
    statement="""
How many chats fit next to a model (chapter 8, "Next to the model", "Blocks, and a table that finds them" and "Texts that begin alike")? Return a whole number, 0 if there is no room for any.

- A card has `memory` bytes, of which `percent` percent may be used, rounded down. The model has `n_params` parameters of `weight_bits` bits each, rounded up to whole bytes.
- What is left is cut into whole blocks of `size` slots; a slot takes `token_bytes` bytes.
- Each chat has `n_tokens` tokens, one or more, and holds whole blocks of its own.
- But all chats begin with the same `common` tokens, none or more and at most all of `n_tokens`, and share what can be shared: whole blocks only, and never the last token of a chat, which every chat has to compute for itself. What is shared is held once, however many chats there are.

About 10 lines. On a card of 1,000 bytes, 90 percent of them usable, 250 parameters of 16 bits leave 400 bytes. With 10 bytes a slot and blocks of 4, that is 10 blocks. Chats of 9 tokens need 3 each, so 3 fit; if their first 5 tokens are common, one block is shared, and 4 chats fit into 1 + 4 x 2 blocks. The judge fills kvlab's own pool with such chats until it refuses.
""",
    hints=(
        "Work in blocks from the moment that you can: how many are there, how many does a chat need, and how many of these does the second chat not need any more?",
        "Bytes left: memory * percent // 100 less the model. Blocks: left // (size * token_bytes), which is below zero where the model alone is too large. A chat needs n_tokens / size, rounded up. Shared are min(common, n_tokens - 1) // size of them. Each chat adds the difference, and the first also the shared ones.",
        "left = memory * percent // 100 + (-n_params * weight_bits) // 8; blocks = left // (size * token_bytes); each = -(-n_tokens // size); shared = min(common, n_tokens - 1) // size; return 0 if blocks < each else (blocks - shared) // (each - shared).",
    ),
    size=lambda case: case["n_tokens"],
)


@Q.case
def case(rng):
    size, token_bytes = rng.choice([3, 4, 5]), rng.choice([7, 10, 12])
    n_tokens = size * rng.randint(3, 5) + rng.randint(1, size - 1)
    n_blocks = rng.randint(40, 60)
    n_params = 2 * rng.randint(30, 300) + 1
    weight_bits = rng.choice([4, 16])
    percent = rng.choice([80, 90, 95])
    left = n_blocks * size * token_bytes + rng.randint(1, size * token_bytes - 1)
    memory = -(-100 * (left + -(-n_params * weight_bits // 8)) // percent)
    return {
        "memory": memory, "percent": percent, "n_params": n_params, "weight_bits": weight_bits,
        "token_bytes": token_bytes, "size": size, "n_tokens": n_tokens,
        "common": rng.randint(size + 1, 2 * size - 1),
    }  # fmt: skip


@Q.solution
def chats_that_fit(memory, percent, n_params, weight_bits, token_bytes, size, n_tokens, common):
    """Return how many chats fit next to the model."""
    ### BEGIN SOLUTION
    left = memory * percent // 100 - -(-n_params * weight_bits // 8)
    blocks = left // (size * token_bytes)
    each = -(-n_tokens // size)
    shared = min(common, n_tokens - 1) // size
    if blocks < each:
        return 0
    return (blocks - shared) // (each - shared)
    ### END SOLUTION


@Q.also_right
def one_chat_after_the_other(
    memory, percent, n_params, weight_bits, token_bytes, size, n_tokens, common
):
    model = (n_params * weight_bits + 7) // 8
    free = (memory * percent // 100 - model) // (token_bytes * size)
    fresh = sum(1 for start in range(0, n_tokens, size) if start + size > min(common, n_tokens - 1))
    free -= (n_tokens + size - 1) // size - fresh
    n_chats = 0
    while free >= fresh:
        free -= fresh
        n_chats += 1
    return n_chats


# --- what is counted: kvlab's pool, filled until it refuses ---

NAMES = (
    "memory", "percent", "n_params", "weight_bits", "token_bytes", "size", "n_tokens", "common",
)  # fmt: skip


@lru_cache(512)
def filled(n_blocks: int, size: int, n_tokens: int, common: int) -> int:
    """How many chats the real pool takes, each with its own tokens after the common ones."""
    if n_blocks < 1:
        return 0
    pool, n_chats = BlockPool(n_blocks, size), 0
    while True:
        text = [0] * common + [1 + n_chats] * (n_tokens - common)
        found, known = pool.match(text)
        pool.hold(found)
        missing = pool.needed(n_tokens) - len(found)
        if missing > pool.available:
            return n_chats
        pool.learn(found + pool.take(missing), text, Prefix(*known))
        n_chats += 1


def _law(says, change=lambda case: {}):
    def asked(case):
        return {**case, **change(case)}

    @Q.law(says, shows=lambda case: ", ".join(f"{n} {asked(case)[n]}" for n in NAMES))
    def _(answer, case):
        given = asked(case)
        found = answer(*(given[name] for name in NAMES))
        if type(found) is float:
            raise NotData(
                f"your code returned {brief(found)}, a float; expected a whole number (int)."
            )
        model = -(-given["n_params"] * given["weight_bits"] // 8)
        left = given["memory"] * given["percent"] // 100 - model
        n_blocks = left // (given["size"] * given["token_bytes"])
        true = filled(n_blocks, given["size"], given["n_tokens"], given["common"])
        return {"chats": Near(true).of(found)}


def _blocks(n):
    """The case with memory for exactly so many blocks, as a function of the blocks of a chat."""

    def change(case):
        each = -(-case["n_tokens"] // case["size"])
        model = -(-case["n_params"] * case["weight_bits"] // 8)
        return {"memory": n(each) * case["size"] * case["token_bytes"] + model, "percent": 100}

    return change


def _less(case):
    given = _blocks(lambda each: each)(case)
    return {**given, "memory": given["memory"] - 1, "common": 0}


def _tight(case):
    """An odd number of half bytes, and a card that has exactly the room."""
    given = {**case, "weight_bits": 4, "n_params": case["n_params"] | 1}
    return {**given, **_blocks(lambda each: 2 * each)(given), "common": 0}


def _tight_less(case):
    given = _tight(case)
    return {**given, "memory": given["memory"] - 1}


_law("nothing in common", lambda case: {"common": 0})
_law("a common beginning")
_law("a beginning of whole blocks", lambda case: {"common": 2 * case["size"]})
_law("less than a block in common", lambda case: {"common": case["size"] - 1})
_law("everything in common, to the last slot of a block", lambda case: {
    "n_tokens": 3 * case["size"], "common": 3 * case["size"]
})  # fmt: skip
_law("everything in common but what fills no block", lambda case: {
    "n_tokens": 2 * case["size"] + 1, "common": 2 * case["size"] + 1
})  # fmt: skip
_law("chats that fill their blocks", lambda case: {"n_tokens": 3 * case["size"], "common": 0})
_law("chats of one token", lambda case: {"n_tokens": 1, "common": 1})
_law("room for exactly one", _blocks(lambda each: each))
_law("half a byte of the model more", _tight)
_law("half a byte of the model less", _tight_less)
_law("a byte too little for one", _less)
_law("not all of the first chat fits, though its own part would", _blocks(lambda each: each - 1))
_law("exactly one block short of a second", _blocks(lambda each: 2 * each - 2))
_law("the model fills the card", lambda case: {"n_params": 16 * case["memory"]})
_law("the model fills what may be used", lambda case: {
    "n_params": 1000 * case["n_params"], "percent": 50,
    "memory": 2 * -(-1000 * case["n_params"] * case["weight_bits"] // 8),
})  # fmt: skip
_law("no byte is left", lambda case: {
    **_blocks(lambda each: 0)(case)
})  # fmt: skip
_law("parameters of 4 bits, an odd number of them", lambda case: {
    "weight_bits": 4, "n_params": 2 * case["n_params"] + 1
})  # fmt: skip
_law("percent, rounded down", lambda case: {
    **_tight(case), "percent": 99, "memory": -(-100 * _tight(case)["memory"] // 99) - 1
})  # fmt: skip
_law("a percentage that no float holds", lambda case: {
    "memory": 100, "percent": (29, 57, 58)[case["n_params"] // 2 % 3], "n_params": 0,
    "token_bytes": 1, "size": 1, "n_tokens": 1, "common": 0,
})  # fmt: skip


# --- what goes wrong: each changes one thing of this ---


def _fit(
    memory, percent, n_params, weight_bits, token_bytes, size, n_tokens, common, *,
    usable=lambda memory, percent, model: memory * percent // 100 - model,
    model=lambda n, b: -(-n * b // 8),
    cut=lambda left, block: max(0, left) // block, needs=lambda n, size: -(-n // size),
    shares=lambda common, n, size: min(common, n - 1) // size,
    count=lambda blocks, each, shared: (blocks - shared) // (each - shared), none=True,
):  # fmt: skip
    left = usable(memory, percent, model(n_params, weight_bits))
    blocks, each = cut(left, size * token_bytes), needs(n_tokens, size)
    if (blocks < each and none) or left < 0:
        return 0
    shared = shares(common, n_tokens, size)
    return count(blocks, each, shared)


def _in_tokens(memory, percent, n_params, weight_bits, token_bytes, size, n_tokens, common):
    left = max(0, memory * percent // 100 - -(-n_params * weight_bits // 8))
    tokens, own = left // token_bytes, n_tokens - min(common, n_tokens - 1)
    return 0 if tokens < n_tokens else (tokens - n_tokens + own) // own


def _rounded_once(memory, percent, n_params, weight_bits, *rest):
    left = (2 * memory * percent - 25 * n_params * weight_bits) // 200
    return _fit(max(0, left), 100, 0, weight_bits, *rest)


def _below_zero(memory, percent, n_params, weight_bits, token_bytes, size, n_tokens, common):
    left = memory * percent // 100 - -(-n_params * weight_bits // 8)
    blocks, each = left // (size * token_bytes), -(-n_tokens // size)
    shared = min(common, n_tokens - 1) // size
    return (blocks - shared) // (each - shared)


Q.mistakes(
    _fit,
    {
        "all of the card is used. The programs on it need their part: take percent of it.": {
            "usable": lambda memory, percent, model: memory - model
        },
        "percent is taken of what the model leaves. It is a part of the whole card, and the model lies in "
        "that part.": {"usable": lambda memory, percent, model: (memory - model) * percent // 100},
        "the percentage is made a float, which is a little less than asked, and a byte is lost: 100 * "
        "0.29 is below 29. Stay with whole numbers.": {
            "usable": lambda memory, percent, model: int(memory * (percent / 100)) - model
        },
        "the usable bytes are rounded to the nearest, and not down.": {
            "usable": lambda memory, percent, model: (memory * percent + 50) // 100 - model
        },
        "usable bytes and the model are rounded together. The first are rounded down, and the model up.": (
            _rounded_once
        ),
        "the last token of the common beginning is never shared. That of a chat is not: behind a beginning "
        "of whole blocks its own tokens come.": {
            "shares": lambda common, n, size: max(0, common - 1) // size
        },
        "the model is forgotten: its parameters lie on the card, too.": {
            "model": lambda n, bits: 0
        },
        "bits are taken for bytes: 8 bits are one byte.": {"model": lambda n, bits: n * bits},
        "the model's last byte is rounded away. Half a byte takes a whole one.": {
            "model": lambda n, bits: n * bits // 8
        },
        "a chat's last block is rounded away. It is taken for a single token as well.": {
            "needs": lambda n, size: max(1, n // size)
        },
        "a chat whose blocks are full takes one more. Round up, and no further.": {
            "needs": lambda n, size: n // size + 1
        },
        "it is counted in tokens. Memory is given out in whole blocks, and shared in whole ones.": _in_tokens,
        "nothing is shared.": {"shares": lambda common, n, size: 0},
        "a block that is not common to its last token is shared. Only whole blocks are.": {
            "shares": lambda common, n, size: min(-(-common // size), (n - 1) // size)
        },
        "all of a chat is shared when all is common. Its last token has to be computed.": {
            "shares": lambda common, n, size: min(common, n) // size,
            "count": lambda blocks, each, shared: (
                (blocks - shared) // (each - shared) if each > shared else 10**6
            ),
        },
        "the last token is shared as well when all is common, no block is left to a chat, and the division "
        "by none fails. A chat's last token has to be computed.": {
            "shares": lambda common, n, size: common // size
        },
        "one chat at the least is told, even where there is no room for any.": {
            "count": lambda blocks, each, shared: max(1, (blocks - shared) // (each - shared)),
            "none": False,
        },
        "the shared blocks take no memory. They are held once.": {
            "count": lambda blocks, each, shared: blocks // (each - shared)
        },
        "the shared blocks are held by each chat anew. They are held once.": {
            "count": lambda blocks, each, shared: (blocks - shared) // each
        },
        "the first chat is not counted.": {
            "count": lambda blocks, each, shared: (blocks - each) // (each - shared)
        },
        "the number of chats comes out below zero where the model alone is too large.": _below_zero,
        "the shared blocks count as a chat of their own.": {
            "count": lambda blocks, each, shared: (
                (blocks - shared) // (each - shared) + (shared > 0)
            )
        },
    },
)
