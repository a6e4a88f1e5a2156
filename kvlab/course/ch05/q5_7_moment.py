"""5.7: what is in the cache at a moment of an answer."""

from kvlab.course.author import one_number

Q = one_number(
    "5.7",
    'When "time" is chosen',
    "length",
    points=1,
    minutes=3,
    difficulty=1,
    statement="""
A prompt of 23 tokens is answered with "Once", "upon", "a", "time", "there", each one token, with prefill and decode. How
many tokens are in the cache at the moment when "time" has just been chosen?
""",
    asks="How many tokens are in the cache?",
    right=26,
    wrong={
        27: '"time" is counted, but it was just chosen and nobody has read it. It enters the '
        "cache when it is fed.",
        23: 'that is the cache after prefill, when "Once" is chosen.',
        24: 'that is the cache when "upon" is chosen: "Once" had been fed.',
        25: 'that is the cache when "a" is chosen: "Once" and "upon" had been fed.',
        28: "that is the whole text with all five words.",
    },
    because='23 of the prompt, then "Once", "upon" and "a" were fed: 26. "time" is what came of that.',
    hints=(
        'Which words had to be read so that "time" could be chosen?',
        'The prompt, "Once", "upon" and "a".',
        "23 + 3.",
    ),
)
