"""6.7: what stays constant, and what a step computes, reads and forgets."""

from kvlab.course.author import claims

Q = claims(
    "6.7",
    "What stays, what goes",
    "about_reuse",
    points=2,
    minutes=5,
    difficulty=2,
    statement="""
A causal model of four layers writes with a cache. True or false?

1. To make the 10th token, the keys and values of all nine tokens before it must be computed again.
2. The query of token 3 must be kept, because later tokens look at it.
3. If the first token of the text is replaced by another one, the cached keys of later tokens are wrong.
4. With a cache, a step reads the key of the new token only.
5. If every token could look at every other one, the keys of layer 0 would still stay constant while the text
   grows; those of layer 1 would not.
6. A KV cache saves memory and pays for it with work.

Return a list of six, each `True` or `False`.
""",
    asks="Return six times True or False.",
    right=(False, False, True, False, True, False),
    wrong=(
        "nine pairs are used, but eight of them lie in the cache. A key cannot be out of date.",
        "its query was used in its own step, and nobody looks at a query again: it is thrown away.",
        "every later token may look at the first one, so behind layer 0 their streams change, and "
        "the first one's own key changes in every layer.",
        "only one query is new, but it is compared with every key: all of them are read.",
        "in layer 0 a key is made of its own token's embedding and position, before any attention. "
        "From layer 1 on the streams hold what attention mixed in.",
        "it is the other way round: it takes memory, and saves the work of computing again.",
    ),
    because="Constant for a fixed prefix at fixed positions, computed once, read at every step.",
    hints=(
        "For each claim ask: what is this key made of, and did that change?",
        "A key of layer 0 is made of an embedding and a position; a key of layer 3 of what three "
        "layers of attention mixed in.",
        "Two of the six are true: the one about another first token, and the one about layer 0.",
    ),
)
