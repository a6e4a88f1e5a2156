"""Random lives of a cache, beside a plain list of rows that does the same in the slowest way."""

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
    """`rows[layer][b][g]` lists (key, value, position); an empty slot is None."""

    @initialize(
        layers=st.integers(1, 3), batch=st.integers(1, 3), heads=st.integers(1, 3),
        capacity=st.integers(1, 12), width=st.sampled_from([1, 2, 5]),
        dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**20),
    )  # fmt: skip
    def begin(self, layers, batch, heads, capacity, width, dtype, seed):
        self.draw = torch.Generator().manual_seed(seed)
        self.sizes, self.capacity, self.dtype = (layers, batch, heads, width), capacity, dtype
        self.cache = KVCache(layers, batch, heads, capacity, width, dtype=dtype)
        self.written = self.copied = self.read = 0
        self.allocated = 2 * layers * batch * heads * capacity * self.row
        self.forget()

    def forget(self):
        layers, batch, heads, _ = self.sizes
        self.rows = [[[[] for _ in range(heads)] for _ in range(batch)] for _ in range(layers)]
        self.given: list[list[int]] = []  # the positions of each token given, one for each row
        self.evicted_at = 0
        self.counts = True

    def next(self, b):
        return sum(positions[b] >= 0 for positions in self.given)

    @property
    def row(self):
        return self.sizes[3] * torch.zeros(0, dtype=self.dtype).element_size()

    def used(self, layer):
        return len(self.rows[layer][0][0])

    @rule(n=st.integers(1, 4), padded=st.booleans())
    def append(self, n, padded):
        layers, batch, heads, width = self.sizes
        free = self.capacity - max(map(self.used, range(layers)))
        k, v = torch.randn(2, layers, batch, heads, n, width, generator=self.draw).to(self.dtype)
        pos_BS = None
        if padded or not self.counts:
            lengths = torch.randint(0, n + 1, (batch,), generator=self.draw).tolist()
            pos_BS = torch.tensor(
                [[self.next(b) + i if i < lengths[b] else -1 for i in range(n)]
                 for b in range(batch)]
            )  # fmt: skip
        for layer in range(layers):
            try:
                self.cache.append(layer, k[layer], v[layer], pos_BS)
            except ValueError:
                assert n > free and layer == 0
                return
        assert n <= free
        if pos_BS is None:
            pos_BS = torch.arange(len(self.given), len(self.given) + n).expand(batch, -1)
        else:
            self.counts = False
        for layer in range(layers):
            for b in range(batch):
                for g in range(heads):
                    new = zip(k[layer, b, g], v[layer, b, g], pos_BS[b].tolist(), strict=True)
                    self.rows[layer][b][g].extend(new)
        self.given += pos_BS.T.tolist()
        self.written += 2 * layers * batch * heads * n * self.row

    @precondition(lambda self: self.used(0))
    @rule(share=st.sampled_from([0.0, 0.3, 0.7, 1.0]), even=st.booleans())
    def keep(self, share, even):
        layers, batch, heads, _ = self.sizes
        for layer in range(layers):
            used = self.used(layer)
            keep = torch.rand(batch, heads, used, generator=self.draw) < share
            if even:
                keep[:] = keep[0, 0].clone()
            self.cache.keep(layer, keep)
            old = self.rows[layer]
            new = [
                [[r for r, k in zip(old[b][g], keep[b, g], strict=True) if k and r and r[2] >= 0]
                 for g in range(heads)] for b in range(batch)
            ]  # fmt: skip
            most = max(len(new[b][g]) for b in range(batch) for g in range(heads))
            if all(len(new[b][g]) == used for b in range(batch) for g in range(heads)):
                continue
            for b in range(batch):
                for g in range(heads):
                    stayed = [r is o for r, o in zip(new[b][g], old[b][g], strict=False)]
                    self.copied += 2 * stayed.count(False) * self.row
                    new[b][g] += [None] * (most - len(new[b][g]))
            self.rows[layer] = new
            self.evicted_at = len(self.given)

    @rule(back=st.integers(0, 5))
    def rewind(self, back):
        to = len(self.given) - back
        possible = to == 0 or self.evicted_at <= to
        try:
            self.cache.rewind(to)
        except ValueError:
            assert not possible
            return
        assert possible
        if to == 0:
            self.forget()
            return
        for head in (head for layer in self.rows for b in layer for head in b):
            del head[len(head) - back :]
        del self.given[to:]

    @rule()
    def reset(self):
        self.cache.reset()
        self.forget()
        self.written = self.copied = self.read = 0

    @rule(spare=st.integers(0, 2))
    def shrink(self, spare):
        layers, batch, heads, _ = self.sizes
        wanted = max(1, max(map(self.used, range(layers)))) + spare
        if wanted > self.capacity:
            return
        self.cache.shrink(wanted if spare else None)
        self.capacity = wanted
        self.allocated = 2 * layers * batch * heads * wanted * self.row
        self.copied += self.live()

    @rule()
    def fork(self):
        twin = self.cache.fork()
        assert twin.k_LBGTD.data_ptr() != self.cache.k_LBGTD.data_ptr()
        self.cache.k_LBGTD.fill_(float("nan"))  # whoever still looks at the old one will see it
        self.cache.v_LBGTD.fill_(float("nan"))
        self.cache.pos_LBGT.fill_(99)
        self.cache = twin
        self.written = self.read = 0
        self.copied = self.live()

    def live(self):
        rows = sum(r is not None for layer in self.rows for b in layer for g in b for r in g)
        return 2 * rows * self.row

    @rule()
    def look(self):
        for layer in range(self.sizes[0]):
            got = self.cache.read(layer)
            used = self.used(layer)
            self.read += 2 * self.sizes[1] * self.sizes[2] * used * self.row
            assert got.k_BGTD.shape[2] == used
            slots = [
                (b, g, t, row)
                for b, heads in enumerate(self.rows[layer])
                for g, head in enumerate(heads)
                for t, row in enumerate(head)
            ]
            for b, g, t, row in slots:
                assert got.pos_BGT[b, g, t] == (-1 if row is None else row[2])
                if row is not None:
                    assert torch.equal(got.k_BGTD[b, g, t], row[0])
                    assert torch.equal(got.v_BGTD[b, g, t], row[1])
            if got.whole:
                assert all(row is not None and row[2] >= 0 for *_, row in slots)
            if got.in_order:
                assert all(row is not None and row[2] == t for *_, t, row in slots)

    @invariant()
    def what_no_token_fills_is_not_seen_by_queries_to_come(self):
        later = max(map(self.next, range(self.sizes[1])))
        for layer in range(self.sizes[0]):
            beyond_BGT = self.cache.pos_LBGT[layer, :, :, self.used(layer) :]
            assert not self.counts or bool(((beyond_BGT < 0) | (beyond_BGT >= later)).all())

    @invariant()
    def counters_tell_the_truth(self):
        cache = self.cache
        assert cache.live_bytes == self.live()
        assert cache.allocated_bytes == self.allocated == (
            cache.k_LBGTD.untyped_storage().nbytes() + cache.v_LBGTD.untyped_storage().nbytes()
        )  # fmt: skip
        assert (cache.bytes_written, cache.bytes_copied) == (self.written, self.copied)
        assert cache.bytes_read == self.read
        assert cache.seen == len(self.given)
        assert cache.length == min(map(self.used, range(self.sizes[0])))
        assert cache.next_pos_B().tolist() == [self.next(b) for b in range(self.sizes[1])]
        assert cache.counts_positions == self.counts


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
