"""12.3: keys of fewer channels, and attention over them.

B rows of the batch, G key/value heads, R query heads that share one, T slots, D head width, N kept
channels.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, Near, named
from kvlab.course.ch12._normal import normal

Q = Exercise(
    "12.3",
    "Narrow keys",
    "narrow_attention",
    points=3,
    minutes=15,
    difficulty=2,
    statement="""
Each head keeps the `n` channels that `score_BGD` ranks highest (a score may be negative), the same ones for all its tokens, in ascending order. Return the
narrow keys (B, G, T, n), and the attention of `q_BGRD` over them: the output must be that of keys whose other channels are zero. There is
one query per query head and no mask. The model was trained with D channels.

Example: scores `[5, 1, 7]` and `n = 2` keep channels 0 and 2. Roughly 7 lines.
""",
    hints=(
        "A product of a query and a key adds up over channels. If a key has fewer channels, what "
        "must the query have?",
        "channels = score_BGD.topk(n).indices.sort().values, then gather along the last axis, of "
        "keys and of queries. The values stay as they are.",
        "index = channels[:, :, None]; narrow = k_BGTD.gather(-1, index.expand(-1, -1, T, -1)); q "
        "= q_BGRD.gather(-1, index.expand(-1, -1, R, -1)); scores = q @ narrow.mT / D**0.5, with D "
        "the full width; softmax, then @ v_BGTD.",
    ),
    imports=("torch",),
)


@Q.case
def case(rng):
    batch, n_groups, n_shared = rng.sample([2, 3, 4], 3)
    n_slots, width = rng.randint(5, 7), rng.choice([8, 10, 12])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    ranks = [torch.randperm(width, generator=torch_rng) for _ in range(batch * n_groups)]
    rank_BGD = torch.stack(ranks).view(batch, n_groups, width)
    return {
        "q_BGRD": normal(rng.randrange(2**31), batch, n_groups, n_shared, width),
        "k_BGTD": normal(rng.randrange(2**31), batch, n_groups, n_slots, width),
        "v_BGTD": normal(rng.randrange(2**31), batch, n_groups, n_slots, width),
        "score_BGD": rank_BGD + normal(rng.randrange(2**31), *rank_BGD.shape).sigmoid(),
        "n": width // 2 - 1,
    }


@Q.solution
def narrow_attention(q_BGRD, k_BGTD, v_BGTD, score_BGD, n):
    """Return narrow_BGTN and out_BGRD."""
    ### BEGIN SOLUTION
    channels_BG1N = score_BGD.topk(n).indices.sort().values[:, :, None]
    narrow_BGTN = k_BGTD.gather(-1, channels_BG1N.expand(-1, -1, k_BGTD.shape[2], -1))
    q_BGRN = q_BGRD.gather(-1, channels_BG1N.expand(-1, -1, q_BGRD.shape[2], -1))
    scores_BGRT = q_BGRN @ narrow_BGTN.transpose(-1, -2) / q_BGRD.shape[-1] ** 0.5
    return narrow_BGTN, scores_BGRT.softmax(-1) @ v_BGTD
    ### END SOLUTION


@Q.right
def channel_by_channel(q_BGRD, k_BGTD, v_BGTD, score_BGD, n):
    """The output is torch's attention over keys with zeros in the channels that go."""
    batch, n_groups, n_slots, width = k_BGTD.shape
    narrow_BGTN = k_BGTD.new_zeros(batch, n_groups, n_slots, n)
    zeroed_BGTD = torch.zeros_like(k_BGTD)
    for b in range(batch):
        for g in range(n_groups):
            ranked = sorted(range(width), key=lambda d: -float(score_BGD[b, g, d]))
            for place, d in enumerate(sorted(ranked[:n])):
                narrow_BGTN[b, g, :, place] = k_BGTD[b, g, :, d]
                zeroed_BGTD[b, g, :, d] = k_BGTD[b, g, :, d]
    return narrow_BGTN, _plain(q_BGRD, zeroed_BGTD, v_BGTD)


_plain = torch.nn.functional.scaled_dot_product_attention


@Q.also_right
def head_by_head(q_BGRD, k_BGTD, v_BGTD, score_BGD, n):
    b, g, _, d = q_BGRD.shape
    narrow, out = torch.zeros(b, g, k_BGTD.shape[2], n).double(), torch.zeros_like(q_BGRD)
    for i in range(b):
        for j in range(g):
            least = score_BGD[i, j].sort(descending=True).values[n - 1]
            mask = score_BGD[i, j] >= least
            narrow[i, j] = k_BGTD[i, j][:, mask]
            scores = torch.einsum("rn,tn->rt", q_BGRD[i, j][:, mask], narrow[i, j])
            out[i, j] = torch.softmax(scores * d**-0.5, dim=1) @ v_BGTD[i, j]
    return [narrow, out]


# --- laws ---


GIVEN = ("q_BGRD", "k_BGTD", "v_BGTD", "score_BGD")

Q.agrees(
    "narrower keys, and the output of zeroed ones",
    *(*GIVEN, "n"),
    gives=("narrow_BGTN", "out_BGRD"),
)


@Q.law("only the order of the scores counts")
def _(answer, case):
    """The same order below 0, where the highest are the smallest in size."""
    q_BGRD, k_BGTD, v_BGTD, score_BGD = (case[name] for name in GIVEN)
    got = answer(q_BGRD, k_BGTD, v_BGTD, score_BGD - score_BGD.max() - 1, case["n"])
    return {
        f"with scores below 0, {name}": x
        for name, x in named(got, "narrow_BGTN", "out_BGRD").items()
    }


@Q.law("a single channel, one head, one query, one token")
def _(answer, case):
    one = answer(*(case[name][:1, :1, :1] for name in GIVEN[:3]), case["score_BGD"][:1, :1], 1)
    few = answer(*(case[name] for name in GIVEN), 1)
    seen = {"of one of each, ": one, "of one channel, ": few}
    return {
        when + name: x
        for when, got in seen.items()
        for name, x in named(got, "narrow_BGTN", "out_BGRD").items()
    }


@Q.law("with all channels kept it is plain attention")
def _(answer, case):
    q_BGRD, k_BGTD, v_BGTD, score_BGD = (case[name] for name in GIVEN)
    got = answer(q_BGRD, k_BGTD, v_BGTD, score_BGD, k_BGTD.shape[-1])
    narrow, out = named(got, "narrow_BGTN", "out_BGRD").values()
    return {
        "all channels kept, narrow_BGTN": Near(k_BGTD).of(narrow),
        "all channels kept, out_BGRD": Near(_plain(q_BGRD, k_BGTD, v_BGTD)).of(out),
    }


# --- what goes wrong: each changes one thing of this ---


def _pick(x, channels):
    return x.gather(-1, channels[:, :, None].expand(-1, -1, x.shape[2], -1))


def _narrow(
    q,
    k,
    v,
    score,
    n,
    *,
    ranked=lambda score: score,
    ascending=True,
    pick_q=_pick,
    pick_v=lambda v, channels: v,
    scale=lambda width, n: width**0.5,
):
    channels = ranked(score).topk(n).indices
    channels = channels.sort().values if ascending else channels
    narrow = _pick(k, channels)
    scores = pick_q(q, channels) @ narrow.mT / scale(q.shape[-1], n)
    return narrow, scores.softmax(-1) @ pick_v(v, channels)


def _zeroed(q, k, v, score, n):
    kept = torch.zeros_like(score).scatter(-1, score.topk(n).indices, 1)
    return _narrow(q, k * kept[:, :, None], v, score, score.shape[-1])


Q.mistakes(
    _narrow,
    {
        "the query is cut to its first n channels, so it meets other channels of the key than its "
        "own.": {"pick_q": lambda q, channels: q[..., : channels.shape[-1]]},
        "scores are divided by the root of the kept width. The scale belongs to the model, which "
        "was trained with all D channels.": {"scale": lambda width, n: n**0.5},
        "channels are ranked by the size of their scores. A score says by itself what is better, "
        "below 0 too.": {"ranked": torch.abs},
        "an axis of one is lost: squeeze takes away every axis of size 1, also those that were "
        "asked for.": lambda *given: tuple(x.squeeze() for x in _narrow(*given)),
        "the channels are in the order of their scores and scores are divided by the root of the "
        "kept width. Sort the channels, and divide by the root of all D.": {
            "ascending": False,
            "scale": lambda width, n: n**0.5,
        },
        "scores are not divided by the root of D.": {"scale": lambda width, n: 1},
        "the channels are in the order of their scores, as topk gives them. Sort them: ascending "
        "order was asked for.": {"ascending": False},
        "all heads of a row keep the same channels, those with the highest scores in all. Each "
        "head has a choice of its own.": {
            "ranked": lambda score: score.sum(1, keepdim=True).expand(score.shape)
        },
        "all rows and heads keep the same channels, those with the highest scores in all. Each "
        "head of each row has a choice of its own.": {
            "ranked": lambda score: score.sum((0, 1)).expand(score.shape)
        },
        "the values lose channels as well. They are the output: only keys and queries get "
        "narrower.": {"pick_v": _pick},
        "the first head's channels are used for all heads.": {
            "ranked": lambda score: score[:, :1].expand(score.shape)
        },
        "the channels with the lowest scores are kept.": {"ranked": torch.neg},
        "channels are zeroed, not dropped: the keys are as wide as before, and nothing is saved.": (
            _zeroed
        ),
        "keys hold their channels in the order of the scores and queries in ascending order, so "
        "channels meet strangers.": {
            "ascending": False,
            "pick_q": lambda q, channels: _pick(q, channels.sort().values),
        },
        "the first row's channels are used for the whole batch.": {
            "ranked": lambda score: score[:1].expand(score.shape)
        },
    },
)
