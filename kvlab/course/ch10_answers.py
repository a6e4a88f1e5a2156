"""Wrong answers to chapter 10 that people really give, and a second right one to each exercise.

The right ones are source text, in another style than the solution's.
"""

from __future__ import annotations

import math

import torch


def _best(score, n):
    """The n best of each row; of equal ones the first."""
    order = score.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order[..., :n], True)


# 10.1

SECOND_DIRECTIONS = '''
import torch

def keep_elements(score_TD, sparsity, direction, group):
    """Places in an order, compared with a count; groups become an axis."""
    def places(score):
        first = score.unsqueeze(-1) < score.unsqueeze(-2)          # who is strictly better
        index = torch.arange(score.shape[-1])
        tie = (score.unsqueeze(-1) == score.unsqueeze(-2)) & (index[None, :] < index[:, None])
        return (first | tie).sum(-1)

    def count(m):
        return max(1, round(m * (1 - sparsity)))

    if direction == "per token":
        return places(score_TD) < count(score_TD.shape[1])
    keep = torch.ones_like(score_TD, dtype=torch.bool)
    n_whole = len(score_TD) // group * group
    parts = score_TD[:n_whole].unflatten(0, (-1, group)).transpose(1, 2)
    keep[:n_whole] = (places(parts) < count(group)).transpose(1, 2).flatten(0, 1)
    return keep
'''


def _count(m, sparsity):
    return max(1, round(m * (1 - sparsity)))


def _directions(
    score_TD, sparsity, direction, group, *, count=_count, best=_best, rest=True, whole=False
):
    """The right rule; each wrong answer below changes one thing."""
    n_tokens, width = score_TD.shape
    if direction == "per token":
        return best(score_TD, count(width, sparsity))
    if whole:
        return best(score_TD.T, count(n_tokens, sparsity)).T
    keep = torch.ones_like(score_TD, dtype=torch.bool)
    for start in range(0, n_tokens, group):
        rows = score_TD[start : start + group]
        if len(rows) == group or not rest:
            keep[start : start + group] = best(rows.T, count(len(rows), sparsity)).T
    return keep


def axes_swapped(score_TD, sparsity, direction, group):
    other = "per channel" if direction == "per token" else "per token"
    return _directions(score_TD, sparsity, other, group)


def by_threshold(*args):
    def best(score, n):
        return score >= score.sort(-1, descending=True).values[..., n - 1 : n]

    return _directions(*args, best=best)


def count_cut_off(*args):
    return _directions(*args, count=lambda m, s: max(1, int(m * (1 - s))))


def count_rounded_up(*args):
    return _directions(*args, count=lambda m, s: math.ceil(m * (1 - s)))


def keeps_what_should_go(*args):
    return _directions(*args, count=lambda m, s: max(1, round(m * s)))


def smallest_kept(*args):
    return _directions(*args, best=lambda score, n: _best(-score, n))


def size_of_the_score(*args):
    return _directions(*args, best=lambda score, n: _best(score.abs(), n))


def no_groups(*args):
    return _directions(*args, whole=True)


def rest_pruned_too(*args):
    return _directions(*args, rest=False)


def last_of_equals(*args):
    return _directions(*args, best=lambda score, n: _best(score.flip(-1), n).flip(-1))


def any_of_equals(*args):
    def best(score, n):
        return torch.zeros_like(score, dtype=torch.bool).scatter(-1, score.topk(n).indices, True)

    return _directions(*args, best=best)


# 10.2

SECOND_SCORES = '''
import torch

def output_aware(k_GTD, v_GTD, q_HWD):
    """Head by head and query by query."""
    n_groups, n_tokens, width = k_GTD.shape
    n_heads, n_queries, _ = q_HWD.shape
    q_in = torch.zeros(n_groups, width, dtype=torch.float64)
    a_in = torch.zeros(n_groups, n_tokens, dtype=torch.float64)
    for h in range(n_heads):
        g = h // (n_heads // n_groups)
        for w in range(n_queries):
            upto = n_tokens - n_queries + w + 1
            q_in[g] += q_HWD[h, w].abs() / n_queries
            a = torch.softmax(k_GTD[g, :upto] @ q_HWD[h, w] / width**0.5, 0)
            a_in[g, :upto] += a / n_queries
    k_score = torch.einsum("gtd,gd->gtd", k_GTD.abs(), q_in)
    return k_score, torch.einsum("gtd,gt->gtd", v_GTD.abs(), a_in)
'''


def _output_aware(
    k_GTD, v_GTD, q_HWD, *, size=torch.abs, q_in=None, over=torch.sum, mean=torch.mean, ahead=0,
    scaled=True, interleaved=False, swapped=False,
):  # fmt: skip
    """The right scores; each wrong answer below changes one thing."""
    n_groups, n_tokens, width = k_GTD.shape
    n_queries = q_HWD.shape[1]
    if interleaved:
        q_GRWD = q_HWD.unflatten(0, (-1, n_groups)).transpose(0, 1)
    else:
        q_GRWD = q_HWD.unflatten(0, (n_groups, -1))
    logits = q_GRWD @ k_GTD[:, None].transpose(-1, -2)
    logits = logits / width**0.5 if scaled else logits
    last_W1 = torch.arange(n_tokens - n_queries, n_tokens)[:, None] + ahead
    logits = logits.masked_fill(torch.arange(n_tokens) > last_W1, float("-inf"))
    a_GT = over(mean(logits.softmax(-1), 2), 1)
    q_GD = over(mean(q_GRWD.abs(), 2), 1) if q_in is None else q_in(q_GRWD)
    if swapped:
        return k_GTD.abs() * a_GT[..., None], v_GTD.abs() * q_GD[:, None]
    return size(k_GTD) * q_GD[:, None], size(v_GTD) * a_GT[..., None]


def no_absolute_values(*args):
    return _output_aware(*args, size=lambda x: x)


def signs_cancel(*args):
    k_score, _ = _output_aware(*args, size=lambda x: x, q_in=lambda q_GRWD: q_GRWD.mean(2).sum(1))
    return k_score, _output_aware(*args)[1]


def queries_keep_sign(*args):
    return _output_aware(*args, q_in=lambda q_GRWD: q_GRWD.mean(2).sum(1))


def size_of_each_mean(*args):
    return _output_aware(*args, q_in=lambda q_GRWD: q_GRWD.mean(2).abs().sum(1))


def mean_before_size(*args):
    return _output_aware(*args, q_in=lambda q_GRWD: q_GRWD.mean(2).sum(1).abs())


def heads_interleaved(*args):
    return _output_aware(*args, interleaved=True)


def inputs_swapped(*args):
    return _output_aware(*args, swapped=True)


def scores_swapped(*args):
    return _output_aware(*args)[::-1]


def no_mask(*args):
    return _output_aware(*args, ahead=args[2].shape[1])


def sees_the_next(*args):
    return _output_aware(*args, ahead=1)


def does_not_see_itself(*args):
    return _output_aware(*args, ahead=-1)


def mask_from_the_start(k_GTD, v_GTD, q_HWD):
    return _output_aware(k_GTD, v_GTD, q_HWD, ahead=q_HWD.shape[1] - k_GTD.shape[1])


def not_scaled(*args):
    return _output_aware(*args, scaled=False)


def last_query_only(k_GTD, v_GTD, q_HWD):
    return _output_aware(k_GTD, v_GTD, q_HWD[:, -1:])


def sum_over_queries(*args):
    return _output_aware(*args, mean=torch.sum)


def mean_over_heads(*args):
    return _output_aware(*args, over=torch.mean)


def first_head_only(k_GTD, v_GTD, q_HWD):
    return _output_aware(k_GTD, v_GTD, q_HWD[:: q_HWD.shape[0] // k_GTD.shape[0]])


# 10.3

SECOND_WINDOW = '''
import torch

class DenseWindow:
    """Two stores: rows that left are pruned and put away, the others wait."""

    def __init__(self, window, n_keep):
        self.window, self.n_keep = window, n_keep
        self.away, self.waiting = [], []

    def append(self, x_SD):
        for x_D in x_SD:
            self.waiting.append(x_D.clone())
            if len(self.waiting) > self.window:
                row = self.waiting.pop(0)
                order = sorted(range(len(row)), key=lambda d: -abs(float(row[d])))
                for d in order[self.n_keep:]:
                    row[d] = 0
                self.away.append(row)

    def read(self):
        return torch.stack(self.away + self.waiting)
'''


class _Window:
    """The right window; each wrong answer below changes one thing."""

    def __init__(self, window, n_keep):
        self.window, self.n_keep = window, n_keep
        self.x = None

    def append(self, x_SD):
        self.x = x_SD.clone() if self.x is None else torch.cat((self.x, x_SD))
        self.prune(max(0, len(self.x) - self.window))

    def prune(self, stop, start=0):
        rows = self.x[start:stop]
        self.x[start:stop] = rows * self.best(rows)

    def best(self, rows):
        return _best(rows.abs(), self.n_keep)

    def read(self):
        return self.x


class NothingBeforeZero(_Window):
    def prune(self, stop, start=0):
        self.x[: -self.window] *= _best(self.x[: -self.window].abs(), self.n_keep)


class ShortTextPruned(_Window):
    def prune(self, stop, start=0):
        super().prune(len(self.x) - self.window)


class NoWindow(_Window):
    def prune(self, stop, start=0):
        super().prune(len(self.x))


class OneTooFew(_Window):
    def prune(self, stop, start=0):
        super().prune(max(0, len(self.x) - self.window + (self.window > 0)))


class OneTooMany(_Window):
    def prune(self, stop, start=0):
        super().prune(max(0, stop - 1))


class OneRowLeaves(_Window):
    def prune(self, stop, start=0):
        super().prune(stop, max(0, stop - 1))


class PromptOnly(_Window):
    done = False

    def prune(self, stop, start=0):
        if not self.done:
            super().prune(stop)
        self.done = True


class WindowOfEachChunk(_Window):
    def append(self, x_SD):
        n_old = 0 if self.x is None else len(self.x)
        self.x = x_SD.clone() if self.x is None else torch.cat((self.x, x_SD))
        self.prune(max(n_old, len(self.x) - self.window), n_old)


class SignedSize(_Window):
    def best(self, rows):
        return _best(rows, self.n_keep)


class PerColumn(_Window):
    def best(self, rows):
        return _best(rows.abs().T, self.n_keep).T


class AnyOfEquals(_Window):
    def best(self, rows):
        places = rows.abs().topk(self.n_keep).indices
        return torch.zeros_like(rows, dtype=torch.bool).scatter(-1, places, True)


class AllOfEquals(_Window):
    def best(self, rows):
        return rows.abs() >= rows.abs().topk(self.n_keep).values[:, -1:]


# 10.4

SECOND_TOKENS = '''
import torch

def choose_tokens(mass_GT, budget, sinks, recent):
    """Protected places first, then the heaviest of the others, by sorting pairs."""
    n_groups, n_tokens = mass_GT.shape
    if budget >= n_tokens:
        return torch.ones(n_groups, n_tokens, dtype=torch.bool)
    if budget < sinks + recent:
        raise ValueError("the protected tokens alone are more than the budget")
    keep = torch.zeros(n_groups, n_tokens, dtype=torch.bool)
    safe = set(range(sinks)) | set(range(n_tokens - recent, n_tokens))
    for g in range(n_groups):
        others = sorted((t for t in range(n_tokens) if t not in safe), key=lambda t: -mass_GT[g, t])
        keep[g, list(safe) + others[: budget - len(safe)]] = True
    return keep
'''


def _tokens(
    mass_GT, budget, sinks, recent, *, protect=None, checked=True, best=_best, extra=False,
    together=False, hidden=float("-inf"), late=False,
):  # fmt: skip
    """The right choice; each wrong answer below changes one thing."""
    n_tokens = mass_GT.shape[1]
    if checked and budget < sinks + recent and (late or budget < n_tokens):
        raise ValueError("the budget is smaller than what is protected")
    if budget >= n_tokens:
        return torch.ones_like(mass_GT, dtype=torch.bool)
    place = torch.arange(n_tokens)
    safe_T = (place < sinks) | (place >= n_tokens - recent)
    if together:
        mass_GT = mass_GT.sum(0).expand_as(mass_GT)
    if protect is not None:
        return best(protect(mass_GT, safe_T), budget)
    n = budget if extra else max(0, budget - int(safe_T.sum()))
    contest = mass_GT if hidden is None else mass_GT.masked_fill(safe_T, hidden)
    return best(contest, n) | safe_T


def large_score(*args):
    return _tokens(*args, protect=lambda mass, safe_T: mass + 1e6 * safe_T)


def above_the_largest(*args):
    return _tokens(*args, protect=lambda mass, safe_T: mass.where(~safe_T, mass.max() + 1))


def fixed_large_score(*args):
    return _tokens(*args, protect=lambda mass, safe_T: mass.masked_fill(safe_T, 1e9))


def protected_compete(*args):
    return _tokens(*args, hidden=None)


def hidden_by_zero(*args):
    return _tokens(*args, hidden=0.0)


def nothing_protected(*args):
    return _tokens(*args, protect=lambda mass, safe_T: mass)


def budget_without_protected(*args):
    return _tokens(*args, extra=True)


def protected_on_top(mass_GT, budget, sinks, recent):
    right = _tokens(mass_GT, budget, sinks, recent)
    if budget >= mass_GT.shape[1]:
        return right
    place = torch.arange(mass_GT.shape[1])
    return _best(mass_GT, budget) | (place < sinks) | (place >= mass_GT.shape[1] - recent)


def heads_together(*args):
    return _tokens(*args, together=True)


def minus_zero(mass_GT, budget, sinks, recent):
    keep = _tokens(mass_GT, budget, sinks, recent)
    keep[:, -recent:] = True
    return keep


def small_budget_taken(*args):
    return _tokens(*args, checked=False)


def refuses_too_early(*args):
    return _tokens(*args, late=True)


def newer_of_equals(*args):
    return _tokens(*args, best=lambda score, n: _best(score.flip(-1), n).flip(-1))


def any_heavy_of_equals(*args):
    def best(score, n):
        return torch.zeros_like(score, dtype=torch.bool).scatter(-1, score.topk(n).indices, True)

    return _tokens(*args, best=best)


def heavy_by_threshold(*args):
    def best(score, n):
        return score >= score.sort(-1, descending=True).values[..., n - 1 : n]

    return _tokens(*args, best=best)


# 10.5

SECOND_BEAT = '''
import torch

def choose(k_TD, v_TD, q_RWD, n):
    """Keys row by row, values by their share in the output; then the count is made exact."""
    n_tokens, width = k_TD.shape
    q_D = (q_RWD**2).mean((0, 1)).sqrt()
    a_T = torch.softmax(q_RWD @ k_TD.T / width**0.5, -1).mean((0, 1))

    def largest(score):
        keep = torch.zeros(score.numel(), dtype=torch.bool)
        keep[sorted(range(score.numel()), key=score.flatten().tolist().__getitem__)[-n:]] = True
        return keep.view_as(score)

    return largest((k_TD * q_D) ** 2 * a_T[:, None]), largest((v_TD * a_T[:, None]) ** 2)
'''


def _largest(score_TD, n):
    return _best(score_TD.flatten(), n).view_as(score_TD)


def _inputs(k_TD, q_RWD):
    a_T = (q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softmax(-1).mean((0, 1))
    return q_RWD.abs().mean((0, 1)), a_T[:, None]


def by_magnitude(k_TD, v_TD, q_RWD, n):
    return _largest(k_TD.abs(), n), _largest(v_TD.abs(), n)


def by_chance(k_TD, v_TD, q_RWD, n):
    rng = torch.Generator().manual_seed(0)
    return tuple(_largest(torch.rand(x.shape, generator=rng), n) for x in (k_TD, v_TD))


def by_product(k_TD, v_TD, q_RWD, n):
    """What the exercise asks for: the largest |element x mean input| of each half."""
    q_D, a_T1 = _inputs(k_TD, q_RWD)
    return _largest(k_TD.abs() * q_D, n), _largest(v_TD.abs() * a_T1, n)


def only_keys_aware(k_TD, v_TD, q_RWD, n):
    q_D, _ = _inputs(k_TD, q_RWD)
    return _largest(k_TD.abs() * q_D, n), _largest(v_TD.abs(), n)


def only_values_aware(k_TD, v_TD, q_RWD, n):
    _, a_T1 = _inputs(k_TD, q_RWD)
    return _largest(k_TD.abs(), n), _largest(v_TD.abs() * a_T1, n)


def wrong_inputs(k_TD, v_TD, q_RWD, n):
    q_D, a_T1 = _inputs(k_TD, q_RWD)
    return _largest(k_TD.abs() * a_T1, n), _largest(v_TD.abs() * q_D, n)


def masks_swapped(k_TD, v_TD, q_RWD, n):
    return by_product(k_TD, v_TD, q_RWD, n)[::-1]


def same_in_each_row(k_TD, v_TD, q_RWD, n):
    q_D, a_T1 = _inputs(k_TD, q_RWD)
    n_row = n // len(k_TD)
    return _best(k_TD.abs() * q_D, n_row), _best(v_TD.abs() * a_T1, n_row)


def signed_products(k_TD, v_TD, q_RWD, n):
    _, a_T1 = _inputs(k_TD, q_RWD)
    return _largest(k_TD * q_RWD.mean((0, 1)), n), _largest(v_TD * a_T1, n)


def keeps_too_much(k_TD, v_TD, q_RWD, n):
    return torch.ones_like(k_TD, dtype=torch.bool), torch.ones_like(v_TD, dtype=torch.bool)
