"""3.6: what shrinks with the number of libraries, and what does not."""

from kvlab.course.author import claims

Q = claims(
    "3.6",
    "What shrinks, what does not",
    "about_libraries",
    points=2,
    minutes=8,
    difficulty=2,
    statement="""
True or false? Put your answer down before you look it up. In claims 1 to 3 a model has 32 query heads of 128 numbers and is 4,096
wide; instead of 32 libraries it gets 8.

1. The cache shrinks to a quarter.
2. The number of attention scores shrinks to a quarter.
3. The parameters of attention shrink to a quarter.
4. Multi-query attention, one library for all heads, is the most conservative way to save.
5. All tokens of a text move on by 100 positions. Every key that is stored changes in every layer, and no attention score does.
6. Values are turned by their positions, as keys are.
7. With multi-head latent attention the keys and values of all heads are made from what is cached: one latent vector a token
   and layer, and one short key that is turned and shared by all heads.
8. If a model answers as well without a head as with it, that head does nothing.

Return a list of eight, each `True` or `False`.
""",
    asks="Return eight times True or False.",
    right=(True, False, False, False, True, False, True, False),
    wrong=(
        "2 x layers x libraries x D: the number of libraries is a factor of the cache, and 8 of 32 is a quarter.",
        "each of the 32 query heads still compares each of its queries with each token.",
        "a quarter is left of the matrices for keys and values; those for queries and for the output stay as they "
        "are. 1 + 1/4 + 1/4 + 1 of 4 parts are left, 62.5 %.",
        "it saves the most that sharing can save and leaves the heads the least of their own: the most aggressive "
        "one. The conservative one is a few libraries (GQA).",
        "a key is turned by its own position, so it changes; both arrows turn by the same angle, so the angle between "
        "query and key stays, and all that follows from it.",
        "a value is mixed and not compared: nobody would turn it back. Only queries and keys are turned.",
        "that is what it caches: the latent, from which each head makes its own key and value, and the turned part.",
        "others may cover for it. In layer 3 of the pocket model no head is missed alone, and without all six "
        "nothing is answered.",
    ),
    because="The number of libraries is a factor of the cache and of two matrices of four; it is in no score.",
    hints=(
        "For each claim ask which formula it is about, and whether G, the number of libraries, stands in it. "
        'Claims 5 and 6 have their cells in "Where am I? Two arrows".',
        "Write the four matrices of attention down with their shapes: which two have G in them? For claim 8 look at "
        'the last table of "Which heads matter?", where whole layers are taken away.',
        "Three of the eight are true: one on the cache, one on a text that moves, and one of the last three.",
    ),
)
