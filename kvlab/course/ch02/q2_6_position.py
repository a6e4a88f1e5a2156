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
A prompt of seven tokens was read at once, so the cache holds keys and values of positions 0 to 6. Those of position 1 were then
thrown away to save memory. Which keys and values may a query at position 4 that comes now use, so that it uses all that is there for
it and nothing else? Return the letter.

- **a**: those of positions 0, 2, 3
- **b**: those of position 4 alone
- **c**: those of positions 0, 2, 3, 4
- **d**: those of positions 0, 2, 3, 4, 5, 6
- **e**: those of positions 0, 2, 3, 4, 5
""",
    asks='Return "a", "b", "c", "d" or "e".',
    solution='"c"',
    right="c",
    wrong={
        "a": "its own key and value belong to what a query may use, too.",
        "b": "that is the token alone: it would know nothing of the text.",
        "d": "positions 5 and 6 are there, and later than the query: to use them is a leak.",
        "e": "that counts five keys, as if slots were what matters. One was thrown away, and position "
        "5 is later than the query.",
    },
    because="0 <= position <= 4, and position 1 is gone: four keys and four values, its own among "
    "them.",
    hints=(
        "Use the rule: 0 <= the slot's position <= the query's position.",
        "Is the query's own position among them? Does it matter that a slot is empty now?",
        "Of 0, 1, 2, 3, 4 the key and the value of position 1 are gone.",
    ),
)
