"""Attention to blocks where they lie: what the formula says, and what is written beside it."""

import pytest
import torch

from kvlab.kernels import as_numpy, blocks

STORED = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SIZE, WIDTH = 4, 8


def draw(*shape, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (3, 3), (4, 1)])
def test_each_row_reads_its_own_blocks_and_writes_its_new_token(stored, heads, groups):
    used = [1, 4, 5, 12]
    table = torch.tensor([[7, 0, 0], [2, 0, 0], [9, 4, 0], [6, 1, 3]])  # 0 is never looked at
    k, v = (draw(groups, 10 * SIZE, WIDTH, seed=s, dtype=stored) for s in (0, 1))
    k[:, :SIZE] = v[:, :SIZE] = float("nan")
    q = draw(4, heads, WIDTH, seed=2, dtype=stored)
    new = [draw(4, groups, WIDTH, seed=s, dtype=stored) for s in (3, 4)]
    want_k, want_v, out = k.clone(), v.clone(), torch.empty_like(q)
    like = torch.zeros(0, dtype=torch.promote_types(stored, torch.float32)).numpy()
    blocks.attend(
        tuple(map(as_numpy, (q, *new))), as_numpy(k), as_numpy(v), table.numpy(),
        torch.tensor(used).numpy(), SIZE, like, as_numpy(out),
    )  # fmt: skip
    for b, n in enumerate(used):
        slots = (table[b].repeat_interleave(SIZE) * SIZE + torch.arange(SIZE).repeat(3))[:n]
        want_k[:, slots[-1]], want_v[:, slots[-1]] = new[0][b], new[1][b]
        shared = heads // groups
        keys, values = (x[:, slots].double().repeat_interleave(shared, 0) for x in (want_k, want_v))
        scores = (keys @ q[b].double()[..., None])[..., 0] / WIDTH**0.5
        want = (scores.softmax(-1)[:, None] @ values)[:, 0]
        near = {torch.float64: 1e-12, torch.float32: 2e-6}.get(stored, 2e-2)
        assert (out[b] - want).abs().max() < near
    for got, wanted in ((k, want_k), (v, want_v)):
        assert torch.equal(got.nan_to_num(), wanted.nan_to_num())
