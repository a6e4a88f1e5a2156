"""Wrong answers to chapter 6 that people really give, and a second right one to each exercise.

Most of the wrong ones are bugs that published courses and libraries shipped. The right ones are
source text, in another style than the solution's.
"""

from __future__ import annotations

import torch

from kvlab.ops import apply_rope, rope_angles


class _Good:
    """The shape that the wrong caches below deviate from."""

    def __init__(self, n_layers, batch, n_kv_heads, capacity, head_dim):
        self.shape = (n_layers, batch, n_kv_heads, capacity, head_dim)
        self.k = torch.zeros(self.shape, dtype=torch.float64)
        self.v = torch.zeros(self.shape, dtype=torch.float64)
        self.used = [0] * n_layers

    def append(self, layer, k_BGSD, v_BGSD):
        start, stop = self.used[layer], self.used[layer] + k_BGSD.shape[2]
        if stop > self.shape[3]:
            raise ValueError(f"{stop} tokens do not fit into {self.shape[3]} slots")
        self.k[layer, :, :, start:stop] = k_BGSD
        self.v[layer, :, :, start:stop] = v_BGSD
        self.used[layer] = stop

    def read(self, layer):
        used = self.used[layer]
        return self.k[layer, :, :, :used], self.v[layer, :, :, :used]

    def reset(self):
        self.used = [0] * self.shape[0]

    def fork(self):
        twin = type(self)(*self.shape)
        twin.k.copy_(self.k)
        twin.v.copy_(self.v)
        twin.used = list(self.used)
        return twin

    def rewind(self, length):
        if not 0 <= length <= min(self.used):
            raise ValueError(f"cannot rewind to {length}")
        self.used = [length] * len(self.used)


# 6.1

SECOND_CACHE = '''
import torch

class KVCache:
    """One tensor per layer, in a dict, written with index_copy_."""

    def __init__(self, n_layers, batch, n_kv_heads, capacity, head_dim):
        self.limit = capacity
        self.stores = {
            layer: [torch.empty(2, batch, n_kv_heads, capacity, head_dim, dtype=torch.float64), 0]
            for layer in range(n_layers)
        }

    def append(self, layer, k_BGSD, v_BGSD):
        store, filled = self.stores[layer]
        where = torch.arange(filled, filled + k_BGSD.size(2))
        if where[-1] >= self.limit:
            raise ValueError("full")
        store.index_copy_(3, where, torch.stack((k_BGSD, v_BGSD)))
        self.stores[layer][1] += len(where)

    def read(self, layer):
        store, filled = self.stores[layer]
        return tuple(store.narrow(3, 0, filled).unbind(0))

    def reset(self):
        for entry in self.stores.values():
            entry[1] = 0
'''


class Concatenates(_Good):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.reset()

    def append(self, layer, k_BGSD, v_BGSD):
        if self.ks[layer].shape[2] + k_BGSD.shape[2] > self.shape[3]:
            raise ValueError("the cache is full")
        self.ks[layer] = torch.cat((self.ks[layer], k_BGSD), dim=2)
        self.vs[layer] = torch.cat((self.vs[layer], v_BGSD), dim=2)

    def read(self, layer):
        return self.ks[layer], self.vs[layer]

    def reset(self):
        n_layers, batch, heads, _, width = self.shape
        empty = torch.zeros(batch, heads, 0, width, dtype=torch.float64)
        self.ks, self.vs = [empty] * n_layers, [empty] * n_layers


class LastLayerForAll(_Good):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.k = self.k[:1].expand(self.shape)
        self.v = self.v[:1].expand(self.shape)


class FirstTokenLost(_Good):
    def read(self, layer):
        k, v = super().read(layer)
        return k[:, :, 1:], v[:, :, 1:]


class OneCounter(_Good):
    def append(self, layer, k_BGSD, v_BGSD):
        start = self.used[0]
        stop = min(start + k_BGSD.shape[2], self.shape[3])
        self.k[layer, :, :, start:stop] = k_BGSD[:, :, : stop - start]
        self.v[layer, :, :, start:stop] = v_BGSD[:, :, : stop - start]
        self.used = [stop] * self.shape[0]


class ReturnsCopies(_Good):
    def read(self, layer):
        k, v = super().read(layer)
        return k.clone(), v.clone()


class GrowsFirstLayer(_Good):
    def append(self, layer, k_BGSD, v_BGSD):
        stop = self.used[layer] + k_BGSD.shape[2]
        if stop > self.shape[3]:
            n_layers, batch, heads, _, width = self.shape
            self.shape = (n_layers, batch, heads, 2 * stop, width)
            grown = torch.zeros(self.shape, dtype=torch.float64)
            # the rows are moved as one flat block: right in layer 0, shifted in all others
            grown.view(-1)[: self.k.numel()] = self.k.reshape(-1)
            self.k = grown
            self.v = torch.zeros(self.shape, dtype=torch.float64)
        super().append(layer, k_BGSD, v_BGSD)


class HalfWrittenOverflow(_Good):
    def append(self, layer, k_BGSD, v_BGSD):
        for s in range(k_BGSD.shape[2]):
            super().append(layer, k_BGSD[:, :, s : s + 1], v_BGSD[:, :, s : s + 1])


class ResetForgetsCounters(_Good):
    def reset(self):
        self.k.zero_()
        self.v.zero_()


class ResetTakesNewMemory(_Good):
    def reset(self):
        self.__init__(*self.shape)


class LastSlotRefused(_Good):
    def append(self, layer, k_BGSD, v_BGSD):
        if self.used[layer] + k_BGSD.shape[2] >= self.shape[3]:
            raise ValueError("the cache is full")
        super().append(layer, k_BGSD, v_BGSD)


class CountsBeforeCheck(_Good):
    def append(self, layer, k_BGSD, v_BGSD):
        start = self.used[layer]
        self.used[layer] += k_BGSD.shape[2]
        if self.used[layer] > self.shape[3]:
            raise ValueError("the cache is full")
        self.k[layer, :, :, start : self.used[layer]] = k_BGSD
        self.v[layer, :, :, start : self.used[layer]] = v_BGSD


class SinglePrecision(_Good):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.k, self.v = self.k.float(), self.v.float()


class KeysAsValues(_Good):
    def append(self, layer, k_BGSD, v_BGSD):
        super().append(layer, k_BGSD, k_BGSD)


# 6.2

SECOND_ATTENTION = """
import torch
from kvlab.ops import apply_rope, rope_angles

def attend_with_past(x, w_q, w_k, w_v, k_past, v_past):
    b, s, _ = x.shape
    g, past, d = k_past.shape[1:]
    h = w_q.shape[0] // d
    turn = rope_angles(past + torch.arange(s).unsqueeze(0), d, 10000.0, torch.float64)
    q = apply_rope(torch.einsum("bsc,hdc->bhsd", x, w_q.view(h, d, -1)), *turn)
    k = apply_rope(torch.einsum("bsc,gdc->bgsd", x, w_k.view(g, d, -1)), *turn)
    v = torch.einsum("bsc,gdc->bgsd", x, w_v.view(g, d, -1))
    k, v = torch.cat([k_past, k], 2), torch.cat([v_past, v], 2)
    out = torch.zeros(b, h, s, d, dtype=torch.float64)
    for i in range(s):  # one query at a time: no mask is needed
        seen = past + i + 1
        q_i = q[:, :, i].reshape(b, g, h // g, d)
        w = torch.softmax(torch.einsum("bgrd,bgtd->bgrt", q_i, k[:, :, :seen]) * d**-0.5, -1)
        out[:, :, i] = torch.einsum("bgrt,bgtd->bgrd", w, v[:, :, :seen]).reshape(b, h, d)
    return [out, k, v]
"""


def _attend(
    x, w_q, w_k, w_v, k_past, v_past, *, start=None, mask=None, store=True, spread=None,
    turn_again=False, turn_q=True, turn_k=True, scale=True, cut=None, join=torch.cat,
):  # fmt: skip
    """Attention with a past; each wrong answer below changes one thing."""
    n_new, n_past, width = x.shape[1], k_past.shape[2], k_past.shape[3]
    start = n_past if start is None else start
    pos = torch.arange(start, start + n_new)

    cut = cut or (lambda y: y.unflatten(-1, (-1, width)).transpose(1, 2))
    q, k, v = (cut(x @ w.T) for w in (w_q, w_k, w_v))
    cos, sin = rope_angles(pos[None], width, 10000.0, x.dtype)
    q = apply_rope(q, cos, sin) if turn_q else q
    if turn_again:
        k = torch.cat((k_past, k), dim=2)
        every = torch.arange(k.shape[2])[None]
        k = apply_rope(k, *rope_angles(every, width, 10000.0, x.dtype))
    else:
        k = join((k_past, apply_rope(k, cos, sin) if turn_k else k), dim=2)
    v = join((v_past, v), dim=2)
    slots = torch.arange(k.shape[2])
    seen = (
        slots <= torch.arange(n_past, n_past + n_new)[:, None]
        if mask is None
        else mask(n_new, slots)
    )
    share = q.shape[1] // k.shape[1]
    spread = spread or (lambda t: t.repeat_interleave(share, dim=1))
    score = q @ spread(k).transpose(-1, -2) / (width**0.5 if scale else 1.0)
    out = score.masked_fill(~seen, float("-inf")).softmax(-1) @ spread(v)
    return (out, k, v) if store or n_past else (out, k_past, v_past)


def positions_restart(x, w_q, w_k, w_v, k_past, v_past):
    return _attend(x, w_q, w_k, w_v, k_past, v_past, start=0)


def first_token_not_stored(x, w_q, w_k, w_v, k_past, v_past):
    out, k, v = _attend(x, w_q, w_k, w_v, k_past, v_past)
    return (out, k, v) if k_past.shape[2] else (out, k[:, :, 1:], v[:, :, 1:])


def prompt_bypasses_cache(x, w_q, w_k, w_v, k_past, v_past):
    return _attend(x, w_q, w_k, w_v, k_past, v_past, store=False)


def square_mask(x, w_q, w_k, w_v, k_past, v_past):
    return _attend(
        x, w_q, w_k, w_v, k_past, v_past, mask=lambda n, slots: slots <= torch.arange(n)[:, None]
    )


def offset_twice(x, w_q, w_k, w_v, k_past, v_past):
    return _attend(x, w_q, w_k, w_v, k_past, v_past, start=2 * k_past.shape[2])


def keys_not_turned(x, w_q, w_k, w_v, k_past, v_past):
    return _attend(x, w_q, w_k, w_v, k_past, v_past, turn_again=True)


def no_mask(x, w_q, w_k, w_v, k_past, v_past):
    return _attend(x, w_q, w_k, w_v, k_past, v_past, mask=lambda n, slots: slots >= 0)


def groups_interleaved(x, w_q, w_k, w_v, k_past, v_past):
    share = w_q.shape[0] // w_k.shape[0]
    return _attend(x, w_q, w_k, w_v, k_past, v_past, spread=lambda t: t.repeat(1, share, 1, 1))


def masks_itself(x, w_q, w_k, w_v, k_past, v_past):
    past = k_past.shape[2]
    return _attend(
        x, w_q, w_k, w_v, k_past, v_past,
        mask=lambda n, slots: slots < torch.arange(past, past + n)[:, None],
    )  # fmt: skip


def not_turned(*given):
    return _attend(*given, turn_q=False, turn_k=False)


def keys_unturned(*given):
    return _attend(*given, turn_k=False)


def queries_unturned(*given):
    return _attend(*given, turn_q=False)


def one_too_far(x, w_q, w_k, w_v, k_past, v_past):
    return _attend(x, w_q, w_k, w_v, k_past, v_past, start=k_past.shape[2] + 1)


def not_scaled(*given):
    return _attend(*given, scale=False)


def heads_not_transposed(x, w_q, w_k, w_v, k_past, v_past):
    batch, n_new, width = *x.shape[:2], k_past.shape[3]
    return _attend(
        x, w_q, w_k, w_v, k_past, v_past, cut=lambda y: y.reshape(batch, -1, n_new, width)
    )


def only_new_returned(x, *given):
    out, k, v = _attend(x, *given)
    return out, k[:, :, -x.shape[1] :], v[:, :, -x.shape[1] :]


def new_before_past(*given):
    return _attend(*given, join=lambda two, dim: torch.cat(two[::-1], dim=dim))


# 6.3

SECOND_AUDIT = """
def audit(subject, n_prompt, n_new, capacity):
    clean, rows = subject.run(None)
    moved = [bool((subject.run(j)[0] != clean).any()) for j in range(capacity)]
    if rows != n_prompt + n_new - 1:
        return "recomputes"
    if not all(moved[:n_prompt]):
        return "ignores a row"
    return "reads an empty slot" if any(moved[n_prompt + n_new:]) else "reuses"
"""


def _audit(subject, n_prompt, n_new, capacity, *, count=None, slots=None, empty=True, flip=False):
    honest, rows = subject.run(None)
    if rows > (n_prompt + n_new - 1 if count is None else count):
        return "recomputes"
    if count is not None and rows != count:
        return "ignores a row"
    for slot in range(n_prompt) if slots is None else slots:
        if torch.equal(subject.run(slot)[0], honest) != flip:
            return "ignores a row"
    if empty and not torch.equal(subject.run(capacity - 1)[0], honest):
        return "reads an empty slot"
    return "reuses"


def audit_counts_only(subject, n_prompt, n_new, capacity):
    return _audit(subject, n_prompt, n_new, capacity, slots=(), empty=False)


def audit_expects_p_plus_n(subject, n_prompt, n_new, capacity):
    return _audit(subject, n_prompt, n_new, capacity, count=n_prompt + n_new)


def audit_allows_one_more(subject, n_prompt, n_new, capacity):
    return _audit(subject, n_prompt, n_new + 1, capacity)


def audit_never_counts(subject, n_prompt, n_new, capacity):
    return _audit(subject, n_prompt, capacity**2, capacity)


def audit_poisons_first_only(subject, n_prompt, n_new, capacity):
    return _audit(subject, n_prompt, n_new, capacity, slots=(0,))


def audit_never_tries_empty(subject, n_prompt, n_new, capacity):
    return _audit(subject, n_prompt, n_new, capacity, empty=False)


def audit_trusts_everyone(subject, n_prompt, n_new, capacity):
    return "reuses"


def audit_reversed(subject, n_prompt, n_new, capacity):
    return _audit(subject, n_prompt, n_new, capacity, flip=True)


# 6.4

SECOND_GENERATE = """
import torch

def cached_generate(model, tokens_BS, n_new):
    cache = model.new_cache(len(tokens_BS), tokens_BS.size(1) + n_new)
    text, fed = tokens_BS, 0
    while text.size(1) < tokens_BS.size(1) + n_new:
        positions = torch.arange(fed, text.size(1)).repeat(len(text), 1)
        logits = model(text[:, fed:], positions, cache)
        fed = text.size(1)
        text = torch.cat([text, logits[:, -1:].max(-1).indices], 1)
    return text[:, tokens_BS.size(1):]
"""


def _generate(
    model, tokens_BS, n_new, *, pos=None, prompt_cache=True, again=False, extra=0, drop=0, row=-1,
    anew=False,
):  # fmt: skip
    """Cached generation; each wrong answer below changes one thing."""
    batch, n_prompt = tokens_BS.shape
    cache = model.new_cache(batch, 2 * (n_prompt + n_new))
    pos = pos or (lambda i: n_prompt + i)
    fed = tokens_BS[:, drop:]
    pos_BS = torch.arange(drop, n_prompt).expand(batch, n_prompt - drop)
    logits = model(fed, pos_BS, cache if prompt_cache else None)
    if again:
        logits = model(tokens_BS[:, -1:], torch.full((batch, 1), n_prompt), cache)
    out = [logits[:, row].argmax(-1)]
    for i in range(n_new - 1 + extra):
        cache = model.new_cache(batch, 1) if anew else cache
        logits = model(out[-1][:, None], torch.full((batch, 1), pos(i) + again), cache)
        out.append(logits[:, -1].argmax(-1))
    return torch.stack(out[:n_new], dim=1)


def generate_without_cache(model, tokens_BS, n_new):
    text = tokens_BS
    for _ in range(n_new):
        pos_BS = torch.arange(text.shape[1]).expand(text.shape)
        text = torch.cat((text, model(text, pos_BS)[:, -1:].argmax(-1)), dim=1)
    return text[:, -n_new:]


def generate_prompt_one_by_one(model, tokens_BS, n_new):
    batch, n_prompt = tokens_BS.shape
    cache, text = model.new_cache(batch, n_prompt + n_new), tokens_BS
    for i in range(n_prompt + n_new - 1):
        logits = model(text[:, i : i + 1], torch.full((batch, 1), i), cache)
        if i >= n_prompt - 1:
            text = torch.cat((text, logits.argmax(-1)), dim=1)
    return text[:, n_prompt:]


def generate_new_cache_each_step(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, anew=True)


def generate_first_row(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, row=0)


def generate_position_zero(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, pos=lambda i: 0)


def generate_position_stays(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, pos=lambda i: tokens_BS.shape[1])


def generate_one_too_far(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, pos=lambda i: tokens_BS.shape[1] + i + 1)


def generate_one_too_few(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, pos=lambda i: tokens_BS.shape[1] + i - 1)


def generate_positions_restart(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, pos=lambda i: i)


def generate_prompt_bypasses(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, prompt_cache=False)


def generate_offset_twice(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, pos=lambda i: tokens_BS.shape[1] + 2 * i + 1)


def generate_last_prompt_twice(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, again=True)


def generate_feeds_everything(model, tokens_BS, n_new):
    batch, n_prompt = tokens_BS.shape
    cache = model.new_cache(batch, (n_prompt + n_new) * (n_new + 1))
    text = tokens_BS
    for _ in range(n_new):
        pos_BS = torch.arange(text.shape[1]).expand(text.shape)
        text = torch.cat((text, model(text, pos_BS, cache)[:, -1:].argmax(-1)), dim=1)
    return text[:, -n_new:]


def generate_one_step_more(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, extra=1)


def generate_first_prompt_token_lost(model, tokens_BS, n_new):
    return _generate(model, tokens_BS, n_new, drop=1)


# 6.5

SECOND_FORK = '''
import copy
import torch

class ForkingCache:
    """Lists of per-layer tensors, deep-copied for a fork."""

    def __init__(self, n_layers, batch, n_kv_heads, capacity, head_dim):
        shape = (batch, n_kv_heads, capacity, head_dim)
        self.kv = [[torch.zeros(shape, dtype=torch.float64) for _ in "kv"] for _ in range(n_layers)]
        self.n = [0] * n_layers

    def append(self, layer, k_BGSD, v_BGSD):
        stop = self.n[layer] + k_BGSD.shape[2]
        for store, new in zip(self.kv[layer], (k_BGSD, v_BGSD)):
            store[:, :, self.n[layer]:stop].copy_(new)
        self.n[layer] = stop

    def read(self, layer):
        return [store[:, :, : self.n[layer]] for store in self.kv[layer]]

    def fork(self):
        return copy.deepcopy(self)

    def rewind(self, length):
        if length < 0 or any(length > n for n in self.n):
            raise ValueError(length)
        self.n = [length for _ in self.n]
'''


class ForkReturnsSelf(_Good):
    def fork(self):
        return self


class ForkShares(_Good):
    def fork(self):
        twin = type(self)(*self.shape)
        twin.k, twin.v, twin.used = self.k, self.v, list(self.used)
        return twin


class ForkSharesValues(_Good):
    def fork(self):
        twin = super().fork()
        twin.v = self.v
        return twin


class ForkSharesCounters(_Good):
    def fork(self):
        twin = super().fork()
        twin.used = self.used
        return twin


class RewindOneLayer(_Good):
    def rewind(self, length):
        if not 0 <= length <= min(self.used):
            raise ValueError(f"cannot rewind to {length}")
        self.used[0] = length


class RewindOffByOne(_Good):
    def rewind(self, length):
        if not 0 <= length <= min(self.used):
            raise ValueError(f"cannot rewind to {length}")
        self.used = [min(length + 1, used) for used in self.used]


class RewindCopies(_Good):
    def rewind(self, length):
        super().rewind(length)
        self.k, self.v = self.k.clone(), self.v.clone()


class RewindUnchecked(_Good):
    def rewind(self, length):
        self.used = [length] * len(self.used)


class RewindByCapacity(_Good):
    def rewind(self, length):
        if not 0 <= length <= self.shape[3]:
            raise ValueError(f"cannot rewind to {length}")
        self.used = [length] * len(self.used)


class RewindNegative(_Good):
    def rewind(self, length):
        if length > min(self.used):
            raise ValueError(f"cannot rewind to {length}")
        self.used = [length] * len(self.used)


class RewindRefusesPresent(_Good):
    def rewind(self, length):
        if not 0 <= length < min(self.used):
            raise ValueError(f"cannot rewind to {length}")
        self.used = [length] * len(self.used)


class RewindByLongest(_Good):
    def rewind(self, length):
        if not 0 <= length <= max(self.used):
            raise ValueError(f"cannot rewind to {length}")
        self.used = [min(length, used) for used in self.used]
