"""Second right answers to chapter 6."""

ANSWERS = {
    "6.1": '''
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
''',
    "6.2": """
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
""",
    "6.3": """
def audit(subject, n_prompt, n_new, capacity):
    clean, rows = subject.run(None)
    moved = [bool((subject.run(j)[0] != clean).any()) for j in range(capacity)]
    if rows != n_prompt + n_new - 1:
        return "recomputes"
    if not all(moved[:n_prompt]):
        return "ignores a row"
    return "reads an empty slot" if any(moved[n_prompt + n_new:]) else "reuses"
""",
    "6.4": """
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
""",
    "6.5": '''
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
''',
}
