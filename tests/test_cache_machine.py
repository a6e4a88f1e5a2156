"""Random lives of a cache, beside a plain list of rows that does the same in the slowest way."""

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kvlab import KVCache

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


class Life(RuleBasedStateMachine):
    """`rows[layer][b][g]` lists (key, value, position) of numbers; an empty slot is None."""

    device = "cpu"

    @initialize(
        layers=st.integers(1, 3), batch=st.integers(1, 3), heads=st.integers(1, 3),
        capacity=st.integers(1, 12), width=st.sampled_from([1, 2, 5]),
        dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**20),
    )  # fmt: skip
    def begin(self, layers, batch, heads, capacity, width, dtype, seed):
        self.draw = torch.Generator().manual_seed(seed)
        self.sizes, self.capacity, self.dtype = (layers, batch, heads, width), capacity, dtype
        self.row_bytes = 2 * width * dtype.itemsize
        self.cache = KVCache(layers, batch, heads, capacity, width, dtype=dtype, device=self.device)
        self.forget()
        self.written = self.copied = self.read = 0

    def forget(self):
        layers, batch, heads, _ = self.sizes
        self.rows = [[[[] for _ in range(heads)] for _ in range(batch)] for _ in range(layers)]
        self.in_order, self.whole = [True] * layers, [True] * layers
        self.given = []  # the positions of each token given, one for each row of the batch
        self.evicted_at = 0
        self.counts = True

    def next(self, b):
        """The position that follows the last one that row b was given."""
        return max((positions[b] for positions in self.given), default=-1) + 1

    def used(self, layer):
        return len(self.rows[layer][0][0])

    def most_used(self):
        return max(map(self.used, range(self.sizes[0])))

    def live(self):
        filled = [
            r is not None for layer in self.rows for row in layer for head in row for r in head
        ]
        return sum(filled) * self.row_bytes

    def fresh(self, n, skipped, padded):
        """New keys and values, and positions unless they are counted."""
        layers, batch, heads, width = self.sizes
        k, v = torch.randn(2, layers, batch, heads, n, width, generator=self.draw).to(self.dtype)
        if self.counts and not (padded or skipped):
            return k, v, None
        pos_BS = torch.full((batch, n), -1)
        for b in range(batch):
            real = torch.rand(n, generator=self.draw) < (0.6 if padded else 1.0)
            pos_BS[b, real] = torch.arange(int(real.sum())) + self.next(b) + skipped
        return k, v, pos_BS

    def put(self, layer, k, v, pos_BS):
        """Append to one layer of the cache."""
        on = self.device
        self.cache.append(
            layer, k[layer].to(on), v[layer].to(on), None if pos_BS is None else pos_BS.to(on)
        )
        self.written += k[layer].shape[:3].numel() * self.row_bytes

    @rule(n=st.integers(0, 4), skipped=st.sampled_from([0, 0, 0, 7]), padded=st.booleans())
    def append(self, n, skipped, padded):
        layers, batch, heads, _ = self.sizes
        k, v, pos_BS = self.fresh(n, skipped, padded)
        if n > self.capacity - self.most_used():
            fullest = [self.used(layer) for layer in range(layers)].index(self.most_used())
            with pytest.raises(ValueError, match=f"{n} tokens were to be appended"):
                self.put(fullest, k, v, pos_BS)
            return
        for layer in range(layers):
            self.put(layer, k, v, pos_BS)
            if pos_BS is not None:
                self.counts = self.in_order[layer] = self.whole[layer] = False
        if pos_BS is None:
            pos_BS = torch.arange(len(self.given), len(self.given) + n).expand(batch, -1)
        for layer in range(layers):
            for b in range(batch):
                for g in range(heads):
                    new = k[layer, b, g].tolist(), v[layer, b, g].tolist(), pos_BS[b].tolist()
                    self.rows[layer][b][g].extend(zip(*new, strict=True))
        self.given += pos_BS.T.tolist()

    @rule(n=st.integers(1, 3), padded=st.booleans())
    def step_that_was_interrupted(self, n, padded):
        """The first layer is ahead of the others until it is rewound to what all have seen."""
        if n > self.capacity - self.most_used() or self.sizes[0] == 1:
            return
        k, v, pos_BS = self.fresh(n, 0, padded)
        self.put(0, k, v, pos_BS)
        assert self.cache.seen == len(self.given)
        self.cache.rewind(self.cache.seen)
        if not self.given:
            self.forget()
        elif pos_BS is not None:
            self.counts = self.in_order[0] = self.whole[0] = False

    @precondition(lambda self: self.most_used())
    @rule(share=st.sampled_from([0.0, 0.3, 0.7, 1.0]), even=st.booleans(), data=st.data())
    def keep(self, share, even, data):
        layers, batch, heads, _ = self.sizes
        for layer in data.draw(st.sets(st.integers(0, layers - 1), min_size=1)):
            used, old = self.used(layer), self.rows[layer]
            keep = torch.rand(batch, heads, used, generator=self.draw) < share
            if even:
                keep[:] = keep[0, 0].clone()
            self.cache.keep(layer, keep.to(self.device))
            new = [
                [[r for r, k in zip(old[b][g], keep[b, g], strict=True) if k and r and r[2] >= 0]
                 for g in range(heads)] for b in range(batch)
            ]  # fmt: skip
            kept = [len(head) for row in new for head in row]
            if min(kept) == used:
                continue
            for b in range(batch):
                for g in range(heads):
                    moved = [r is not o for r, o in zip(new[b][g], old[b][g], strict=False)]
                    self.copied += sum(moved) * self.row_bytes
                    new[b][g] += [None] * (max(kept) - len(new[b][g]))
            self.rows[layer] = new
            self.in_order[layer], self.whole[layer] = False, min(kept) == max(kept)
            self.evicted_at = len(self.given)

    @rule(back=st.integers(-1, 5))
    def rewind(self, back):
        to = len(self.given) - back
        if to and not self.evicted_at <= to <= len(self.given):
            with pytest.raises(ValueError, match=f"Rewinding to {to} tokens"):
                self.cache.rewind(to)
            return
        self.cache.rewind(to)
        if to == 0:
            self.forget()
            return
        for head in (head for layer in self.rows for row in layer for head in row):
            del head[len(head) - back :]
        del self.given[to:]

    @rule()
    def reset(self):
        self.cache.reset()
        self.forget()
        self.written = self.copied = self.read = 0

    @rule(spare=st.integers(-1, 2), by_default=st.booleans())
    def shrink(self, spare, by_default):
        wanted = max(1, self.most_used()) + (0 if by_default else spare)
        before = self.cache.k_LBGTD.data_ptr()
        if not max(1, self.most_used()) <= wanted <= self.capacity:
            with pytest.raises(
                ValueError, match=f"Shrinking to {wanted} slots|capacity is {wanted};"
            ):
                self.cache.shrink(wanted)
            assert self.cache.k_LBGTD.data_ptr() == before
            return
        self.cache.shrink(None if by_default else wanted)
        assert (self.cache.k_LBGTD.data_ptr() == before) == (wanted == self.capacity)
        self.copied += self.live() if wanted < self.capacity else 0
        self.capacity = wanted

    @rule(more=st.integers(-1, 3))
    def grow(self, more):
        wanted = self.capacity + more
        if more < 0:
            with pytest.raises(ValueError, match=f"The capacity to grow to is {wanted};"):
                self.cache.grow(wanted)
            return
        self.cache.grow(wanted)
        self.copied += self.live() if more else 0
        self.capacity = wanted

    @rule(stay=st.booleans())
    def fork(self, stay):
        """Go on with either; whoever still looks at the other one will see it."""
        twin = self.cache.fork()
        assert (twin.bytes_written, twin.bytes_read, twin.bytes_copied) == (0, 0, self.live())
        for layer in range(self.sizes[0]):
            assert not twin.k_LBGTD[layer, :, :, self.used(layer) :].any()
        other = twin if stay else self.cache
        other.k_LBGTD.fill_(float("nan"))
        other.v_LBGTD.fill_(float("nan"))
        other.pos_LBGT.fill_(99)
        for state in other.ledger.layers:
            state.used = 77
        if not stay:
            self.cache, self.copied = twin, self.live()
            self.written = self.read = 0

    @rule(kind=st.sampled_from(["layer", "dtype", "rows", "axes", "positions", "mask"]))
    def refused(self, kind):
        """What does not fit is refused; that nothing changed, the invariants say."""
        k, v, pos_BS = self.fresh(1, 0, padded=True)
        layer, k, v = 0, k[0].to(self.device), v[0].to(self.device)
        pos_BS = pos_BS.to(self.device)
        if kind == "layer":
            layer = self.sizes[0]
        elif kind == "dtype":
            v = v.to(torch.int32)
        elif kind == "rows":
            k = k.repeat(2, 1, 1, 1)
        elif kind == "axes":
            k, v = k[0, 0], v[0, 0]
        elif kind == "positions":
            pos_BS = torch.cat((pos_BS, pos_BS), dim=1)
        with pytest.raises(ValueError, match="asked for|expected a tensor|to be appended"):
            if kind == "mask":
                self.cache.keep(0, torch.ones(1, 1, self.used(0) + 1, dtype=torch.bool))
            self.cache.append(layer, k, v, pos_BS)

    @invariant()
    def contents_are_those_of_the_lists(self):
        for layer, rows in enumerate(self.rows):
            got, used = self.cache.read(layer), self.used(layer)
            self.read += self.sizes[1] * self.sizes[2] * used * self.row_bytes
            assert got.k_BGTD.shape[2] == got.v_BGTD.shape[2] == used
            k, v, pos = got.k_BGTD.tolist(), got.v_BGTD.tolist(), got.pos_BGT.tolist()
            for b, heads in enumerate(rows):
                for g, head in enumerate(heads):
                    there = [
                        row if want is not None or row[2] != -1 else None
                        for want, row in zip(
                            head, zip(k[b][g], v[b][g], pos[b][g], strict=True), strict=True
                        )
                    ]
                    assert there == head
            assert (got.in_order, got.whole) == (self.in_order[layer], self.whole[layer])

    @invariant()
    def nobody_may_see_a_slot_that_is_not_used(self):
        for layer in range(self.sizes[0]):
            beyond_BGT = self.cache.pos_LBGT[layer, :, :, self.used(layer) :]
            slot_T = torch.arange(self.used(layer), self.capacity, device=self.device)
            assert bool((beyond_BGT == (slot_T if self.in_order[layer] else -1)).all())

    @invariant()
    def numbers_tell_the_truth(self):
        cache, (layers, batch, heads, _) = self.cache, self.sizes
        assert (cache.batch, cache.capacity, cache.n_layers) == (batch, self.capacity, layers)
        storage = sum(s.untyped_storage().nbytes() for s in (cache.k_LBGTD, cache.v_LBGTD))
        formula = layers * batch * heads * self.capacity * self.row_bytes
        assert cache.allocated_bytes == storage == formula
        assert cache.live_bytes == self.live()
        counted = (cache.bytes_written, cache.bytes_read, cache.bytes_copied)
        assert counted == (self.written, self.read, self.copied)
        assert cache.seen == len(self.given)
        assert cache.used_L == tuple(map(self.used, range(layers)))
        assert cache.length == min(cache.used_L)
        assert cache.next_pos_B().tolist() == [self.next(b) for b in range(batch)]
        assert (cache.counts_positions, cache.in_order) == (self.counts, all(self.in_order))


class LifeOnGpu(Life):
    device = "cuda"


SETTINGS = settings(
    max_examples=200,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestLife = Life.TestCase
TestLife.settings = SETTINGS
TestLifeOnGpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(
    LifeOnGpu.TestCase
)
TestLifeOnGpu.settings = settings(SETTINGS, max_examples=20)
