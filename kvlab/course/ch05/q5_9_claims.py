"""5.9: the two phases, in cases that the chapter did not show."""

from kvlab.course.author import claims

Q = claims(
    "5.9",
    "Two phases, claim by claim",
    "about_two_phases",
    points=2,
    minutes=6,
    difficulty=2,
    statement="""
Six claims about the loop of chapter 5, which guesses nothing ahead. None of them stands there word for word, and each follows from what was
counted or timed. Return a list of six, each `True` or `False`.

1. Prefill of 1,000 tokens: no token of the prompt has to wait for the logits after another one.
2. Two models have the same hidden size and read the same 17 tokens. Then their caches hold equally many numbers.
3. A large model, whose matrices do not fit into the processor's caches, writes for one chat. If all its multiplying took no time any more, a new
   token would come at least twice as fast.
4. Decode hands over one token a call because the layers cannot take in several at once.
5. A prompt of 20 tokens was answered with 12. The next question of the same chat is 8 tokens long: the first call of the second answer takes
   in 9.
6. A prompt of 500 tokens that is handed over one token at a time leaves other keys and values than prefill does.
""",
    asks="True or False, claim by claim.",
    right=(True, False, False, False, True, False),
    wrong=(
        "claim 1 is true: the prompt's tokens are all known beforehand, so every layer takes all of them at once.",
        "claim 2 is false: a token's keys and values are L x 2 x G x D numbers. Layers, key/value heads and the width of a "
        "head may differ where the hidden size is the same.",
        "claim 3 is false: its step is mostly fetching. Multiplying is the least of the three parts.",
        "claim 4 is false: in prefill they take in hundreds. The next token cannot be handed over before somebody knows "
        "it, or guesses it.",
        "claim 5 is true: the twelfth token was chosen and never went in. It has to, and the question's 8 with it.",
        "claim 6 is false: the same tokens at the same positions see the same tokens before them. Only the time is another.",
    ),
    because="Each follows from what the chapter counted or timed.",
    hints=(
        "1, 4 and 6 ask what a call may take in at once; 2 what one token leaves behind; 3 what a step spends its time on; 5 what "
        "is in the cache when an answer ends.",
        "For 2: write down how many numbers one token's keys and values are, in all layers. Does the hidden size stand there? For 3: "
        'which of the three parts is smallest in "Take the causes away"?',
        "For 1 and 4: what must be known of a token before it can go in, and of which tokens is it known? For 5: how long is the cache "
        "after 20 and 12? For 6: which tokens does token 300 look at, handed over alone or with all others?",
    ),
)
