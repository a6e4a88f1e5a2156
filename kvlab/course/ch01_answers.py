"""Wrong answers to chapter 1 that people really give, and a second right one to each exercise.

The right ones are source text, in another style than the solution's.
"""

from __future__ import annotations

import torch

# 1.1

SECOND_PROJECT = """
import torch

def project(x, w_q, w_k, w_v):
    return tuple(torch.einsum("sc,dc->sd", x, w) for w in (w_q, w_k, w_v))
"""


def project_transposed(x_SC, w_q, w_k, w_v):
    return x_SC @ w_q, x_SC @ w_k, x_SC @ w_v


def project_reshaped(x_SC, w_q, w_k, w_v):
    return tuple(x_SC @ w.reshape(w.shape[1], w.shape[0]) for w in (w_q, w_k, w_v))


def project_shares_w_q(x_SC, w_q, w_k, w_v):
    return x_SC @ w_q.T, x_SC @ w_q.T, x_SC @ w_v.T


def project_swaps_k_and_v(x_SC, w_q, w_k, w_v):
    return x_SC @ w_q.T, x_SC @ w_v.T, x_SC @ w_k.T


def project_keeps_x_as_value(x_SC, w_q, w_k, w_v):
    return x_SC @ w_q.T, x_SC @ w_k.T, x_SC.clone()


def project_w_times_table(x_SC, w_q, w_k, w_v):
    return w_q @ x_SC, w_k @ x_SC, w_v @ x_SC


def project_result_transposed(x_SC, w_q, w_k, w_v):
    return w_q @ x_SC.T, w_k @ x_SC.T, w_v @ x_SC.T


def project_values_by_w_k(x_SC, w_q, w_k, w_v):
    return x_SC @ w_q.T, x_SC @ w_k.T, x_SC @ w_k.T


def project_last_query_only(x_SC, w_q, w_k, w_v):
    return x_SC[-1:] @ w_q.T, x_SC @ w_k.T, x_SC @ w_v.T


# 1.2

SECOND_SCORES = """
import torch

def scaled_scores(x, w_q, w_k):
    shrink = w_q.shape[0] ** -0.25
    keys = [w_k @ token * shrink for token in x]
    rows = []
    for token in x:
        query = w_q @ token * shrink
        rows.append(torch.stack([(query * key).sum() for key in keys]))
    return torch.stack(rows)
"""


def _scores(x_SC, w_q, w_k, divisor):
    return (x_SC @ w_q.T) @ (x_SC @ w_k.T).T / divisor


def scores_unscaled(x_SC, w_q, w_k):
    return _scores(x_SC, w_q, w_k, 1.0)


def scores_by_root_of_c(x_SC, w_q, w_k):
    return _scores(x_SC, w_q, w_k, x_SC.shape[1] ** 0.5)


def scores_by_d(x_SC, w_q, w_k):
    return _scores(x_SC, w_q, w_k, w_q.shape[0])


def scores_by_root_of_s(x_SC, w_q, w_k):
    return _scores(x_SC, w_q, w_k, x_SC.shape[0] ** 0.5)


def scores_times_root_of_d(x_SC, w_q, w_k):
    return _scores(x_SC, w_q, w_k, w_q.shape[0] ** -0.5)


def scores_keys_ask(x_SC, w_q, w_k):
    return _scores(x_SC, w_q, w_k, w_q.shape[0] ** 0.5).T


def scores_without_transpose(x_SC, w_q, w_k):
    return (x_SC @ w_q.T) @ (x_SC @ w_k.T) / w_q.shape[0] ** 0.5


def scores_cosine(x_SC, w_q, w_k):
    q_SD, k_TD = x_SC @ w_q.T, x_SC @ w_k.T
    return (q_SD / q_SD.norm(dim=1, keepdim=True)) @ (k_TD / k_TD.norm(dim=1, keepdim=True)).T


# 1.3

SECOND_SOFTMAX = """
import torch

def stable_softmax(scores):
    rows = []
    for row in scores:
        finite = row > float("-inf")
        weights = torch.zeros_like(row)
        if finite.any():
            lifted = torch.exp(row[finite] - max(row[finite].tolist()))
            weights[finite] = lifted / lifted.sum()
        rows.append(weights)
    return torch.stack(rows)
"""


def _shares(lifted_ST):
    """Divide each row by its sum; a row of zeros stays one."""
    sum_S1 = lifted_ST.sum(1, keepdim=True)
    return lifted_ST / torch.where(sum_S1 == 0, 1.0, sum_S1)


def softmax_naive(scores_ST):
    lifted_ST = scores_ST.exp()
    return lifted_ST / lifted_ST.sum(1, keepdim=True)


def softmax_down_the_columns(scores_ST):
    lifted_ST = (scores_ST - scores_ST.amax(0, keepdim=True)).exp()
    return lifted_ST / lifted_ST.sum(0, keepdim=True)


def softmax_one_sum_for_all(scores_ST):
    lifted_ST = (scores_ST - scores_ST.max()).exp()
    return lifted_ST / lifted_ST.sum()


def softmax_one_maximum_for_all(scores_ST):
    lifted_ST = (scores_ST - scores_ST.max()).exp()
    return lifted_ST / lifted_ST.sum(1, keepdim=True)


def softmax_clamped(scores_ST):
    return _shares(scores_ST.clamp(-50, 50).exp())


def softmax_without_exponential(scores_ST):
    return scores_ST / scores_ST.sum(1, keepdim=True)


def softmax_maximum_at_least_zero(scores_ST):
    return _shares((scores_ST - scores_ST.amax(1, keepdim=True).clamp(min=0)).exp())


def softmax_added_to_the_sum(scores_ST):
    top_S1 = scores_ST.amax(1, keepdim=True)
    lifted_ST = (scores_ST - top_S1.masked_fill(top_S1 == float("-inf"), 0.0)).exp()
    return lifted_ST / (lifted_ST.sum(1, keepdim=True) + 1e-6)


def softmax_no_keepdim(scores_ST):
    return _shares((scores_ST - scores_ST.amax(1)).exp())


def softmax_max_without_values(scores_ST):
    return _shares((scores_ST - scores_ST.max(1, keepdim=True)).exp())


def softmax_empty_rows_nan(scores_ST):
    lifted_ST = (scores_ST - scores_ST.amax(1, keepdim=True)).exp()
    return lifted_ST / lifted_ST.sum(1, keepdim=True)


def softmax_empty_rows_uniform(scores_ST):
    return torch.softmax(scores_ST.clamp(min=-1e9), 1)


# 1.4

SECOND_ATTEND = """
import torch

def attend(q, k, v):
    out = []
    for query in q:
        scores = torch.stack([query.dot(key) for key in k]).div(k.size(1) ** 0.5)
        lifted = (scores - scores.max()).exp()
        out.append((lifted[:, None] * v).sum(0) / lifted.sum())
    return torch.stack(out)
"""


def _weights(q_SD, k_TD, divisor=None, axis=1):
    return (q_SD @ k_TD.T / (divisor or q_SD.shape[1] ** 0.5)).softmax(axis)


def attend_mixes_keys(q_SD, k_TD, v_TE):
    return _weights(q_SD, k_TD) @ k_TD


def attend_winner_takes_all(q_SD, k_TD, v_TE):
    return v_TE[(q_SD @ k_TD.T).argmax(1)]


def attend_unscaled(q_SD, k_TD, v_TE):
    return _weights(q_SD, k_TD, 1.0) @ v_TE


def attend_by_d(q_SD, k_TD, v_TE):
    return _weights(q_SD, k_TD, q_SD.shape[1]) @ v_TE


def attend_by_root_of_t(q_SD, k_TD, v_TE):
    return _weights(q_SD, k_TD, k_TD.shape[0] ** 0.5) @ v_TE


def attend_causal(q_SD, k_TD, v_TE):
    scores_ST = q_SD @ k_TD.T / q_SD.shape[1] ** 0.5
    later_ST = torch.ones_like(scores_ST).triu(1).bool()
    return scores_ST.masked_fill(later_ST, float("-inf")).softmax(1) @ v_TE


def attend_keys_ask(q_SD, k_TD, v_TE):
    return _weights(k_TD, q_SD) @ v_TE


def attend_weights_only(q_SD, k_TD, v_TE):
    return _weights(q_SD, k_TD)


def attend_scaled_by_values(q_SD, k_TD, v_TE):
    return _weights(q_SD, k_TD, v_TE.shape[1] ** 0.5) @ v_TE


def attend_shares_over_queries(q_SD, k_TD, v_TE):
    return _weights(q_SD, k_TD, axis=0) @ v_TE


def attend_no_softmax(q_SD, k_TD, v_TE):
    return q_SD @ k_TD.T / q_SD.shape[1] ** 0.5 @ v_TE


def attend_never_divides_by_the_sum(q_SD, k_TD, v_TE):
    return (q_SD @ k_TD.T / q_SD.shape[1] ** 0.5).exp() @ v_TE


def attend_plain_mean(q_SD, k_TD, v_TE):
    return v_TE.mean(0).expand(q_SD.shape[0], -1).contiguous()


# 1.5

SECOND_KEY = """
import torch

def design_key(wanted, unwanted, others, length):
    # a line that separates the two kinds of query, by least squares; the key points along it
    examples = torch.cat((wanted, unwanted))
    side = torch.cat((torch.ones(len(wanted)), -torch.ones(len(unwanted)))).double()
    ridge = examples.T @ examples + torch.eye(examples.shape[1], dtype=torch.float64)
    direction = torch.linalg.solve(ridge, examples.T @ side)
    return direction * (length / direction.norm())
"""


def _of_length(direction_D, length):
    return direction_D / direction_D.norm() * length


def key_mean_of_wanted(wanted_ND, unwanted_ND, others_TD, length):
    return _of_length(wanted_ND.mean(0), length)


def key_mean_as_it_is(wanted_ND, unwanted_ND, others_TD, length):
    return wanted_ND.mean(0)


def key_difference_as_it_is(wanted_ND, unwanted_ND, others_TD, length):
    return wanted_ND.mean(0) - unwanted_ND.mean(0)


def key_one_wanted_query(wanted_ND, unwanted_ND, others_TD, length):
    return _of_length(wanted_ND[0], length)


def key_loud_everywhere(wanted_ND, unwanted_ND, others_TD, length):
    return _of_length(torch.ones_like(wanted_ND[0]), length)


def key_against_other_keys(wanted_ND, unwanted_ND, others_TD, length):
    return _of_length(wanted_ND.mean(0) - others_TD.mean(0), length)


def key_wrong_way_round(wanted_ND, unwanted_ND, others_TD, length):
    return _of_length(unwanted_ND.mean(0) - wanted_ND.mean(0), length)


def key_too_short(wanted_ND, unwanted_ND, others_TD, length):
    return _of_length(wanted_ND.mean(0) - unwanted_ND.mean(0), 1.0)


def key_too_long(wanted_ND, unwanted_ND, others_TD, length):
    return (wanted_ND.mean(0) - unwanted_ND.mean(0)) * 100


# 1.6

SECOND_TRAIN = """
import torch

def train(pairs, asks, answers, seed):
    torch.manual_seed(seed)
    width, out = pairs.shape[-1], answers.shape[-1]
    query, key = (torch.nn.Linear(width, width, bias=False, dtype=torch.float64) for _ in "qk")
    value = torch.nn.Linear(width, out, bias=False, dtype=torch.float64)
    layers = torch.nn.ModuleList((query, key, value))
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.05, weight_decay=0.0)
    for _ in range(4):
        for batch in torch.randperm(len(pairs)).split(32):
            q, k, v = query(asks[batch])[:, None], key(pairs[batch]), value(pairs[batch])
            weights = (q * k).sum(-1).div(width**0.5).softmax(-1)
            off = (weights[..., None] * v).sum(1) - answers[batch]
            optimizer.zero_grad()
            off.pow(2).mean().backward()
            optimizer.step()
    return [layer.weight.detach() for layer in layers]
"""


def _train(pairs, asks, answers, seed, *, steps=80, lists=None, tied=False, random_values=False,
           size=1.0, dtype=torch.float64, slopes=True, zeroes=True, axis=-1):  # fmt: skip
    """Train as the solution does; each wrong answer below changes one thing."""
    rng = torch.Generator().manual_seed(seed)
    width, out = pairs.shape[-1], answers.shape[-1]
    w_q, w_k, w_v = (
        size * torch.randn(d, width, generator=rng, dtype=dtype) / width**0.5
        for d in (width, width, out)
    )
    learned = [w_q, w_v] if tied else [w_q, w_k, w_v]
    for w in learned:
        w.requires_grad_(slopes)
    optimizer = torch.optim.Adam(learned, lr=0.05)
    for _ in range(steps):
        batch = torch.randint(lists or len(pairs), (64,), generator=rng)
        q, k, v = asks[batch] @ w_q.T, pairs[batch] @ (w_q if tied else w_k).T, pairs[batch] @ w_v.T
        weights = (torch.einsum("nd,ntd->nt", q, k) / width**0.5).softmax(axis)
        loss = ((torch.einsum("nt,nte->ne", weights, v) - answers[batch]) ** 2).mean()
        if zeroes:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if random_values:
        w_v = torch.randn(out, width, generator=rng, dtype=torch.float64) / width**0.5
    return w_q.detach(), (w_q if tied else w_k).detach(), w_v.detach()


def train_never_steps(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, seed, steps=0)


def train_starts_at_zero(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, seed, size=0.0)


def train_never_zeroes_slopes(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, seed, zeroes=False)


def train_softmax_over_lists(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, seed, axis=0)


def train_without_slopes(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, seed, slopes=False)


def train_in_float32(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, seed, dtype=torch.float32)


def train_one_matrix_for_two(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, seed, tied=True)


def train_few_lists(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, seed, lists=8)


def train_forgets_values(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, seed, random_values=True)


def train_swaps_q_and_k(pairs, asks, answers, seed):
    w_q, w_k, w_v = _train(pairs, asks, answers, seed)
    return w_k, w_q, w_v


def train_ignores_the_seed(pairs, asks, answers, seed):
    return _train(pairs, asks, answers, torch.seed() % 2**31)
