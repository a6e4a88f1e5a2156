"""5.8: who makes the first token."""

from kvlab.course.author import choice

Q = choice(
    "5.8",
    "Who makes the first token?",
    "first_token",
    points=1,
    minutes=3,
    difficulty=1,
    statement="""
A prompt of 12 tokens is too long for one call, so prefill reads it in two: tokens 0 to 7, then 8 to 11, both into the same
cache. Where does the first token of the answer come from? Return one letter.

- `"a"`: from the first call of decode
- `"b"`: from the logits of the last row of the first call, token 7
- `"c"`: from the logits of the last row of the second call, token 11
- `"d"`: from the logits of the first row of the second call, token 8
- `"e"`: from the mean of all rows of logits
""",
    asks="Which letter?",
    right="c",
    solution='"c"',
    wrong={
        "a": "decode has nothing to feed yet. It feeds the first token, so that token must be "
        "there.",
        "b": "row 7 saw the tokens 0 to 7. Its guess is about token 8, which the prompt holds already.",
        "d": "row 8 guesses token 9, which the prompt holds already.",
        "e": "the mean of all rows belongs to no position. Each row guesses the token behind "
        "its own.",
    },
    because="Token 11 is the prompt's last, wherever prefill was cut: its row guesses the token behind it.",
    hints=(
        "Each row of logits guesses the token behind its own.",
        "Which row's next token is not in the prompt?",
        "The last token's. It is read by the second call, and finds the first eight in the cache.",
    ),
)
