import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kvlab import KVCache, decode, generate, greedy, prefill
from kvlab.attention import attend
from tests.conftest import tiny_model


def rows(n, seed=0, batch=2, heads=3, width=4):
    torch.manual_seed(seed)
    return torch.randn(batch, heads, n, width), torch.randn(batch, heads, n, width)


def filled(*lengths, layers=2, capacity=12):
    cache = KVCache(layers, 2, 3, capacity, 4)
    for i, n in enumerate(lengths):
        for layer in range(layers):
            cache.append(layer, *rows(n, seed=10 * i + layer))
    return cache


def test_read_gives_back_what_was_appended_as_views():
    cache = filled(3, 2)
    for layer in range(2):
        kv = cache.read(layer)
        assert torch.equal(kv.k_BGTD, torch.cat([rows(3, layer)[0], rows(2, 10 + layer)[0]], 2))
        assert torch.equal(kv.v_BGTD, torch.cat([rows(3, layer)[1], rows(2, 10 + layer)[1]], 2))
        assert kv.pos_BGT.tolist() == [[[0, 1, 2, 3, 4]] * 3] * 2
        assert kv.in_order
        assert kv.k_BGTD.untyped_storage().data_ptr() == cache.k_LBGTD.untyped_storage().data_ptr()


def test_each_layer_counts_its_own():
    cache = filled(3)
    cache.append(0, *rows(2, 5))
    assert cache.read(0).k_BGTD.shape[2] == 5
    assert cache.read(1).k_BGTD.shape[2] == 3
    assert cache.length == 3


def test_overflow_is_refused_and_changes_nothing():
    cache = filled(3, 2, capacity=6)
    before = cache.k_LBGTD.clone()
    with pytest.raises(ValueError, match=r"2 tokens .* 1 of 6 slots free"):
        cache.append(1, *rows(2))
    assert torch.equal(cache.k_LBGTD, before) and cache.length == 5


def test_bytes_reported_are_those_of_the_storage_and_the_formula():
    cache = filled(3, 2)
    storage = cache.k_LBGTD.untyped_storage().nbytes() + cache.v_LBGTD.untyped_storage().nbytes()
    assert cache.allocated_bytes == storage == 2 * 2 * 2 * 3 * 12 * 4 * 4
    assert cache.live_bytes == cache.bytes_written == 2 * 2 * 2 * 3 * 5 * 4 * 4
    before = cache.bytes_read
    cache.read(0)
    assert cache.bytes_read - before == 2 * 2 * 3 * 5 * 4 * 4


def test_fork_has_its_own_memory():
    cache = filled(3)
    twin = cache.fork()
    assert twin.bytes_copied == cache.live_bytes
    cache.append(0, *rows(1, 50))
    twin.append(0, *rows(1, 60))
    for store in ("k_BGTD", "v_BGTD"):
        ours, theirs = getattr(cache.read(0), store), getattr(twin.read(0), store)
        assert torch.equal(ours[:, :, :3], theirs[:, :, :3]) and ours[:, :, :3].any()
    assert torch.equal(cache.read(0).k_BGTD[:, :, 3:], rows(1, 50)[0])
    assert torch.equal(twin.read(0).k_BGTD[:, :, 3:], rows(1, 60)[0])


def test_rewind_copies_nothing_and_writing_goes_on_there():
    cache = filled(3, 2)
    pointer = cache.k_LBGTD.data_ptr()
    cache.rewind(2)
    assert (cache.length, cache.k_LBGTD.data_ptr(), cache.bytes_copied) == (2, pointer, 0)
    cache.append(0, *rows(1, 70))
    assert torch.equal(cache.read(0).k_BGTD[:, :, 2:], rows(1, 70)[0])
    assert cache.read(0).pos_BGT[0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("length", [-1, 6])
def test_rewinding_to_what_is_not_there_is_refused(length):
    cache = filled(3, 2)
    with pytest.raises(ValueError, match=f"Rewinding to {length} tokens"):
        cache.rewind(length)
    assert cache.length == 5


def test_padding_takes_the_cache_out_of_order_until_it_is_empty():
    cache = KVCache(1, 2, 3, 8, 4)
    cache.append(0, *rows(3), torch.tensor([[0, 1, 2], [0, 1, -1]]))
    assert not cache.in_order
    assert cache.next_pos_B().tolist() == [3, 2]
    assert cache.fork().next_pos_B().tolist() == [3, 2]
    with pytest.raises(ValueError, match="was given positions"):
        cache.append(0, *rows(1))
    cache.reset()
    assert cache.in_order and cache.next_pos_B().tolist() == [0, 0]
    cache.append(0, *rows(2))
    assert cache.read(0).pos_BGT[1, 2].tolist() == [0, 1]


@pytest.mark.parametrize("nothing", ["n_layers", "batch", "n_kv_heads", "capacity", "head_dim"])
def test_a_cache_of_nothing_is_refused(nothing):
    sizes = {"n_layers": 1, "batch": 1, "n_kv_heads": 1, "capacity": 4, "head_dim": 4}
    with pytest.raises(ValueError, match=f"{nothing} of a cache is 0"):
        KVCache(**{**sizes, nothing: 0})


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_of_another_shape_are_refused_and_change_nothing(batch):
    """One row would otherwise be copied into every row of the cache."""
    cache = filled(3)
    before = cache.k_LBGTD.clone()
    with pytest.raises(
        ValueError, match=rf"\({batch}, 3, 2, 4\).*expected a tensor \(2, 3, 2, 4\)"
    ):
        cache.append(0, *rows(2, batch=batch), torch.tensor([[3, 4]]))
    assert torch.equal(cache.k_LBGTD, before) and cache.length == 3 and cache.in_order


def test_rows_of_another_type_or_layer_are_refused_and_change_nothing():
    cache = filled(3)
    before = cache.k_LBGTD.clone()
    k, v = rows(1)
    for wrong in ((k.double(), v.double()), (k, v.half())):
        with pytest.raises(
            ValueError, match="expected a tensor .* of torch.float32 on cpu. A cache from"
        ):
            cache.append(0, *wrong)
    for wrong in ((k.to("meta"), v), (k, v.to("meta"))):
        with pytest.raises(ValueError, match="on meta; expected .* on cpu"):
            cache.append(0, *wrong)
    for wrong in ((k[0], v[0]), (k[0, 0], v[0, 0]), (k[0, 0, 0], v[0, 0, 0])):
        with pytest.raises(ValueError, match=r"expected a tensor \(2, 3, S, 4\)"):
            cache.append(0, *wrong)
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=f"Layer {layer} .* 0 to 1"):
            cache.append(layer, k, v)
        with pytest.raises(ValueError, match=f"Layer {layer}"):
            cache.read(layer)
    assert torch.equal(cache.k_LBGTD, before) and cache.length == 3


@pytest.mark.parametrize(
    ("pos_BS", "named"),
    [
        (torch.tensor([3, 3]), r"shape \(2,\)"),
        (torch.tensor([[3]]), r"shape \(1, 1\) .* tensor \(2, 1\) of whole numbers"),
        (torch.tensor([[3], [3], [3]]), r"shape \(3, 1\)"),
        (torch.tensor([[3.0], [3.0]]), "type torch.float32"),
        (torch.tensor([[3], [3]], device="meta"), "pos_BS .* on meta; expected .* on cpu"),
    ],
)
def test_positions_that_do_not_fit_are_refused_and_change_nothing(pos_BS, named):
    cache = filled(3)
    before = cache.k_LBGTD.clone(), cache.pos_LBGT.clone()
    with pytest.raises(ValueError, match=named):
        cache.append(0, *rows(1), pos_BS)
    assert torch.equal(cache.k_LBGTD, before[0]) and torch.equal(cache.pos_LBGT, before[1])
    assert cache.used_L == (3, 3) and cache.in_order and cache.counts_positions


@pytest.mark.parametrize("mask", [torch.ones(2, 3, 4).bool(), torch.ones(2, 3, 3)])
def test_a_mask_that_does_not_fit_is_refused_and_evicts_nothing(mask):
    cache = filled(3)
    with pytest.raises(
        ValueError, match=r"keep_BGT .* expected a tensor \(2, 3, 3\) of torch.bool on cpu"
    ):
        cache.keep(0, mask)
    assert cache.length == 3 and cache.in_order


def test_keeping_everything_changes_nothing():
    cache = filled(3, 2)
    cache.keep(0, torch.ones(2, 3, 5, dtype=torch.bool))
    assert cache.in_order and cache.bytes_copied == 0 and cache.length == 5


def test_heads_may_keep_different_numbers_and_empty_slots_are_marked():
    cache = filled(4, layers=1)
    keep = torch.ones(2, 3, 4, dtype=torch.bool)
    keep[0, 0, 1:3], keep[1] = False, torch.tensor([False, True, True, False])
    k = cache.read(0).k_BGTD.clone()
    cache.keep(0, keep)
    kv = cache.read(0)
    assert kv.pos_BGT.tolist() == [
        [[0, 3, -1, -1], [0, 1, 2, 3], [0, 1, 2, 3]],
        [[1, 2, -1, -1]] * 3,
    ]
    assert torch.equal(kv.k_BGTD[0, 0, :2], k[0, 0, [0, 3]])
    assert torch.equal(kv.k_BGTD[1, 2, :2], k[1, 2, [1, 2]])
    assert not kv.whole and not cache.in_order
    kept, moved, row = 2 + 4 + 4 + 3 * 2, 1 + 3 * 2, 2 * 4 * 4
    assert (cache.live_bytes, cache.bytes_copied) == (kept * row, moved * row)
    assert (cache.seen, cache.length, cache.next_pos_B().tolist()) == (4, 4, [4, 4])


class Asks(TorchDispatchMode):
    """Nothing that must wait for a device to learn a number or a shape."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        waits = aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal
        assert func.overloadpacket not in waits, func
        if func.overloadpacket in (aten.index, aten.index_put_):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), func
        return func(*args, **(kwargs or {}))


def test_eviction_asks_the_device_once_and_nothing_else_does(monkeypatch):
    asked = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: asked.append(t.shape) or tolist(t))
    cache = KVCache(1, 2, 3, 8, 4)
    with Asks():
        cache.append(0, *rows(4), torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1]]))
        cache.keep(0, torch.arange(24).view(2, 3, 4) % 3 > 0)
        assert len(asked) == 1
        cache.append(0, *rows(1), cache.next_pos_B()[:, None])
        cache.rewind(4)
        cache.next_pos_B()
        cache.fork().shrink()
        cache.read(0)
    assert len(asked) == 1
    with pytest.raises(AssertionError), Asks():
        cache.k_LBGTD[0][cache.pos_LBGT[0] < 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_next_position_is_known_without_waiting_for_the_gpu():
    cache = KVCache(1, 2, 3, 8, 4, device="cuda")
    k, v = (store.cuda() for store in rows(2))
    pos = torch.tensor([[0, 1], [0, -1]], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        cache.append(0, k, v, pos)
        pos_B = cache.next_pos_B()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert pos_B.tolist() == [2, 1]


def test_a_cache_of_inference_mode_can_be_used_outside_it():
    """Torch refuses to write into a tensor that was made in inference mode."""
    with torch.inference_mode():
        cache = filled(3, 1, layers=1)
        cache.keep(0, torch.tensor([True, False, True, True]).expand(2, 3, 4))
        cache.shrink(6)
        twin = cache.fork()
    for one in (cache, twin):
        k, v = rows(1, 5)
        one.append(0, k.requires_grad_(), v)
        out = attend(torch.randn(2, 3, 1, 4), one.read(0)).out_BHSD
        out.sum().backward()
        assert k.grad.any()
        with torch.inference_mode():
            one.append(0, *rows(1, 6))
            one.rewind(4)
        one.rewind(0)
        one.append(0, *rows(2, 7))
        assert one.read(0).pos_BGT[0, 0].tolist() == [0, 1]


def test_shrinking_to_the_capacity_it_has_leaves_a_cache_where_it_is():
    """So that a step compiled for it stays good."""
    cache = filled(4, capacity=4)
    pointers = cache.k_LBGTD.data_ptr(), cache.v_LBGTD.data_ptr(), cache.pos_LBGT.data_ptr()
    cache.shrink()
    cache.shrink(4)
    assert pointers == (
        cache.k_LBGTD.data_ptr(), cache.v_LBGTD.data_ptr(), cache.pos_LBGT.data_ptr()
    )  # fmt: skip
    assert cache.bytes_copied == 0
    with pytest.raises(ValueError, match="Shrinking to 5 slots"):
        cache.shrink(5)


def test_a_cache_grows_when_asked_to():
    cache = filled(4, capacity=4)
    before = [cache.read(layer).k_BGTD.clone() for layer in range(2)]
    with pytest.raises(ValueError, match="The capacity to grow to is 3; .* of at least 4"):
        cache.grow(3)
    pointer = cache.k_LBGTD.data_ptr()
    cache.grow(4)
    assert (cache.k_LBGTD.data_ptr(), cache.bytes_copied) == (pointer, 0)
    cache.grow(6)
    assert (cache.capacity, cache.length, cache.bytes_copied) == (6, 4, cache.live_bytes)
    assert all(torch.equal(cache.read(layer).k_BGTD, before[layer]) for layer in range(2))
    for layer in range(2):
        cache.append(layer, *rows(2))
        assert cache.read(layer).pos_BGT[0, 0].tolist() == list(range(6))


def test_only_shrink_gives_memory_back():
    cache = filled(4)
    for layer in range(2):
        cache.keep(layer, torch.tensor([True, False, True, False]).expand(2, 3, 4))
    assert cache.allocated_bytes == 2 * 2 * 2 * 3 * 12 * 4 * 4
    before = [cache.read(layer).k_BGTD.clone() for layer in range(2)]
    copied = cache.bytes_copied
    with pytest.raises(ValueError, match="Shrinking to 1 slots .* 2 are used"):
        cache.shrink(1)
    cache.shrink()
    storage = cache.k_LBGTD.untyped_storage().nbytes() + cache.v_LBGTD.untyped_storage().nbytes()
    assert cache.allocated_bytes == storage == cache.live_bytes == 2 * 2 * 2 * 3 * 2 * 4 * 4
    assert cache.bytes_copied - copied == cache.live_bytes
    assert all(torch.equal(cache.read(layer).k_BGTD, before[layer]) for layer in range(2))
    with pytest.raises(ValueError, match="0 of 2 slots free"):
        cache.append(0, *rows(1))


def test_what_was_evicted_cannot_be_rewound_to():
    cache = filled(4, layers=1)
    cache.keep(0, torch.tensor([True, False, True, True]).expand(2, 3, 4))
    for i in range(2):
        cache.append(0, *rows(1, 80 + i))
    assert cache.read(0).pos_BGT[1, 2].tolist() == [0, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="evicted some after token 4"):
        cache.rewind(3)
    cache.rewind(5)
    assert cache.read(0).pos_BGT[0, 0].tolist() == [0, 2, 3, 4]
    assert cache.next_pos_B().tolist() == [5, 5]
    cache.rewind(0)
    assert cache.in_order and cache.live_bytes == 0


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_decoding_after_eviction_is_attention_over_what_was_kept(padded, ragged, backend, device):
    """The oracle never moves a row: it only marks evicted slots, so that nothing may see them."""
    model = tiny_model(device=device)
    draw = torch.Generator().manual_seed(3)
    tokens_BS = torch.randint(0, 61, (2, 14), generator=draw).to(device)
    pos_BS = torch.arange(12).repeat(2, 1)
    if padded:
        pos_BS[1, 9:] = -1
    pos_BS = pos_BS.to(device)
    cache, marked = model.new_cache(2, 20), model.new_cache(2, 20)
    prefill(model, tokens_BS[:, :12], cache, pos_BS=pos_BS if padded else None)
    prefill(model, tokens_BS[:, :12], marked, pos_BS=pos_BS)
    for layer in range(3):
        keep = torch.rand(2, 2, 12, generator=draw) < 0.5
        keep[:, :, 0] = True
        if not ragged:
            keep = keep[:1, :1].expand(2, 2, -1)
        keep = keep.to(device)
        marked.pos_LBGT[layer, :, :, :12][~keep] = -1
        cache.keep(layer, keep)
    assert cache.live_bytes < marked.live_bytes
    cache.shrink(15)
    next_B = (pos_BS.amax(-1) + 1)[:, None]
    for step in range(2):
        token_B = tokens_BS[:, 12 + step]
        got = decode(model, token_B, cache, backend=backend)
        want = model(token_B[:, None], next_B + step, marked, backend="reference")[:, -1]
        assert (got - want).abs().max() < 1e-9


class ByHand:
    """One row of a batch, one token at a time: plain lists of keys and values for each head.

    Turns are complex numbers, and no code of `kvlab` runs but the model's weights.
    """

    def __init__(self, model):
        self.config, self.weights = model.config, dict(model.named_parameters())
        heads = range(self.config.n_kv_heads)
        self.kv = [[[] for _ in heads] for _ in range(self.config.n_layers)]

    def rms(self, x, name):
        scale = (x.square().mean() + self.config.norm_eps).rsqrt()
        return x * scale * self.weights[f"model.{name}.weight"]

    def turned(self, x_HD, pos):
        first, second = x_HD.chunk(2, -1)
        width = x_HD.shape[1]
        pair = torch.arange(width // 2, dtype=torch.float64, device=x_HD.device)
        angle = pos * self.config.rope_theta ** (-2 * pair / width)
        z = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat((z.real, z.imag), -1)

    def attended(self, layer, q_HD):
        share = q_HD.shape[0] // len(self.kv[layer])
        out = []
        for h, q_D in enumerate(q_HD):
            keys, values = map(torch.stack, zip(*self.kv[layer][h // share], strict=True))
            weight = (keys @ q_D / len(q_D) ** 0.5).exp()
            out.append(weight @ values / weight.sum())
        return torch.cat(out)

    def __call__(self, token, pos):
        """Logits after one more token. Shapes: -> (V,)."""
        x = self.weights["model.embed_tokens.weight"][token]
        for i in range(self.config.n_layers):

            def project(name, x, layer=i):
                return self.weights[f"model.layers.{layer}.{name}.weight"] @ x

            normed = self.rms(x, f"layers.{i}.input_layernorm")
            q, k, v = (
                project(f"self_attn.{name}_proj", normed).view(-1, self.config.head_dim)
                for name in "qkv"
            )
            for head, pair in zip(
                self.kv[i], zip(self.turned(k, pos), v, strict=True), strict=True
            ):
                head.append(pair)
            x = x + project("self_attn.o_proj", self.attended(i, self.turned(q, pos)))
            normed = self.rms(x, f"layers.{i}.post_attention_layernorm")
            gate = project("mlp.gate_proj", normed)
            x = x + project(
                "mlp.down_proj", gate / (1 + (-gate).exp()) * project("mlp.up_proj", normed)
            )
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return head @ self.rms(x, "norm")


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_a_life_with_evictions_equals_one_by_hand(padded, backend, device):
    """Prefill, evict, a chunk, evict, shrink, rewind, decode: every logit of every real token."""
    model = tiny_model(device=device, n_kv_heads=2, n_layers=2)
    draw = torch.Generator().manual_seed(1)
    hands = [ByHand(model), ByHand(model)]
    cache = model.new_cache(2, 24)

    def feed(lengths):
        """So many tokens to each row, padded at the end."""
        n = max(lengths)
        tokens = torch.randint(61, (2, n), generator=draw).to(device)
        real = torch.arange(n) < torch.tensor(lengths)[:, None]
        starts = cache.next_pos_B()[:, None]
        pos = torch.where(real.to(device), torch.arange(n, device=device) + starts, -1)
        got = model(tokens, pos if padded else None, cache, backend=backend)
        for b, length in enumerate(lengths):
            for s in range(length):
                want = hands[b](int(tokens[b, s]), int(pos[b, s]))
                assert (got[b, s] - want).abs().max() <= 1e-9

    def evict(emptied):
        """Each row and head keeps what it likes, and one of them nothing."""
        for layer in range(2):
            keep = torch.rand(2, 2, cache.used_L[layer], generator=draw) < 0.6
            keep[layer, emptied] = False
            pos = cache.read(layer).pos_BGT.tolist()  # it is a view
            cache.keep(layer, keep.to(device))
            for b in range(2):
                for g in range(2):
                    stays = [k for k, p in zip(keep[b, g], pos[b][g], strict=True) if p >= 0]
                    head = hands[b].kv[layer][g]
                    head[:] = [pair for pair, k in zip(head, stays, strict=True) if k]

    feed([9, 6 if padded else 9])
    evict(0)
    feed([3, 2 if padded else 3])
    evict(1)
    cache.shrink(18)
    feed([1, 1])
    kept = [[list(head) for head in layer] for hand in hands for layer in hand.kv]
    feed([2, 1 if padded else 2])
    cache.rewind(13)
    for i, hand in enumerate(hands):
        hand.kv = kept[2 * i : 2 * i + 2]
    cache = cache.fork()
    for _ in range(3):
        feed([1, 1])
    assert cache.seen == 16


def test_generating_goes_on_after_eviction(device):
    model = tiny_model(device=device)
    cache = model.new_cache(1, 30)
    generate(model, [1, 2, 3, 4, 5, 6, 7], 2, cache=cache)
    for layer in range(3):
        cache.keep(layer, torch.arange(48, device=device).view(1, 2, 24)[..., :8] % (layer + 2) > 0)
    twin, prompt = cache.fork(), torch.tensor([[8, 9]], device=device)
    want = [greedy(prefill(model, prompt, twin))]
    for _ in range(5):
        want.append(greedy(decode(model, want[-1], twin)))
    said = generate(model, [8, 9], 6, cache=cache)
    assert said[0].tolist() == [int(token) for token in want]
    assert (cache.seen, cache.used_L) == (twin.seen, twin.used_L) == (15, cache.used_L)
    assert cache.next_pos_B().tolist() == [15]
