"""6.6: what the next token asks of the pairs that are there."""

from kvlab.course.author import choice

Q = choice(
    "6.6",
    "The 6th token",
    "for_the_6th_token",
    points=1,
    minutes=3,
    difficulty=1,
    statement="""
The 5th token was just made, and the query that made it used the pairs (key and value) of tokens 1 to 4. Now the
6th is to be made. What is the least that must be done for those four pairs? Return the letter.

- **a**: project all four again, so that they are up to date
- **b**: keep the keys, compute the values again, as they will be mixed with other weights
- **c**: read them from the cache as they are
- **d**: update them by what the 5th token says, then keep them
- **e**: nothing: the pair of the last token is all that the new query needs
""",
    asks='Return "a", "b", "c", "d" or "e".',
    right="c",
    wrong={
        "a": "that is the plain loop. The numbers come out the same each time, so the work was "
        "done before.",
        "b": "new weights mix the values, but the values themselves are as constant as the keys: "
        "both are projections of the same token's stream.",
        "d": "nothing flows back: an earlier token never looks at a later one, so its key and "
        "value have nothing to learn from it.",
        "e": "then the 6th token could not know what the first four said: the query looks through "
        "all keys there are.",
    },
    because="One new pair is computed, of the 5th token; the four others are read as they are.",
    hints=(
        "Which of the pairs did not exist when the 5th token was made?",
        "Can a key of token 2 change when token 5 is put behind it? The chapter looked.",
        "Constant once computed, and still needed by the new query: they are read, not made.",
    ),
)
