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
- `"b"`: from the logits after token 7, the last of the first call
- `"c"`: from the logits after token 11, the last of the second call
- `"d"`: from the logits after token 8, the first of the second call
- `"e"`: from the mean of the logits after all tokens
""",
    asks="Which letter?",
    right="c",
    solution='"c"',
    wrong={
        "a": "decode has nothing to feed yet. It feeds the first token, so that token must be "
        "there.",
        "b": "token 7 saw the tokens 0 to 7. The guess after it is about token 8, which the prompt holds already.",
        "d": "after token 8 token 9 is guessed, which the prompt holds already.",
        "e": "the mean belongs to no position. The logits after a token guess the one that "
        "follows it.",
    },
    because="Token 11 is the prompt's last, wherever prefill was cut: the logits after it guess what follows.",
    hints=(
        "The logits after a token guess the one that follows it.",
        "After which token does something follow that is not in the prompt?",
        "The last token's. It is read by the second call, and finds the first eight in the cache.",
    ),
)
