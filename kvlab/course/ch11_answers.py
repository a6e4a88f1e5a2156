"""Wrong answers to chapter 11 that people really give, and a second right one to each exercise.

The right ones are source text, in another style than the solution's.
"""

from __future__ import annotations

import torch

# 11.1

SECOND_COMPARE = """
def compare(race, pairs, at_least):
    def seconds_of(*names):
        return dict((name, race.run(name)) for name in names)

    seconds_of("fast", "slow")
    ratios = []
    while len(ratios) < pairs:
        order = ("slow", "fast")[:: 1 if len(ratios) % 2 else -1]
        took = seconds_of(*order)
        ratios.append(took["slow"] / took["fast"])
    share = len([r for r in ratios if r >= at_least]) / pairs
    return {True: "faster", False: "not faster" if share <= 0.2 else "too noisy"}[share >= 0.8]
"""


def _share(ratios, at_least):
    return sum(r >= at_least for r in ratios) / len(ratios)


def _verdict(ratios, at_least):
    share = _share(ratios, at_least)
    return "faster" if share >= 0.8 else "not faster" if share <= 0.2 else "too noisy"


def _pairs(race, n, turned=True, warm=True):
    """Seconds (slow, fast) of each pair."""
    found = []
    for name in ("slow", "fast") if warm else ():
        race.run(name)
    for i in range(n):
        order = ("fast", "slow") if turned and i % 2 else ("slow", "fast")
        seconds = {name: race.run(name) for name in order}
        found.append((seconds["slow"], seconds["fast"]))
    return found


def compare_in_blocks(race, pairs, at_least):
    race.run("slow"), race.run("fast")
    slow = [race.run("slow") for _ in range(pairs)]
    fast = [race.run("fast") for _ in range(pairs)]
    return _verdict([s / f for s, f in zip(slow, fast, strict=True)], at_least)


def compare_cold(race, pairs, at_least):
    return _verdict([s / f for s, f in _pairs(race, pairs, warm=False)], at_least)


def compare_warms_one(race, pairs, at_least):
    race.run("slow")
    return compare_cold(race, pairs, at_least)


def compare_same_order(race, pairs, at_least):
    return _verdict([s / f for s, f in _pairs(race, pairs, turned=False)], at_least)


def compare_totals(race, pairs, at_least):
    slow, fast = (sum(times) for times in zip(*_pairs(race, pairs), strict=True))
    return "faster" if slow / fast >= at_least else "not faster"


def compare_median(race, pairs, at_least):
    ratios = sorted(s / f for s, f in _pairs(race, pairs))
    return "faster" if ratios[len(ratios) // 2] >= at_least else "not faster"


def compare_never_noisy(race, pairs, at_least):
    share = _share([s / f for s, f in _pairs(race, pairs)], at_least)
    return "faster" if share >= 0.8 else "not faster"


def compare_cut_off(race, pairs, at_least):
    held = sum(s / f >= at_least for s, f in _pairs(race, pairs))
    if held >= int(0.8 * pairs):
        return "faster"
    return "not faster" if held <= int(0.2 * pairs) else "too noisy"


def compare_more_than(race, pairs, at_least):
    share = _share([s / f for s, f in _pairs(race, pairs)], at_least)
    return "faster" if share > 0.8 else "not faster" if share < 0.2 else "too noisy"


def compare_upside_down(race, pairs, at_least):
    return _verdict([f / s for s, f in _pairs(race, pairs)], at_least)


def compare_any_gain(race, pairs, at_least):
    return _verdict([s / f for s, f in _pairs(race, pairs)], 1.0)


# 11.2

SECOND_COMPACT = """
import torch

def compact(k_BGTD, v_BGTD, pos_BGT, keep_BGT):
    rows = [(b, g) for b in range(keep_BGT.shape[0]) for g in range(keep_BGT.shape[1])]
    kept = {at: torch.where(keep_BGT[at])[0] for at in rows}
    most = max(len(slots) for slots in kept.values())

    def short(x, empty):
        out = torch.full((*x.shape[:2], most, *x.shape[3:]), empty, dtype=x.dtype)
        for at, slots in kept.items():
            out[at][: len(slots)] = x[at].index_select(0, slots)
        return out

    return short(k_BGTD, 0), short(v_BGTD, 0), short(pos_BGT, -1)
"""


def _compact(k, v, pos, keep, order=None, empty=-1, emptied=True):
    most = int(keep.sum(-1).max())
    if order is None:
        order = (~keep).byte().argsort(dim=-1, stable=True)
    order = order[..., :most]
    stays = torch.arange(most) < keep.sum(-1, keepdim=True)

    def moved(x):
        moved = x.gather(2, order[..., None].expand(-1, -1, -1, x.shape[-1]))
        return moved * stays[..., None] if emptied else moved

    return moved(k), moved(v), pos.gather(-1, order).where(stays, empty)


def compact_by_view(k, v, pos, keep):
    batch, n_groups, _, width = k.shape
    shape = (batch, n_groups, -1)
    return k[keep].view(*shape, width), v[keep].view(*shape, width), pos[keep].view(shape)


def compact_leftovers(k, v, pos, keep):
    order = (~keep).byte().argsort(dim=-1, stable=True)[..., : int(keep.sum(-1).max())]
    k, v, _ = _compact(k, v, pos, keep, emptied=False)
    return k, v, pos.gather(-1, order)


def compact_leftover_keys(k, v, pos, keep):
    return _compact(k, v, pos, keep, emptied=False)


def compact_slot_for_position(k, v, pos, keep):
    return _compact(k, v, torch.arange(pos.shape[-1]).expand(pos.shape), keep)


def compact_keeps_what_should_go(k, v, pos, keep):
    return _compact(k, v, pos, ~keep)


def compact_no_shorter(k, v, pos, keep):
    n_empty = keep.shape[-1] - int(keep.sum(-1).max())
    k, v, pos = _compact(k, v, pos, keep)
    k, v = (torch.nn.functional.pad(x, (0, 0, 0, n_empty)) for x in (k, v))
    return k, v, torch.nn.functional.pad(pos, (0, n_empty), value=-1)


def compact_renumbers(k, v, pos, keep):
    k, v, pos = _compact(k, v, pos, keep)
    return k, v, torch.arange(pos.shape[-1]).expand(pos.shape).where(pos >= 0, -1)


def compact_loses_order(k, v, pos, keep):
    last_first = (keep * torch.arange(1, keep.shape[-1] + 1)).argsort(-1, descending=True)
    return _compact(k, v, pos, keep, last_first)


def compact_keys_only(k, v, pos, keep):
    new_k, _, new_pos = _compact(k, v, pos, keep)
    most = new_pos.shape[-1]
    return new_k, v[:, :, :most] * (new_pos >= 0)[..., None], new_pos


def compact_one_head_for_all(k, v, pos, keep):
    return _compact(k, v, pos, keep[:, :1].expand(keep.shape).clone())


def compact_masks_only(k, v, pos, keep):
    return k * keep[..., None], v * keep[..., None], pos


def compact_empty_at_zero(k, v, pos, keep):
    return _compact(k, v, pos, keep, empty=0)


def compact_cuts_to_fewest(k, v, pos, keep):
    least = int(keep.sum(-1).min())
    k, v, pos = _compact(k, v, pos, keep)
    return k[:, :, :least], v[:, :, :least], pos[:, :, :least]


# 11.3

SECOND_NARROW = """
import torch

def narrow_attention(q_BGRD, k_BGTD, v_BGTD, score_BGD, n):
    b, g, r, d = q_BGRD.shape
    narrow, out = torch.zeros(b, g, k_BGTD.shape[2], n).double(), torch.zeros_like(q_BGRD)
    for i in range(b):
        for j in range(g):
            least = score_BGD[i, j].sort(descending=True).values[n - 1]
            mask = score_BGD[i, j] >= least
            narrow[i, j] = k_BGTD[i, j][:, mask]
            scores = torch.einsum("rn,tn->rt", q_BGRD[i, j][:, mask], narrow[i, j])
            out[i, j] = torch.softmax(scores * d**-0.5, dim=1) @ v_BGTD[i, j]
    return [narrow, out]
"""


def _pick(x, channels):
    return x.gather(-1, channels[:, :, None].expand(-1, -1, x.shape[2], -1))


def _channels(score, n):
    return score.topk(n).indices.sort().values


def _narrow(q, narrow, v, width):
    return (q @ narrow.mT / width**0.5).softmax(-1) @ v


def narrow_query_not_gathered(q, k, v, score, n):
    narrow = _pick(k, _channels(score, n))
    return narrow, _narrow(q[..., :n], narrow, v, q.shape[-1])


def narrow_scale_by_kept(q, k, v, score, n):
    channels = _channels(score, n)
    narrow = _pick(k, channels)
    return narrow, _narrow(_pick(q, channels), narrow, v, n)


def narrow_not_scaled(q, k, v, score, n):
    channels = _channels(score, n)
    narrow = _pick(k, channels)
    return narrow, _narrow(_pick(q, channels), narrow, v, 1)


def narrow_by_score(q, k, v, score, n):
    channels = score.topk(n).indices
    narrow = _pick(k, channels)
    return narrow, _narrow(_pick(q, channels), narrow, v, q.shape[-1])


def _one_choice(q, k, v, score, n):
    channels = _channels(score, n).expand(*score.shape[:2], n)
    narrow = _pick(k, channels)
    return narrow, _narrow(_pick(q, channels), narrow, v, q.shape[-1])


def narrow_heads_together(q, k, v, score, n):
    return _one_choice(q, k, v, score.sum(1, keepdim=True).expand(score.shape), n)


def narrow_all_together(q, k, v, score, n):
    return _one_choice(q, k, v, score.sum((0, 1)).expand(score.shape), n)


def narrow_values_too(q, k, v, score, n):
    channels = _channels(score, n)
    narrow = _pick(k, channels)
    return narrow, _narrow(_pick(q, channels), narrow, _pick(v, channels), q.shape[-1])


def narrow_one_head_for_all(q, k, v, score, n):
    channels = _channels(score, n)[:, :1].expand(-1, score.shape[1], -1)
    narrow = _pick(k, channels)
    return narrow, _narrow(_pick(q, channels), narrow, v, q.shape[-1])


def narrow_keeps_lowest(q, k, v, score, n):
    channels = _channels(-score, n)
    narrow = _pick(k, channels)
    return narrow, _narrow(_pick(q, channels), narrow, v, q.shape[-1])


def narrow_only_zeroes(q, k, v, score, n):
    kept = torch.zeros_like(score).scatter(-1, _channels(score, n), 1)
    zeroed = k * kept[:, :, None]
    return zeroed, _narrow(q, zeroed, v, q.shape[-1])


def narrow_order_differs(q, k, v, score, n):
    narrow = _pick(k, score.topk(n).indices)
    return narrow, _narrow(_pick(q, _channels(score, n)), narrow, v, q.shape[-1])


def narrow_first_row_for_all(q, k, v, score, n):
    channels = _channels(score, n)[:1].expand(score.shape[0], -1, -1)
    narrow = _pick(k, channels)
    return narrow, _narrow(_pick(q, channels), narrow, v, q.shape[-1])


# 11.4

SECOND_PACKED = """
import torch

class PackedRows:
    def __init__(self, x_TD, n):
        self.width, self.size, self.rows = x_TD.shape[1], x_TD.element_size(), []
        for row in x_TD:
            ranked = sorted(range(self.width), key=lambda j: -abs(row[j].item()))
            places = sorted(ranked[:n])
            number = sum(1 << j for j in places)
            self.rows.append((row[places], number.to_bytes(self.width // 8, "little")))

    def values(self):
        return torch.stack([values for values, _ in self.rows])

    def marks(self):
        return torch.tensor([list(marks) for _, marks in self.rows], dtype=torch.uint8)

    def unpack(self, values_TN, marks_TX):
        out = []
        for values, marks in zip(values_TN, marks_TX.tolist()):
            number = int.from_bytes(bytes(marks), "little")
            row = torch.zeros(self.width, dtype=values.dtype)
            row[[j for j in range(self.width) if number >> j & 1]] = values
            out.append(row)
        return torch.stack(out)

    def nbytes(self):
        return sum(len(values) * self.size + len(marks) for values, marks in self.rows)

    def most_kept(self):
        n = self.width
        while n * self.size + self.width // 8 >= self.width * self.size:
            n -= 1
        return n
"""


class _Rows:
    """Right rows, from which the wrong ones below differ."""

    def __init__(self, x_TD, n):
        self.x, self.n = x_TD, n
        self.size, (self.n_rows, self.width) = x_TD.itemsize, x_TD.shape
        self.kept = self._order().sort(-1).values

    def _order(self):
        return self.x.abs().topk(self.n, -1).indices

    def values(self):
        return self.x.gather(-1, self.kept)

    def _bits(self):
        bits = torch.zeros(self.n_rows, self.width, dtype=torch.int64).scatter_(-1, self.kept, 1)
        return bits.view(self.n_rows, -1, 8)

    def marks(self):
        return (self._bits() * 2 ** torch.arange(8)).sum(-1).to(torch.uint8)

    def unpack(self, values, marks):
        bits = (marks[..., None].int() >> torch.arange(8) & 1).flatten(1)
        places = bits.nonzero()[:, 1].view(values.shape)
        return values.new_zeros(bits.shape).scatter_(-1, places, values)

    def nbytes(self):
        return self.n_rows * (self.n * self.size + self.width // 8)

    def most_kept(self):
        return (self.width * self.size - self.width // 8 - 1) // self.size


class MarksReversed(_Rows):
    def marks(self):
        return (self._bits() * 2 ** torch.arange(7, -1, -1)).sum(-1).to(torch.uint8)


class MarksNotBytes(_Rows):
    def marks(self):
        return super().marks().long()


class ValuesInScoreOrder(_Rows):
    def values(self):
        return self.x.gather(-1, self._order())


class KeepsLargestNotAbsolute(_Rows):
    def _order(self):
        return self.x.topk(self.n, -1).indices


class MarksAsNumbers(_Rows):
    def marks(self):
        return self._bits().view(self.n_rows, -1).to(torch.uint8)


class UnpacksToTheFront(_Rows):
    def unpack(self, values, marks):
        out = values.new_zeros(len(values), self.width)
        out[:, : values.shape[1]] = values
        return out


class UnpacksItsOwn(_Rows):
    def unpack(self, values, marks):
        return super().unpack(self.values(), self.marks())


class UnpacksToDouble(_Rows):
    def unpack(self, values, marks):
        return super().unpack(values.double(), marks)


class UnpacksToFloat(_Rows):
    def unpack(self, values, marks):
        bits = super().unpack(torch.ones_like(values), marks)
        places = bits.nonzero()[:, 1].view(values.shape)
        return torch.zeros(bits.shape).scatter_(-1, places, values)


class UnpacksBitsReversed(_Rows):
    def unpack(self, values, marks):
        bits = (marks[..., None].int() >> torch.arange(7, -1, -1) & 1).flatten(1)
        places = bits.nonzero()[:, 1].view(values.shape)
        return values.new_zeros(bits.shape).scatter_(-1, places, values)


class MarksCountedAsBytes(_Rows):
    def nbytes(self):
        return self.n_rows * (self.n * self.size + self.width)

    def most_kept(self):
        return (self.width * self.size - self.width - 1) // self.size


class TwoBytes(_Rows):
    def nbytes(self):
        return self.n_rows * (self.n * 2 + self.width // 8)

    def most_kept(self):
        return (self.width * 2 - self.width // 8 - 1) // 2


class MarksNotCounted(_Rows):
    def nbytes(self):
        return self.n_rows * self.n * self.size


class OneRowCounted(_Rows):
    def nbytes(self):
        return self.n * self.size + self.width // 8


class EqualIsNotSmaller(_Rows):
    def most_kept(self):
        return (self.width * self.size - self.width // 8) // self.size


class MarksInNumbers(_Rows):
    def nbytes(self):
        return self.n_rows * (self.n + self.width // 8) * self.size


# 11.5

SECOND_BLOCKS = """
class BlockCache:
    def __init__(self, slots, budget, sinks, every):
        self.slots, self.recent, self.sinks, self.every = slots, budget - sinks, sinks, every
        self.used = 0

    def append(self, token):
        self.slots.put(self.used, token)
        self.used = self.used + 1
        over = self.used - self.sinks - self.recent
        if over >= self.every:
            self.slots.move(self.used - self.recent, self.used, self.sinks)
            self.used -= over
        return self.used
"""


class _Blocks:
    """A right block cache, from which the wrong ones below differ."""

    def __init__(self, slots, budget, sinks, every):
        self.slots, self.budget, self.sinks, self.every = slots, budget, sinks, every
        self.length = 0

    def append(self, token):
        self.slots.put(self.length, token)
        self.length += 1
        if self.full():
            self.evict()
        return self.length

    def full(self):
        return self.length == self.budget + self.every

    def evict(self):
        self.slots.move(self.sinks + self.every, self.length, self.sinks)
        self.length = self.budget


class EveryStep(_Blocks):
    def full(self):
        return self.length > self.budget

    def evict(self):
        self.slots.move(self.sinks + 1, self.length, self.sinks)
        self.length -= 1


class RecentLost(_Blocks):
    def evict(self):
        self.length = self.budget


class SinksLost(_Blocks):
    def evict(self):
        self.slots.move(self.every, self.length, 0)
        self.length = self.budget


class OneAtATime(_Blocks):
    def evict(self):
        while self.length > self.budget:
            self.slots.move(self.sinks + 1, self.length, self.sinks)
            self.length -= 1


class SinksMovedToo(_Blocks):
    def evict(self):
        self.slots.move(0, self.sinks, 0)
        super().evict()


class TooLate(_Blocks):
    def full(self):
        return self.length > self.budget + self.every


class BeforeTheNext(_Blocks):
    def append(self, token):
        if self.full():
            self.evict()
        self.slots.put(self.length, token)
        self.length += 1
        return self.length


class TooEarly(_Blocks):
    def full(self):
        return self.length == self.budget + self.every - 1

    def evict(self):
        self.slots.move(self.sinks + self.every, self.length, self.sinks)
        self.length -= self.every


class NewestNotMoved(_Blocks):
    def evict(self):
        self.slots.move(self.sinks + self.every, self.length - 1, self.sinks)
        self.length = self.budget


class OneOfTheBlock(_Blocks):
    def evict(self):
        self.slots.move(self.sinks + 1, self.length, self.sinks)
        self.length -= 1


class OldLength(_Blocks):
    def append(self, token):
        self.slots.put(self.length, token)
        self.length += 1
        used = self.length
        if self.full():
            self.evict()
        return used


class CutsTooDeep(_Blocks):
    def evict(self):
        self.slots.move(self.budget, self.length, self.sinks)
        self.length -= self.budget - self.sinks
