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

1. Nine tokens were read, and two readers ask for different tenth tokens. The keys and values of the nine must be computed again for the
   second of them.
2. If the queries were kept as well, later tokens would come out better, since they could look at what earlier ones had asked for.
3. If the first token of the text is replaced by another one, the cached keys of later tokens are wrong.
4. With a cache, the step that makes token 1,000 reads about as many numbers of keys and values as the step that makes token 100.
5. If every token could look at every other one, the keys of layer 0 would still stay constant while the text
   grows; those of layer 1 would not.
6. Who has no memory to spare can leave the cache out, and gets the same tokens for more work.

Return a list of six, each `True` or `False`.
""",
    asks="Return six times True or False.",
    right=(False, False, True, False, True, True),
    wrong=(
        "nothing that comes after them can change the nine pairs. Both readers go on from the same ones.",
        "a query is used in its own token's step, and nobody looks at a query again. Only keys and values are looked at.",
        "every later token may look at the first one, so behind layer 0 their streams change, and "
        "the first one's own key changes in every layer.",
        "only one query is new, but it is compared with every key: ten times as many of them are read.",
        "in layer 0 a key is made of its own token's embedding and position, before any attention. "
        "From layer 1 on the streams hold what attention mixed in.",
        "a cache takes memory, and saves the work of computing the same keys and values again. The tokens are the same.",
    ),
    because="Constant for a fixed prefix at fixed positions, computed once, read at every step.",
    hints=(
        "For each claim ask: what is this key made of, and did that change?",
        "A key of layer 0 is made of an embedding and a position; a key of layer 3 of what three "
        "layers of attention mixed in.",
        "For 1 and 3: which tokens come before the change, and which after it? For 2: who looks at a query, and when? For 4: what "
        "does the one new query meet? For 6: what does the loop without a cache hold between two steps?",
    ),
)
