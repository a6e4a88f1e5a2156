"""2.6: what the query at position 4 must be given."""

from kvlab.course.author import choice

Q = choice(
    "2.6",
    "The query at position 4",
    "query_at_position_4",
    points=1,
    minutes=3,
    difficulty=1,
    statement="""
A model computes the attention output for the token at position 4, the fifth token. Which keys and values must the query
at position 4 be given, so that it uses all that the model has seen and nothing else? Return the letter.

- **a**: those of positions 0, 1, 2, 3
- **b**: those of position 4 alone
- **c**: those of positions 0, 1, 2, 3, 4
- **d**: those of all positions of the full text
- **e**: those of positions 1, 2, 3, 4
""",
    asks='Return "a", "b", "c", "d" or "e".',
    solution='"c"',
    right="c",
    wrong={
        "a": "without its own key and value a query could not take anything from its own token, "
        "and position 0 would have nothing to see.",
        "b": "that is the token alone: it would know nothing of the text.",
        "d": "positions after 4 are not there yet while the model writes; to use them in training "
        "is a leak.",
        "e": "that counts from 1 and starts too late: position 0 is the first token and may be "
        "used by everybody.",
    },
    because="0 <= position <= 4: five keys and five values, its own among them.",
    hints=(
        "Use the rule: 0 <= the slot's position <= the query's position.",
        "Is the query's own position among them? Does counting start at 0 or at 1?",
        "The fifth token stands at position 4. It may use its own slot and the four before it.",
    ),
)
