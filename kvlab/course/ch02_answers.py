"""Wrong answers to chapter 2 that people really give, and a second right one to each exercise.

The right ones are source text, in another style than the solution's.
"""

from __future__ import annotations

import torch

# 2.1

SECOND_MASK = """
import torch

def causal_mask(n_new, n_slots):
    rows = []
    for s in range(n_new):
        seen = n_slots - n_new + s + 1
        rows.append([True] * seen + [False] * (n_slots - seen))
    return torch.tensor(rows)
"""


def _mask(n_new, n_slots, first):
    return torch.arange(n_slots) <= torch.arange(first, first + n_new)[:, None]


def mask_top_left(n_new, n_slots):
    return _mask(n_new, n_slots, 0)


def mask_without_itself(n_new, n_slots):
    return _mask(n_new, n_slots, n_slots - n_new - 1)


def mask_one_too_far(n_new, n_slots):
    return _mask(n_new, n_slots, n_slots - n_new + 1)


def mask_inverted(n_new, n_slots):
    return ~_mask(n_new, n_slots, n_slots - n_new)


def mask_square(n_new, n_slots):
    return _mask(n_slots, n_slots, 0)


def mask_transposed(n_new, n_slots):
    return _mask(n_new, n_slots, n_slots - n_new).T


def mask_hides_the_past(n_new, n_slots):
    return _mask(n_new, n_slots, n_slots - n_new) & (torch.arange(n_slots) >= n_slots - n_new)


def mask_shows_all_new(n_new, n_slots):
    return torch.ones(n_new, n_slots, dtype=torch.bool)


def mask_of_numbers(n_new, n_slots):
    return torch.zeros(n_new, n_slots).masked_fill(
        ~_mask(n_new, n_slots, n_slots - n_new), float("-inf")
    )


# 2.2

SECOND_ATTENTION = """
import torch

def causal_attention(q_BHSD, k_BHTD, v_BHTD, q_pos_BS, pos_BT):
    out = torch.zeros_like(q_BHSD)
    for b in range(len(q_BHSD)):
        for s, query_at in enumerate(q_pos_BS[b].tolist()):
            slots = [t for t, at in enumerate(pos_BT[b].tolist()) if 0 <= at <= query_at]
            if slots:
                score = torch.einsum("hd,htd->ht", q_BHSD[b, :, s], k_BHTD[b][:, slots])
                weight = torch.exp(torch.log_softmax(score / q_BHSD.shape[-1] ** 0.5, dim=-1))
                out[b, :, s] = torch.einsum("ht,htd->hd", weight, v_BHTD[b][:, slots])
    return out
"""


def _allowed(q_pos, pos):
    pos = pos[:, None, None, :]
    return (pos >= 0) & (pos <= q_pos[:, None, :, None])


def _attend(q, k, v, allowed, *, scale=None, hidden=float("-inf"), over=-1, after=False, zero=True):
    """Attention by positions; each wrong answer below changes one thing."""
    score = q @ k.mT / (q.shape[-1] ** 0.5 if scale is None else scale)
    if after:
        return score.softmax(over).masked_fill(~allowed, 0.0) @ v
    weight = score.masked_fill(~allowed, hidden).softmax(over)
    if zero:
        weight = weight.nan_to_num(0.0)
    return weight @ v


def attention_unscaled(q, k, v, q_pos, pos):
    return _attend(q, k, v, _allowed(q_pos, pos), scale=1.0)


def attention_masks_after(q, k, v, q_pos, pos):
    return _attend(q, k, v, _allowed(q_pos, pos), after=True)


def attention_top_left(q, k, v, q_pos, pos):
    rows, slots = torch.arange(q.shape[2]), torch.arange(k.shape[2])
    return _attend(q, k, v, slots <= rows[:, None])


def attention_counts_slots(q, k, v, q_pos, pos):
    slots = torch.arange(k.shape[2])
    return _attend(q, k, v, slots <= slots[-q.shape[2] :, None])


def attention_sees_padding(q, k, v, q_pos, pos):
    return _attend(q, k, v, pos[:, None, None, :] <= q_pos[:, None, :, None])


def attention_without_itself(q, k, v, q_pos, pos):
    return _attend(q, k, v, _allowed(q_pos - 1, pos))


def attention_no_mask(q, k, v, q_pos, pos):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def attention_mask_inverted(q, k, v, q_pos, pos):
    return _attend(q, k, v, ~_allowed(q_pos, pos))


def attention_positions_of_text_0(q, k, v, q_pos, pos):
    return _attend(q, k, v, _allowed(q_pos[:1], pos[:1]))


def attention_without_head_axis(q, k, v, q_pos, pos):
    return _attend(q, k, v, _allowed(q_pos, pos)[:, 0])


def attention_nan_row(q, k, v, q_pos, pos):
    return _attend(q, k, v, _allowed(q_pos, pos), zero=False)


def attention_large_number(q, k, v, q_pos, pos):
    return _attend(q, k, v, _allowed(q_pos, pos), hidden=-1e9)


def attention_softmax_over_queries(q, k, v, q_pos, pos):
    return _attend(q, k, v, _allowed(q_pos, pos), over=-2)


# 2.3

SECOND_LEAK = """
import torch

def first_leak(attention, n_texts, n_tokens, width):
    x = torch.linspace(-1, 1, n_texts * n_tokens * width, dtype=torch.float64).sin()
    x = torch.sin(17 * x).view(n_texts, n_tokens, width)
    before = attention(x)
    found = []
    for text in range(n_texts):
        for j in range(n_tokens):
            changed = x.clone()
            changed[text, j] = changed[text, j].flip(0) * -1.5 + 0.1
            far = (attention(changed) - before).abs().max(dim=2).values
            for other in range(n_texts):
                for i in range(n_tokens):
                    if far[other, i] > 1e-8 and (other != text or i < j):
                        found.append((i, j))
    return list(sorted(found)[0]) if found else None
"""


def _first_leak(attention, n_texts, n_tokens, width, *, texts=None, tokens=None, by=1.0, move=1e-9,
                together=False, across=True, itself=False, swapped=False, copy=True,
                first=min):  # fmt: skip
    """The detector; each wrong answer below changes one thing."""
    torch_rng = torch.Generator().manual_seed(5)
    x = torch.randn(n_texts, n_tokens, width, generator=torch_rng, dtype=torch.float64)
    before, found = attention(x), []
    for b in range(n_texts) if texts is None else texts:
        for j in range(n_tokens) if tokens is None else tokens:
            changed = x.clone() if copy else x
            changed[slice(None) if together else b, j] += by
            moves = ~((attention(changed) - before).abs().amax(-1) <= move)
            moves[b, j + itself :] = False
            if together:
                moves[:, j:] = False
            if not across:
                moves = moves[b : b + 1]
            found += [(i, j) for i in moves.any(0).nonzero().flatten().tolist()]
    chosen = list(first(found)) if found else None
    return chosen[::-1] if swapped and chosen else chosen


def leak_last_token_only(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, tokens=[n_tokens - 1])


def leak_short_texts(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, 4, width)


def leak_one_text(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, across=False)


def leak_first_text_only(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, texts=[0])


def leak_text_0_alone(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, texts=[0], across=False)


def leak_all_texts_together(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, together=True)


def leak_by_nan(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, by=float("nan"))


def leak_coarse(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, move=0.02)


def leak_faint_one_missed(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, move=1e-6)


def leak_without_copy(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, copy=False)


def _by_token(pairs):
    return min(pairs, key=lambda pair: pair[::-1])


def leak_smallest_token_first(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, first=_by_token)


def leak_pairs_of_token_and_output(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, first=_by_token, swapped=True)


def leak_first_met(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, first=lambda pairs: pairs[0])


def leak_by_bits(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, move=0.0)


def leak_counts_itself(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, itself=True)


def leak_swapped(attention, n_texts, n_tokens, width):
    return _first_leak(attention, n_texts, n_tokens, width, swapped=True)


# 2.4

SECOND_STABLE = """
def is_prefix_stable(attention, x_SC):
    far = 0.0
    for n in range(2, len(x_SC) + 1):
        older, newer = attention(x_SC[: n - 1]), attention(x_SC[:n])
        far = max(far, float((newer[:-1] - older).abs().max()))
    return far < 1e-8
"""


def _stable(attention, x, lengths, move=1e-9):
    whole = attention(x)
    return all(bool(((attention(x[:n]) - whole[:n]).abs() <= move).all()) for n in lengths)


def stable_half(attention, x_SC):
    return _stable(attention, x_SC, [len(x_SC) // 2])


def stable_one_shorter(attention, x_SC):
    return _stable(attention, x_SC, [len(x_SC) - 1])


def _near(a, b):
    return bool(((a - b).abs() <= 1e-9).all())


def stable_first_row(attention, x_SC):
    first = attention(x_SC)[0]
    return all(_near(attention(x_SC[:n])[0], first) for n in range(1, len(x_SC)))


def stable_last_rows(attention, x_SC):
    whole = attention(x_SC)
    return all(_near(attention(x_SC[:n])[-1], whole[n - 1]) for n in range(1, len(x_SC)))


def stable_changes_a_token(attention, x_SC):
    changed = x_SC.clone()
    whole = attention(x_SC)
    for j in range(len(x_SC) - 1, 0, -1):
        changed[j] += 1.0
        if not _near(attention(changed)[:j], whole[:j]):
            return False
    return True


def stable_changes_the_last_token(attention, x_SC):
    changed = x_SC.clone()
    changed[-1] += 1.0
    return _near(attention(changed)[:-1], attention(x_SC)[:-1])


def stable_without_abs(attention, x_SC):
    whole = attention(x_SC)
    beginnings = range(1, len(x_SC))
    return all(bool((attention(x_SC[:n]) - whole[:n]).max() <= 1e-9) for n in beginnings)


def stable_without_abs_the_other_way(attention, x_SC):
    whole = attention(x_SC)
    beginnings = range(1, len(x_SC))
    return all(bool((whole[:n] - attention(x_SC[:n])).max() <= 1e-9) for n in beginnings)


def stable_relative_tolerance(attention, x_SC):
    whole = attention(x_SC)
    return all(torch.allclose(attention(x_SC[:n]), whole[:n]) for n in range(1, len(x_SC)))


def stable_whole_not_cut(attention, x_SC):
    whole = attention(x_SC)
    return all(_near(attention(x_SC[:n]), whole) for n in range(1, len(x_SC)))


def stable_by_bits(attention, x_SC):
    return _stable(attention, x_SC, range(1, len(x_SC)), move=0.0)


def stable_coarse(attention, x_SC):
    return _stable(attention, x_SC, range(1, len(x_SC)), move=0.02)


def stable_from_the_end(attention, x_SC):
    whole = attention(x_SC)
    return all(_near(attention(x_SC[:n]), whole[-n:]) for n in range(1, len(x_SC)))


def stable_drops_the_front(attention, x_SC):
    whole = attention(x_SC)
    return all(_near(attention(x_SC[n:]), whole[n:]) for n in range(1, len(x_SC)))


# 2.5

SECOND_RANK = """
import torch

def rank_words(weights_LHST, logits, n_tokens):
    context = n_tokens - 1
    looked_at = weights_LHST[:, :, -1, :context].flatten(0, 1).sum(0)
    full = torch.softmax(logits(None), -1)
    need = torch.stack([
        torch.nn.functional.kl_div(torch.log_softmax(logits(t), -1), full, reduction="sum")
        for t in range(context)
    ])
    return looked_at.argsort(descending=True).tolist(), need.argsort(descending=True).tolist()
"""


def _rank(weights, logits, n, *, looked_at=None, need=None, context=None, up=False):
    context = n - 1 if context is None else context
    mean_T = weights[:, :, -1].mean((0, 1)) if looked_at is None else looked_at(weights)
    full = logits(None).log_softmax(-1)
    need = need or (lambda p, other: (p.exp() * (p - other)).sum())
    missed_T = torch.stack([need(full, logits(t).log_softmax(-1)) for t in range(context)])
    both = mean_T[:context], missed_T
    return [x.argsort(descending=not up, stable=True).tolist() for x in both]


def rank_all_queries(weights, logits, n):
    return _rank(weights, logits, n, looked_at=lambda w: w.mean((0, 1, 2)))


def rank_strongest_head(weights, logits, n):
    return _rank(weights, logits, n, looked_at=lambda w: w[:, :, -1].amax((0, 1)))


def rank_last_layer(weights, logits, n):
    return _rank(weights, logits, n, looked_at=lambda w: w[-1, :, -1].mean(0))


def rank_who_looks(weights, logits, n):
    return _rank(weights, logits, n, looked_at=lambda w: w[:, :, :, 0].mean((0, 1)))


def rank_first_row(weights, logits, n):
    return _rank(weights, logits, n, looked_at=lambda w: w[:, :, 0].mean((0, 1)))


def rank_lists_exchanged(weights, logits, n):
    return _rank(weights, logits, n)[::-1]


def rank_with_itself(weights, logits, n):
    return _rank(weights, logits, n, context=n)


def rank_smallest_first(weights, logits, n):
    return _rank(weights, logits, n, up=True)


def rank_reversed_kl(weights, logits, n):
    return _rank(weights, logits, n, need=lambda p, other: (other.exp() * (other - p)).sum())


def rank_top_word(weights, logits, n):
    return _rank(weights, logits, n, need=lambda p, other: (p - other)[p.argmax()].abs())


def rank_top_probability(weights, logits, n):
    return _rank(weights, logits, n, need=lambda p, other: (p.exp() - other.exp())[p.argmax()])


def rank_kl_of_logits(weights, logits, n):
    full = logits(None)
    far_T = torch.stack([(full.exp() * (full - logits(t))).sum() for t in range(n - 1)])
    mean_T = weights[:, :, -1].mean((0, 1))[: n - 1]
    return [x.argsort(descending=True, stable=True).tolist() for x in (mean_T, far_T)]


def rank_raw_logits(weights, logits, n):
    mean_T = weights[:, :, -1].mean((0, 1))[: n - 1]
    full = logits(None)
    far_T = torch.stack([(logits(t) - full).abs().sum() for t in range(n - 1)])
    return [x.argsort(descending=True).tolist() for x in (mean_T, far_T)]
