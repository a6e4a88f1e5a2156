"""6.6: what the next token asks of the pairs that are there, when one of them was corrected."""

from kvlab.course.author import choice

Q = choice(
    "6.6",
    "The 6th token",
    "for_the_6th_token",
    points=1,
    minutes=3,
    difficulty=1,
    statement="""
A prompt of five tokens was read into a cache, by a causal model of several layers; each token's pair there is its keys and values of
all layers. Before the 6th token is made somebody corrects a typo: token 3 becomes another token. What is the least that must be done
for the five pairs, so that the 6th token is the one of the corrected prompt? Return the letter.

- **a**: project all five again
- **b**: project token 3 again, and read the other four as they are
- **c**: read tokens 1 and 2 as they are, and project 3, 4 and 5 again
- **d**: project 1, 2 and 3 again, and read 4 and 5 as they are
- **e**: nothing: the query of the last token is all that is new
""",
    asks='Return "a", "b", "c", "d" or "e".',
    right="c",
    wrong={
        "a": "it gives the right token, but tokens 1 and 2 never saw the third: their pairs are as they were.",
        "b": "tokens 4 and 5 had looked at the old token 3: from the second layer on their streams hold what "
        "it said, and so do their keys and values.",
        "d": "it is the other way round: tokens 1 and 2 come before the change and cannot see it, 4 and 5 come after.",
        "e": "then the 6th token would be that of the typo: its query reads the old pair of token 3.",
    },
    because="A pair depends on its own token and on those before it: the prefix up to the change is reused, "
    "and the rest is read again.",
    hints=(
        "Which tokens can see token 3?",
        "Can a key of token 2 change when token 3 does? Can one of token 5? The chapter looked.",
        "All pairs in front of the change stay. Those from the change on are computed anew.",
    ),
)
