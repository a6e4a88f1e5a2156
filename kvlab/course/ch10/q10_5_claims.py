"""10.5: what output-aware pruning drops, and what a dropped element costs."""

from kvlab.course.author import claims

Q = claims(
    "10.5",
    "Eight claims about elements",
    "claims_about_elements",
    points=3,
    minutes=5,
    difficulty=1,
    statement="""
True or false? Return a list of eight, in this order. If you are not sure, run it: the chapter (10) has the code.

1. An element of 0.8 that meets an input of 0.1, and one of 0.3 that meets 0.9: output-aware pruning drops the 0.8.
2. Magnitude pruning drops the 0.8, too.
3. For V per token, output-aware keeps the same elements as magnitude.
4. For K per token, output-aware keeps the same elements as magnitude.
5. For K per channel, output-aware keeps the same elements as magnitude.
6. A key's element times the query's channel is a part of a logit, before the softmax.
7. Of the products 0.1 and −0.9, the second is worth less.
8. A token whose key was set to zero gets no attention any more.
""",
    asks="Return eight times True or False.",
    right=(True, False, True, False, True, True, False, False),
    wrong=(
        "claim 1: 0.8 x 0.1 = 0.08 is less than 0.3 x 0.9 = 0.27, so the 0.8 goes.",
        "claim 2: magnitude looks at the element alone, and 0.3 is smaller than 0.8.",
        "claim 3: inside a token's row of V all elements have the same input, its attention "
        "weight.",
        "claim 4: inside a token's row of K each channel has an input of its own, so the order can "
        "change.",
        "claim 5: inside a channel of K all tokens have the same input, the query's channel.",
        "claim 6: the products of a key's row are added up to its logit; the softmax comes after.",
        "claim 7: -0.9 is large in size. Dropping it moves the sum by 0.9.",
        "claim 8: its logit becomes 0, and the softmax of 0 is not 0. Only a token that is taken "
        "out, or hidden, gets none.",
    ),
    hints=(
        "The first five are about inputs: is there one for the whole row, or column, that "
        "competes?",
        "For 7, drop each product from a sum and look at what is left. For 8, put a zero key into "
        "q . k.",
        "Claims 2, 4 and two of the last three are false.",
    ),
    because="Your eight answers are right: the first five follow from which input a row or column shares.",
)
