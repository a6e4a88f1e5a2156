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
Where does the first token of an answer come from? Return one letter.

- `"a"`: from the first call of decode
- `"b"`: from the logits of prefill's first row
- `"c"`: from the logits of prefill's last row
- `"d"`: from the mean of all of prefill's rows of logits
- `"e"`: from the MLP of the last layer
""",
    asks="Which letter?",
    right="c",
    solution='"c"',
    wrong={
        "a": "decode has nothing to feed yet. It feeds the first token, so that token must be "
        "there.",
        "b": "the first row saw only the first token of the prompt. Its guess is about the second.",
        "d": "the mean of all rows belongs to no position. Each row guesses the token behind "
        "its own.",
        "e": "the MLP of a layer puts out a vector of the model's width. Scores for tokens come "
        "from the head, and from the last row.",
    },
    because="The prompt's last row guesses the token behind the prompt: prefill ends with it.",
    hints=(
        "Each row of logits guesses the token behind its own.",
        "Which row's next token is not in the prompt?",
        "The last one's, and it is there when prefill is done.",
    ),
)
