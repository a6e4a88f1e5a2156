"""11.5: what attention says of a token, what a test of answers says of a rule, and what bytes are."""

from kvlab.course.author import claims

Q = claims(
    "11.5",
    "Eight claims about answers",
    "claims_about_answers",
    points=3,
    minutes=6,
    difficulty=1,
    statement="""
True or false? Return a list of eight, in this order. If you are not sure, run it: the chapter (11) has the code.

1. Weights 0.5, 0.3 and 0.2, values 5, 9 and −1: of the three tokens, the first is the one whose eviction moves the output least.
2. The token with the most attention is always the one whose eviction changes the prediction most.
3. Each rule of the chapter's table that keeps all words when the question was seen keeps most of them when the question comes later, too.
4. With attention summed over all queries so far, a token at the beginning had more chances to collect some than one at the end.
5. Half of the elements of a cache are set to zero, and the tensors stay as they are: the cache takes half of the bytes.
6. A cache in 8 bits with one scale and one zero point of 16 bits for each 32 numbers takes more than half the bytes of one in 16 bits.
7. If the pruned cache and the dense one give the same answer, the divergence between their predictions is 0.
8. One rule keeps 28 of 30 answers and another 26 of 30. That settles which is better.
""",
    asks="Return eight times True or False.",
    right=(True, False, False, True, False, True, False, False),
    wrong=(
        "claim 1: without the first token the others' share is (0.3 x 9 - 0.2 x 1) / 0.5 = 5, which is what the output was.",
        "claim 2: attention says how much of a value is mixed in, and not what it is or who else says the same; the chapter counts "
        "sentences in which the two are different tokens.",
        "claim 3: look at `tova` and `snapkv`: the queries that they look at are the question, or something else.",
        "claim 4: the first token is seen by all queries and the last by one.",
        "claim 5: a zero takes as many bytes as any other number. Only what is packed, or gone, takes fewer.",
        "claim 6: 32 numbers take 32 bytes, and scale and zero point 4 more: 36 of 64.",
        "claim 7: the likeliest token may be the same while all probabilities have moved.",
        "claim 8: two prompts of thirty may be chance. Count the prompts at which the two differ, on more of them, and on more than one model.",
    ),
    hints=(
        "For 1, leave out each token in turn and divide what is left by the weights that are left. For 5 and 6, count bytes.",
        "For 3 look at the chapter's table of rules, once with the question seen and once without. For 7, think of a prediction that is less sure than it was.",
        "Three of the eight are true.",
    ),
    because="Your eight answers are right.",
)
