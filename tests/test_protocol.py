"""A cache of a reader's own runs the model: the smallest possible one, by concatenation."""

import pytest
import torch
from kvlab.policies import recency

from kvlab import Cache, Evict, LayerKV, compiled_decode, generate, prefill
from tests.conftest import tiny_model

PROMPT = [5, 3, 9, 9, 1, 14, 2]


class Concatenated(Cache):
    """Keys and values of each layer in one tensor, which a longer one replaces."""

    def __init__(self, n_layers):
        self.kv, self.seen = [None] * n_layers, 0

    def append(self, layer, k_BGSD, v_BGSD, pos_BS=None):
        new = torch.stack((k_BGSD, v_BGSD))
        self.kv[layer] = torch.cat((self.kv[layer], new), 3) if self.seen else new
        if layer == len(self.kv) - 1:
            self.seen = self.kv[layer].shape[3]

    def read(self, layer):
        k_BGTD, v_BGTD = self.kv[layer]
        pos_BGT = torch.arange(k_BGTD.shape[2]).expand(k_BGTD.shape[:3])
        return LayerKV(k_BGTD, v_BGTD, pos_BGT, in_order=True, whole=True)


@pytest.fixture
def model():
    return tiny_model()


def test_it_answers_as_ours_does_alone_in_a_batch_and_in_a_conversation(model):
    for prompt in (PROMPT, [PROMPT, PROMPT[::-1]]):
        mine = Concatenated(model.config.n_layers)
        assert torch.equal(generate(model, prompt, 9, cache=mine), generate(model, prompt, 9))
        assert mine.seen == len(PROMPT) + 8
        again = generate(model, prompt, 3, cache=mine)
        ours = model.new_cache(1 if prompt is PROMPT else 2, 40)
        generate(model, prompt, 9, cache=ours)
        assert torch.equal(again, generate(model, prompt, 3, cache=ours))


def test_it_stops_at_an_end(model):
    free = generate(model, PROMPT, 9, eos=())[0].tolist()
    mine = Concatenated(model.config.n_layers)
    got = generate(model, PROMPT, 9, cache=mine, eos=(free[3],))[0].tolist()
    assert got == free[: free.index(free[3]) + 1] and mine.seen == len(PROMPT) + len(got) - 1


def test_what_it_does_not_have_is_refused_in_a_sentence_before_anything_is_read(model):
    mine = Concatenated(model.config.n_layers)
    with pytest.raises(ValueError, match="Positions were to be given to a Concatenated"):
        generate(model, [PROMPT, PROMPT[:3]], 3, cache=mine)
    with pytest.raises(ValueError, match="Concatenated came with Evict.* nothing can be taken out"):
        prefill(model, torch.tensor([PROMPT]), mine, prune=Evict(recency, 6, sink=1, recent=2))
    with pytest.raises(ValueError, match="A cache of None layers"):
        compiled_decode(model, mine)
    assert mine.seen == 0
    generate(model, PROMPT, 2, cache=mine)
    with pytest.raises(ValueError, match="has no rewind of its own"):
        mine.rewind(3)
