"""2.7: a description of attention that holds with a mask only."""

from kvlab.course.author import claims

Q = claims(
    "2.7",
    "All positions",
    "about_all_positions",
    points=2,
    minutes=5,
    difficulty=2,
    statement="""
"For position i the mechanism uses the query of position i, while its key and value matrices are composed of the vectors
from **all** positions of the full input." Somebody describes a model that writes. True or false?

1. Without a mask, this is right for a model that writes: the query is of position i, so output i depends on
   no later token.
2. In training, such a model can read the token that it is asked for.
3. It is cured by setting the weights of later positions to 0 after the softmax, and nothing else.
4. It is cured by setting their scores to minus infinity before the softmax; the influence of later tokens is then tiny, but
   not exactly 0.
5. While the model writes one text, without padding and with no empty slots in its cache, a single new token comes after all others. Its row
   needs no mask.
6. For that single new token, torch's `scaled_dot_product_attention(q, k, v, is_causal=True)` gives the row that it has
   in the whole text.

Return a list of six, each `True` or `False`.
""",
    asks="Return six times True or False.",
    right=(False, True, False, False, True, False),
    wrong=(
        "the query is right; what it may reach is not. Without a mask every output moves when the "
        "last token changes.",
        "in training the next token stands in the text: with all keys in reach it can be copied.",
        "a struck-out weight was still in the denominator that all others were divided by.",
        "e to the power of minus infinity is 0, and 0 times a number is 0: not small, but nothing.",
        "the only query then is the last token, and it may use every slot there is.",
        "a flag that aligns at the top left takes the new token for the first of its text.",
    ),
    because="What may be used is decided by positions alone, before the softmax.",
    hints=(
        "Claims 1 and 2 are about `without_mask`, 3 and 4 about `mask_after` and the weights on later "
        "tokens, 5 and 6 about the mask of a single row. Run those cells again.",
        "Which outputs of `without_mask` moved, and which of `mask_after`? What was the largest "
        "weight on a later token?",
        "Three of the false ones are about: all keys without a mask, striking out after the "
        "softmax, and 'almost nothing'. The fourth is about one of torch's flags.",
    ),
)
