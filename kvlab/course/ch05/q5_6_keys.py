"""5.6: the keys of a longer answer without a cache."""

from kvlab.course.author import one_number

Q = one_number(
    "5.6",
    "Keys of a longer answer",
    "keys",
    points=1,
    minutes=3,
    difficulty=1,
    statement="""
The loop without a cache reads a prompt of 17 tokens and writes 10. How many keys does each layer compute
in all? Let the function return that number.
""",
    asks="How many keys?",
    right=215,
    solution="10 * 17 + 10 * 9 // 2",
    wrong={
        170: "that is N P: the text grows by one token with each step.",
        225: "one token too many is read: the last new token is written and never fed.",
        26: "that is with a cache.",
        68: "that is for 4 new tokens, and as if the text did not grow.",
        74: "that is for 4 new tokens, as in the chapter.",
        189: "the last step is missing: it reads 26.",
        206: "the sum of 0 to 9 is 10 x 9 / 2 = 45.",
        220: "the sum of 0 to 9 is 10 x 9 / 2, not 10 x 10 / 2.",
        27: "that is the length of the text, prompt and answer. Without a cache each step reads "
        "all there is.",
        45: "that is what the new tokens alone add. The prompt is read again in each step, too.",
    },
    because="17 + 18 + ... + 26 = 10 x 17 + 10 x 9 / 2 = 215.",
    hints=(
        "How many tokens does the first step read, and how many the last?",
        "Step i reads 17 + i tokens, for i from 0 to 9.",
        "N P + N (N - 1) / 2 with P = 17 and N = 10.",
    ),
)
