"""5.9: what the chapter counted and timed, claim by claim."""

from kvlab.course.author import claims

Q = claims(
    "5.9",
    "The notes, claim by claim",
    "notes",
    points=2,
    minutes=6,
    difficulty=2,
    statement="""
Six sentences that one can read about inference, some a little sharpened. They are about the loop of chapter 5, which
guesses nothing ahead. Return a list of six, each `True` or `False`.

1. Prefill processes all prompt tokens at once.
2. After a prompt of 17 tokens a layer's cache holds 17 x hidden size numbers, whatever the model.
3. Decode is slow because each of its tokens takes far more arithmetic than a token of the prompt.
4. Decode takes one token a call, because the next one cannot be handed over before it is known or guessed.
5. After N new tokens that follow a prompt of P the cache holds P + N tokens.
6. A prompt could be read one token at a time as well; it would take longer.
""",
    asks="True or False, claim by claim.",
    right=(True, False, False, True, False, True),
    wrong=(
        "claim 1 is true: the prompt's tokens are all known, so every layer takes all rows at "
        "once.",
        "claim 2 is false: per layer it holds keys and values, each as wide as the key/value heads "
        "together, and not one row of the hidden size.",
        "claim 3 is false: per token the arithmetic is about prefill's. Much memory is read for "
        "it.",
        "claim 4 is true: the token at position i needs the one before it, so one call makes one. (Who "
        "guesses several can hand them over in one call: that is speculative decoding.)",
        "claim 5 is false: the last new token is returned and not fed, so the cache is one shorter "
        "than the text.",
        "claim 6 is true: the same tokens, the same keys and values, only more calls.",
    ),
    because="Each of these was counted or timed in the chapter.",
    hints=(
        "Claims 1 and 6 are about the same rows, read in one call or in many; 4 and 5 about the order in "
        "which tokens are chosen and read; 2 and 3 about what is stored and what is computed.",
        "For 2: how many numbers are one token's key and value in one layer, and do they depend on the "
        "hidden size? For 3: what does a decoded token compute that a token of the prompt does not?",
        "For 4 and 5: write down which token each call reads, and which one it chooses. Is the last "
        "one read?",
    ),
)
