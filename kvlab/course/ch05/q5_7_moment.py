"""5.7: what is in the cache at a moment of an answer."""

from kvlab.course.author import one_number

Q = one_number(
    "5.7",
    'When "of" is chosen',
    "length",
    points=1,
    minutes=3,
    difficulty=1,
    statement="""
A prompt of 17 tokens is answered with "The", "capital", "of", "France", each one token, with prefill and decode. How
many tokens are in the cache at the moment when "of" has just been chosen?
""",
    asks="How many tokens are in the cache?",
    right=19,
    wrong={
        20: '"of" is counted, but it was just chosen and nobody has read it. It enters the '
        "cache when it is fed.",
        17: 'that is the cache after prefill, when "The" is chosen.',
        18: 'that is the cache when "capital" is chosen: "The" had been fed.',
        21: "that is the whole text with all four words.",
    },
    because='17 of the prompt, then "The" and "capital" were fed: 19. "of" is what came of that.',
    hints=(
        'Which words had to be read so that "of" could be chosen?',
        'The prompt, "The" and "capital".',
        "17 + 2.",
    ),
)
