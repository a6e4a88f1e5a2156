"""5.1: a whole prompt at once, and what decode needs of it.

L layers, S prompt tokens, T tokens so far, D head width, C model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.course.author import Exercise, Near, as_tensor, named

Q = Exercise(
    "5.1",
    "Prefill",
    "prefill",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
Read a whole prompt at once and hand over what decode needs. The model is as small as a model can be: L
layers of one head each, no norms, no MLP, no positions.

- The first layer's input is `embed_VC[tokens_S]`.
- In layer `i` each token's vector is projected: `q = x @ w_q_LDC[i].T`, keys and values alike. Attention is causal,
  and scores are divided by the square root of D. The mixture goes through `w_o_LCD[i]` and is **added** to the
  layer's input.
- Logits are the last layer's output times `embed_VC`, transposed.

Return three things: the first new token (the likeliest, a whole number), and the keys and values of every layer,
`k_LSD` and `v_LSD`. Roughly 12 lines.

For example

```python
L, D, C, V = 2, 4, 6, 13
q, k, v = (torch.randn(L, D, C).double() for _ in range(3))
prefill(torch.tensor([1, 5, 2, 7, 3]), torch.randn(V, C).double(), q, k, v, torch.randn(L, C, D).double())
```

returns a whole number below 13 and two tensors of shape `(2, 5, 4)`.
""",
    hints=(
        "Which vectors go into the first layer, and which into the second? Which token's vector knows the "
        "whole prompt when it leaves the last layer? And which two of q, k, v does a later token look at?",
        "x_SC = embed_VC[tokens_S]. In each layer: project x_SC, keep keys and values, attend "
        "causally with all S queries at once, and add the mixture through w_o to x_SC. The next "
        "layer projects the new x_SC.",
        "scores_SS = q_SD @ k_SD.T / D**0.5, masked where a key comes after the query: "
        "masked_fill(torch.ones(S, S).triu(1).bool(), -inf). x_SC = x_SC + "
        "(scores_SS.softmax(-1) @ v_SD) @ w_o_LCD[layer].T. At the end int((embed_VC @ "
        "x_SC[-1]).argmax()), and torch.stack of the keys and values.",
    ),
    size=lambda case: len(case["tokens_S"]) * len(case["w_k_LDC"]),
)

WEIGHTS = ("embed_VC", "w_q_LDC", "w_k_LDC", "w_v_LDC", "w_o_LCD")
GIVES = ("the first new token", "k_LSD", "v_LSD")


@Q.case
def case(rng):
    """A small model that guesses another token after the last one than after others."""
    n_layers = rng.choice([2, 3])
    n_tokens, head_dim, width = rng.sample([4, 5, 6, 7, 8, 9], 3)
    vocab = rng.choice([13, 17, 19])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    while True:
        tokens_S = torch.randint(vocab, (n_tokens,), generator=torch_rng)
        weights = (
            normal(vocab, width),
            normal(n_layers, head_dim, width) * width**-0.5,
            normal(n_layers, head_dim, width) * width**-0.5,
            normal(n_layers, head_dim, width) * width**-0.5 * 2,
            normal(n_layers, width, head_dim) * head_dim**-0.5,
        )
        picked = [{}, {"after": 0}, {"after": -2}, {"logits": _mean}, {"logits": torch.neg}]
        guessed = [_prefill(tokens_S, *weights, **how)[0] for how in picked]
        if len(set(guessed)) == len(picked):
            return {"tokens_S": tokens_S, **dict(zip(WEIGHTS, weights, strict=True))}


@Q.solution
def prefill(tokens_S, embed_VC, w_q_LDC, w_k_LDC, w_v_LDC, w_o_LCD):
    """Return the first new token, k_LSD and v_LSD."""
    ### BEGIN SOLUTION
    n, width = len(tokens_S), w_k_LDC.shape[1]
    later_SS = torch.ones(n, n).triu(1).bool()
    x_SC = embed_VC[tokens_S]
    keys, values = [], []
    for w_q, w_k, w_v, w_o in zip(w_q_LDC, w_k_LDC, w_v_LDC, w_o_LCD):
        q_SD, k_SD, v_SD = x_SC @ w_q.T, x_SC @ w_k.T, x_SC @ w_v.T
        scores_SS = (q_SD @ k_SD.T / width**0.5).masked_fill(later_SS, float("-inf"))
        x_SC = x_SC + scores_SS.softmax(-1) @ v_SD @ w_o.T
        keys.append(k_SD)
        values.append(v_SD)
    logits_V = embed_VC @ x_SC[-1]
    return int(logits_V.argmax()), torch.stack(keys), torch.stack(values)
    ### END SOLUTION


@Q.right
def token_by_token(tokens_S, embed_VC, w_q_LDC, w_k_LDC, w_v_LDC, w_o_LCD):
    """A loop over tokens and layers: a token can only look at what is there already."""
    n_layers, head_dim, _ = w_k_LDC.shape
    k_LSD = torch.zeros(n_layers, len(tokens_S), head_dim, dtype=torch.float64)
    v_LSD = torch.zeros_like(k_LSD)
    for s, token in enumerate(tokens_S.tolist()):
        x_C = embed_VC[token]
        for layer in range(n_layers):
            k_LSD[layer, s], v_LSD[layer, s] = w_k_LDC[layer] @ x_C, w_v_LDC[layer] @ x_C
            x_C = x_C + _attended(
                x_C, w_q_LDC[layer], w_o_LCD[layer], k_LSD[layer, : s + 1], v_LSD[layer, : s + 1]
            )
    return int((embed_VC @ x_C).argmax()), k_LSD, v_LSD


def _attended(x_C, w_q_DC, w_o_CD, k_TD, v_TD):
    """What one token's attention in one layer adds to its stream."""
    scores_T = k_TD @ (w_q_DC @ x_C) / k_TD.shape[1] ** 0.5
    return w_o_CD @ (scores_T.softmax(0) @ v_TD)


@Q.also_right
def by_torchs_attention(tokens, embed, w_q, w_k, w_v, w_o):
    x, depth, d = embed.index_select(0, tokens), w_k.size(0), w_k.size(1)
    seen = torch.ones(len(tokens), len(tokens)).tril().bool()
    kept = torch.empty(2, depth, len(tokens), d, dtype=torch.float64)
    for i in range(depth):
        kept[0, i] = torch.einsum("sc,dc->sd", x, w_k[i])
        kept[1, i] = torch.einsum("sc,dc->sd", x, w_v[i])
        q = torch.einsum("sc,dc->sd", x, w_q[i])
        mixed = torch.nn.functional.scaled_dot_product_attention(
            q[None], kept[0, i][None], kept[1, i][None], attn_mask=seen
        )[0]
        x = torch.einsum("sd,cd->sc", mixed, w_o[i]).add(x)
    return [torch.einsum("c,vc->v", x[-1], embed).max(0).indices.item(), *kept]


# --- laws ---


@Q.law("the same as token by token")
def _(answer, case):
    return _call(answer, case, case["tokens_S"])


@Q.law("a prompt of one token")
def _(answer, case):
    return _call(answer, case, case["tokens_S"][:1])


@Q.law("a model of one layer")
def _(answer, case):
    embed_VC, *weights = (case[name] for name in WEIGHTS)
    return _named(answer(case["tokens_S"], embed_VC, *(w[:1] for w in weights)))


def _call(answer, case, tokens_S):
    return _named(answer(tokens_S, *(case[name] for name in WEIGHTS)))


def _named(value):
    """What came, keys and values first: where they are wrong, the token is a consequence."""
    first, *kept = named(value, *GIVES).values()
    return dict(zip(GIVES[1:] + GIVES[:1], [*map(as_tensor, kept), first], strict=True))


@Q.law("one token more changes nothing that was kept before")
def _(answer, case):
    """What is kept of a prompt without its last token, and the same part of the whole prompt's."""
    whole = _call(answer, case, case["tokens_S"])
    part = _call(answer, case, case["tokens_S"][:-1])
    n = len(case["tokens_S"]) - 1
    return {
        "keys of all tokens but the last, k_LSD": Near(part["k_LSD"]).of(whole["k_LSD"][:, :n]),
        "values of all tokens but the last, v_LSD": Near(part["v_LSD"]).of(whole["v_LSD"][:, :n]),
        "_part": part,
    }


@Q.law("decode can go on from what was kept")
def _(answer, case):
    """One decode step of ours on what was kept, and the answer's own reading of the longer text."""
    k_LSD, v_LSD, first = _call(answer, case, case["tokens_S"]).values()
    embed_VC, w_q, w_k, w_v, w_o = (case[name] for name in WEIGHTS)
    x_C = embed_VC[first]
    for layer in range(len(w_k)):
        k_TD = torch.cat((k_LSD[layer], (w_k[layer] @ x_C)[None]))
        v_TD = torch.cat((v_LSD[layer], (w_v[layer] @ x_C)[None]))
        x_C = x_C + _attended(x_C, w_q[layer], w_o[layer], k_TD, v_TD)
    decoded = int((embed_VC @ x_C).argmax())
    *_, again = _call(answer, case, torch.cat((case["tokens_S"], torch.tensor([first])))).values()
    return {"the second new token": Near(decoded).of(again), "_decoded": decoded}


# --- what goes wrong: each changes one thing of this ---


def _mean(logits_SV):
    return logits_SV.mean(0, keepdim=True)


def _prefill(
    tokens_S,
    embed_VC,
    w_q_LDC,
    w_k_LDC,
    w_v_LDC,
    w_o_LCD,
    *,
    after=-1,  # whose logits choose the token
    hide=lambda ones_SS: ones_SS.triu(1),
    hidden=float("-inf"),
    axis=-1,  # of the softmax
    root=lambda head_dim, width: head_dim**0.5,
    residual=True,
    only_embedded=False,
    onto_embedded=False,
    over_all=False,
    logits=lambda logits_SV: logits_SV,
    keep=lambda q_LSD, k_LSD, v_LSD: (k_LSD, v_LSD),
):
    n, _, head_dim, width = len(tokens_S), *w_k_LDC.shape
    hidden_SS = hide(torch.ones(n, n)).bool()
    x_SC, each_layers = embed_VC[tokens_S], []
    for w_q, w_k, w_v, w_o in zip(w_q_LDC, w_k_LDC, w_v_LDC, w_o_LCD, strict=True):
        in_SC = embed_VC[tokens_S] if only_embedded else x_SC
        q_SD, k_SD, v_SD = in_SC @ w_q.T, in_SC @ w_k.T, in_SC @ w_v.T
        scores_SS = (q_SD @ k_SD.T / root(head_dim, width)).masked_fill(hidden_SS, hidden)
        out_SC = scores_SS.softmax(axis) @ v_SD @ w_o.T
        below_SC = embed_VC[tokens_S] if onto_embedded else x_SC
        x_SC = below_SC + out_SC if residual else out_SC
        each_layers.append((q_SD, k_SD, v_SD))
    logits_SV = logits(x_SC @ embed_VC.T)
    token = int((logits_SV if over_all else logits_SV[after]).argmax())
    return token, *keep(*map(torch.stack, zip(*each_layers, strict=True)))


def _reads_first_new(tokens_S, *weights):
    token, *_ = _prefill(tokens_S, *weights)
    _, *kept = _prefill(torch.cat((tokens_S, torch.tensor([token]))), *weights)
    return token, *kept


Q.mistakes(
    _prefill,
    {
        "the token comes from the logits after the first token, which saw itself alone. The last one saw "
        "the whole prompt.": {"after": 0},
        "argmax runs over the logits after all tokens and counts through them, so it may even be no token "
        "at all. Take those after the last one.": {"over_all": True},
        "the token comes from the logits after the last but one. What follows that is in the prompt "
        "already; take those after the last one.": {"after": -2},
        "the token comes from the mean of the logits. Those after the last token alone saw the whole "
        "prompt.": {"logits": _mean},
        "a token sees the one that comes after it: hide all that come after, which is triu(1).": {
            "hide": lambda ones_SS: ones_SS.triu(2)
        },
        "scores are divided by the head width D, and not by its root.": {
            "root": lambda head_dim, width: head_dim
        },
        "the mixture is added to the embeddings in every layer. It is added to what went into this "
        "layer.": {"onto_embedded": True},
        "queries are kept in the place of keys. A query is used once, by its own token; later "
        "tokens look at keys and values.": {"keep": lambda q, k, v: (q, v)},
        "the last prompt token's key and value are not kept, as if decode were to read it. Decode "
        "reads the first new token.": {"keep": lambda q, k, v: (k[:, :-1], v[:, :-1])},
        "the first new token's key and value are kept as well, but nobody has read it yet: decode "
        "does, and would then find it twice.": _reads_first_new,
        "hidden scores are 0. A score of 0 still has a weight; only one of -inf, before the "
        "softmax, has none.": {"hidden": 0.0},
        "a token does not see itself. The first one then sees nothing at all, and its softmax is "
        "nan: hide only what comes after it, which is triu(1).": {"hide": torch.triu},
        "the mask hides the past and shows the future: hide the keys that come after the query.": {
            "hide": lambda ones_SS: ones_SS.tril(-1)
        },
        "softmax goes down the columns. Each query shares its attention among keys: the last axis "
        "of scores_SS.": {"axis": 0},
        "scores are divided by the root of the model width C. It is the root of the head width D.": {
            "root": lambda head_dim, width: width**0.5
        },
        "keys and values are handed over in each other's place.": {"keep": lambda q, k, v: (v, k)},
        "every query sees the whole prompt, so from the second layer on keys know tokens that come "
        "after them.": {"hide": torch.zeros_like},
        "the last layer's keys and values stand for all layers. Each layer has its own.": {
            "keep": lambda q, k, v: (k[-1:].expand(k.shape), v[-1:].expand(v.shape))
        },
        "every layer projects the embeddings. A layer's input is what the layer before it put "
        "out.": {"only_embedded": True},
        "scores are not divided by the root of the head width D.": {
            "root": lambda head_dim, width: 1.0
        },
        "a layer's output replaces its input; it has to be added.": {"residual": False},
    },
)
