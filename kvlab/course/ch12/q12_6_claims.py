"""12.6: which zeros save time or bytes."""

from kvlab.course.author import claims

Q = claims(
    "12.6",
    "What is free?",
    "what_is_true",
    points=4,
    minutes=10,
    difficulty=1,
    statement="""
True or false? Return a list of eight, `True` or `False` each.

1. Setting 70 % of K to zero makes `q @ K.T` faster.
2. Keys of tokens that a mask evicts (score minus infinity) are read as before.
3. Setting a key to zero evicts its token.
4. A float16 row that drops 70 % of its numbers takes 30 % of the dense bytes.
5. A float16 row of 128 numbers that drops 5 % of them and notes which in a bitmap is larger than a dense one.
6. After eviction the next token's position is the number of used slots.
7. If attention is half of a step's time, no pruning of the cache makes the step more than twice as fast.
8. Rows that are packed in memory and unpacked before attention are read faster than dense ones, since less is stored.
""",
    asks="Return a list of eight, True or False each.",
    right=(False, True, False, False, True, False, True, False),
    wrong=(
        "A product fetches and multiplies every number; it cannot know which are zero.",
        "Minus infinity in the scores changes the weights. Every key is still read to get them.",
        "A zero key has the score 0, and e to the 0 is 1: the token still takes its part of the "
        "softmax.",
        "The marks are stored, too: one bit per number, 1/16 of the dense bytes in float16.",
        "It keeps 122 of 128: 244 bytes and 16 bytes of marks, against 256.",
        "Keys were turned by their positions in the text. The next token stands behind all that "
        "was read, evicted or not.",
        "The other half of the step stays as it is, so the whole takes at least half of its time.",
        "Unpacking writes the dense rows to memory, and they are read again from there: more "
        "traffic than before.",
    ),
    because="Your eight answers are right: only what is no longer read, or no longer there, saves time or "
    "bytes, and only in the part of the step that reads it.",
    hints=(
        "Ask of each claim: which bytes are read, and which are still there?",
        'Run the chapter\'s cells: "Zero it, and time it", the table of row bytes, and "A whole '
        'step gains less".',
        "Three of the eight are true. One of these is about masks, one about a row's bytes, one "
        "about half of a step.",
    ),
)
