import pytest
import torch

from kvlab.attention import BACKENDS, attend
from kvlab.cache import LayerKV

# "rows" reads packed caches only: tests/pack/test_packed.py
DENSE = sorted(BACKENDS.keys() - {"rows"})

HEADS, WIDTH = 4, 8


def case(groups, n_slots, n_new, *, pos=None, dtype=torch.float64, device="cpu", seed=0):
    """Queries and one layer's slots; positions in order unless given as pos_BT."""
    torch.manual_seed(seed)
    batch = 2
    q = torch.randn(batch, HEADS, n_new, WIDTH, dtype=torch.float64).to(device, dtype)
    k, v = torch.randn(2, batch, groups, n_slots, WIDTH, dtype=torch.float64).to(device, dtype)
    in_order = pos is None
    pos = torch.arange(n_slots).expand(batch, -1) if in_order else pos
    return q, LayerKV(k, v, pos[:, None].expand(-1, groups, -1).to(device), in_order)


def by_loop(q, kv, q_pos):
    """Each query on its own over the slots it may use."""
    out = torch.zeros_like(q)
    share = HEADS // kv.k_BGTD.shape[1]
    for b in range(q.shape[0]):
        for h in range(HEADS):
            for s in range(q.shape[2]):
                pos = kv.pos_BGT[b, h // share]
                ok = (pos >= 0) & (pos <= q_pos[b, s])
                k, v = kv.k_BGTD[b, h // share][ok], kv.v_BGTD[b, h // share][ok]
                out[b, h, s] = (k @ q[b, h, s] / WIDTH**0.5).softmax(0) @ v
    return out


@pytest.mark.parametrize("backend", DENSE)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("n_slots", "n_new"), [(7, 7), (7, 3), (7, 1), (1, 1)])
def test_a_layer_in_order_needs_no_positions(backend, groups, n_slots, n_new, device):
    q, kv = case(groups, n_slots, n_new, device=device)
    q_pos = torch.arange(n_slots - n_new, n_slots, device=device).expand(2, -1)
    want = by_loop(q, kv, q_pos)
    for given in (None, q_pos):
        got = attend(q, kv, given, backend=backend)
        torch.testing.assert_close(got.out_BHSD, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", DENSE)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_positions_decide_the_mask(backend, groups, device):
    pos = torch.tensor([[0, 1, 2, -1, 3, 4], [-1, -1, 0, 5, 1, 2]])
    q, kv = case(groups, 6, 2, pos=pos, device=device)
    q_pos = torch.tensor([[3, 4], [1, 2]], device=device)
    got = attend(q, kv, q_pos, backend=backend).out_BHSD
    torch.testing.assert_close(got, by_loop(q, kv, q_pos), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", DENSE)
def test_a_query_with_nothing_to_see_is_still_a_number(backend):
    q, kv = case(2, 3, 1, pos=torch.tensor([[-1, -1, -1], [0, 1, 2]]))
    out = attend(q, kv, torch.tensor([[-1], [2]]), backend=backend).out_BHSD
    assert out.isfinite().all()


@pytest.mark.parametrize("backend", DENSE)
def test_a_head_that_was_evicted_to_nothing_stays_a_number_and_leaves_the_others_alone(
    backend, device
):
    q, full = case(2, 5, 1, device=device)
    pos = full.pos_BGT.clone()
    pos[0, 1], pos[1, 0, 3:] = -1, -1
    kv = LayerKV(full.k_BGTD, full.v_BGTD, pos, False)
    q_pos = torch.tensor([[7], [7]], device=device)
    out = attend(q, kv, q_pos, backend=backend).out_BHSD
    assert out.isfinite().all()
    want = by_loop(q, kv, q_pos)  # 0 where there is nothing to see
    want[0, 2:] = out[0, 2:]
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", DENSE)
def test_a_layer_without_slots_gives_zeros_and_needs_positions(backend, device):
    q, kv = case(2, 0, 1, device=device)
    q_pos = torch.tensor([[3], [0]], device=device)
    assert not attend(q, kv, q_pos, backend=backend).out_BHSD.any()
    with pytest.raises(ValueError, match="1 queries came without positions to a layer of 0 slots"):
        attend(q, kv, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_stays_near(dtype):
    q, kv = case(2, 7, 3)
    q_low, kv_low = case(2, 7, 3, dtype=dtype)
    want = attend(q, kv, backend="reference").out_BHSD
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for backend in DENSE:
        got = attend(q_low, kv_low, backend=backend).out_BHSD
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def test_weights_are_a_causal_distribution():
    q, kv = case(2, 5, 5)
    weights = attend(q, kv, weights=True).weights_BHST
    assert weights.shape == (2, HEADS, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 5, dtype=torch.float64))
    assert (weights.triu(1) == 0).all() and (weights.tril() > 0).sum() == 2 * HEADS * 15


def test_auto_says_what_it_chose_and_why():
    q, kv = case(2, 5, 1)
    assert attend(q, kv).backend == "sdpa" and attend(q, kv).why
    chosen = attend(q, kv, weights=True)
    assert (chosen.backend, chosen.why) == ("reference", "weights were asked for")


def test_bad_requests_are_named():
    q, kv = case(2, 5, 1)
    with pytest.raises(ValueError, match=r"'flash'.*'reference', 'sdpa'"):
        attend(q, kv, backend="flash")
    with pytest.raises(ValueError, match="'sdpa' never forms them"):
        attend(q, kv, backend="sdpa", weights=True)


@pytest.mark.parametrize("backend", DENSE)
@pytest.mark.parametrize("n_new", [1, 2])
def test_queries_without_positions_are_those_of_the_last_slots(backend, n_new, device):
    pos = torch.tensor([[4, 0, 2, -1, 5, 6], [-1, 7, 0, 1, 3, 4]])
    q, kv = case(2, 6, n_new, pos=pos, device=device)
    want = attend(q, kv, pos[:, -n_new:].to(device), backend=backend).out_BHSD
    got = attend(q, kv, backend=backend).out_BHSD
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    blind = attend(q, LayerKV(kv.k_BGTD, kv.v_BGTD, kv.pos_BGT, False, True), backend="sdpa")
    assert (n_new > 1) == torch.allclose(blind.out_BHSD, want)


def test_nothing_is_masked_in_a_whole_layer_when_one_token_asks():
    """The promise of `whole` is what makes a step after even eviction as cheap as before."""
    q, kv = case(2, 6, 1, pos=torch.tensor([[0, 2, 3, 5, 8, 9]] * 2))
    whole = LayerKV(kv.k_BGTD, kv.v_BGTD, kv.pos_BGT, False, True)
    want = attend(q, whole, backend="reference").out_BHSD
    torch.testing.assert_close(attend(q, whole, backend="sdpa").out_BHSD, want)
