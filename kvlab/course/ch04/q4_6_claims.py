"""4.6: what is said of blocks, heads and draws."""

from kvlab.course.author import claims

Q = claims(
    "4.6",
    "What is said of blocks",
    "about_blocks",
    points=2,
    minutes=6,
    difficulty=2,
    statement="""
True or false? Each is settled by a cell of chapter 4.

1. The MLP of the last layer generates the next token.
2. Two rows that change places before an MLP come out of it in each other's place, with nothing but rounding between them.
3. RMSNorm first subtracts each row's mean.
4. The same token at two places of a text enters the first layer as the same vector.
5. To write its first token, a model needs the logits of all rows of the prompt.
6. A temperature of 2 can make another token the likeliest.
7. `top_p=0.9` keeps a number of tokens that depends on the distribution.
8. The pocket model was trained so that the head reads a good guess after each of its layers.

Return a list of eight, each `True` or `False`.
""",
    asks="Return eight times True or False.",
    right=(False, True, False, True, False, False, True, False),
    wrong=(
        "without the last layer's MLP all ten capitals were still named; and what an MLP gives is a "
        "vector that is added, of which head and draw know nothing.",
        "an MLP treats each row alone: the cell that permutes rows found not a bit of difference.",
        "it divides by the root of the mean square, and nothing is subtracted: that is LayerNorm.",
        "the embedding is a row of a table, looked up by the id alone. Positions come in where "
        "attention turns queries and keys.",
        "the last row has seen the whole prompt, and its logits are the next token's.",
        "dividing all logits by the same number keeps their order: the likeliest gets less, and "
        "stays the likeliest.",
        "it keeps as many as it takes to reach 0.9: one where the model is sure, many where it is "
        "not.",
        "its loss looked at the head after the last layer alone; what one reads earlier is a view "
        "that training never asked for.",
    ),
    because="Blocks add vectors to a stream; the head reads one row of it, and a draw makes a token.",
    hints=(
        'Claim 1: "The MLP generates the next token". 2: "Which half knows that other tokens '
        'exist?". 3: "A norm before each half". 4: "The same token in two contexts". 5: "One row is '
        'enough". 6 and 7: "From logits to a token". 8: "What each layer would say".',
        "Which of the ten capitals was named without the last MLP? What did the row swap change? "
        "Which bar is the highest at temperature 2?",
        "Three are true: one is about rows of an MLP, one about the embedding, one about top-p.",
    ),
)
