"""Caches that are what they promise, and those that are not, before `engaged`."""

import pytest
import torch

from kvlab import Cache, Elements, Evict, KVCache, Sparsify
from kvlab.measure import engaged
from kvlab.measure.engaging import stored_bytes
from kvlab.pack import CodesPerChannel, CodesPerToken, PerToken
from kvlab.protocol import LayerKV
from kvlab.prune.scores import k_magnitude, knorm, v_magnitude
from tests.conftest import tiny_model

MODEL = tiny_model(dtype=torch.float32)
PROMPT, NEW = [i * 7 % 61 for i in range(100)], 5
TOKENS = len(PROMPT) + NEW - 1
DENSE = TOKENS * MODEL.config.kv_bytes_per_token()
EVICT = Evict(knorm, 30, sink=2, recent=8)


def cache(**how):
    return MODEL.new_cache(1, TOKENS, **how)


def test_a_dense_cache_compresses_nothing():
    found = engaged(MODEL, cache(), PROMPT, NEW)
    assert set(found.findings) == {"fallback"}
    assert found.tokens == TOKENS and found.drift == 0
    assert found.held_bytes == found.peak_bytes == found.read_bytes == found.dense_bytes == DENSE
    assert found.heads == MODEL.config.n_kv_heads and found.zeros == 0
    assert not found.saves_memory and not found.saves_reading
    assert "nothing is compressed" in str(found) and f"{DENSE:,} bytes,  100.0% of dense" in str(
        found
    )


def test_a_budget_that_the_prompt_never_reaches_is_a_fallback():
    found = engaged(MODEL, cache(), PROMPT, NEW, prune=Evict(knorm, 200, sink=2, recent=8))
    assert set(found.findings) == {"fallback"}


def test_eviction_reads_less_in_memory_that_was_taken_for_all():
    found = engaged(MODEL, cache(), PROMPT, NEW, prune=EVICT)
    assert set(found.findings) == {"slack"} and found.saves_reading and not found.saves_memory
    assert found.read_bytes == (30 + NEW - 1) * DENSE // TOKENS and found.drift > 1e-3


class Shrinking(KVCache):
    """Gives back what a policy left empty, as soon as the prompt has been read."""

    def keep(self, layer, keep_BGT):
        super().keep(layer, keep_BGT)
        if layer == self.n_layers - 1:
            self.shrink(self.length + NEW)


def test_a_cache_that_shrinks_is_small_after_a_dense_peak():
    config = MODEL.config
    made = Shrinking(config.n_layers, 1, config.n_kv_heads, TOKENS, config.head_dim)
    found = engaged(MODEL, made, PROMPT, NEW, prune=EVICT)
    assert found.saves_memory and found.saves_reading and set(found.findings) == {"peak"}
    assert found.peak_bytes == DENSE and found.held_bytes == (30 + NEW) * DENSE // TOKENS


def test_zeros_in_dense_memory_are_told_from_removal():
    policy = Sparsify(k=Elements(k_magnitude, 0.5), v=Elements(v_magnitude, 0.5), sink=2, recent=8)
    found = engaged(MODEL, cache(), PROMPT, NEW, prune=policy)
    assert set(found.findings) == {"zeros"} and 0.4 < found.zeros < 0.5
    assert not found.saves_memory and not found.saves_reading


def test_packed_rows_are_in_use():
    found = engaged(MODEL, cache(k=PerToken(3), v=PerToken(3), recent=8, at_once=8), PROMPT, NEW)
    assert found.saves_memory and found.saves_reading
    assert set(found.findings) <= {"peak", "slack"} and found.drift > 0
    assert found.zeros is None and found.heads is None


def test_codes_that_no_backend_reads_where_they_lie_are_copied():
    wide, text = tiny_model(dtype=torch.float32, head_dim=64), PROMPT * 2
    made = wide.new_cache(1, 210, k=CodesPerChannel(4), v=CodesPerToken(4), recent=8, at_once=32)
    found = engaged(wide, made, text, NEW)
    assert found.saves_memory and not found.saves_reading and "copies" in found.findings


def test_a_compressed_cache_of_a_short_text_saves_nothing():
    wide = tiny_model(dtype=torch.float32, head_dim=64)
    made = wide.new_cache(1, TOKENS, k=CodesPerChannel(4), v=CodesPerToken(4), recent=8, at_once=32)
    found = engaged(wide, made, PROMPT, NEW)
    assert set(found.findings) == {"nothing saved"} and found.held_bytes > found.dense_bytes


def test_a_policy_before_packing_needs_a_dense_cache_beside_it():
    made = cache(k=PerToken(3), v=PerToken(3), recent=8, at_once=8)
    found = engaged(MODEL, made, PROMPT, NEW, prune=EVICT)
    draft = len(PROMPT) * DENSE // TOKENS
    assert found.peak_bytes == found.held_bytes + draft
    assert found.findings["peak"].startswith(f"While the prompt was read {found.peak_bytes:,}")


class Mine(Cache):
    """A cache of a reader's own, of one row, without counters."""

    repeats = 1

    def __init__(self):
        self.held, self.seen = {}, 0

    def append(self, layer, k_BGSD, v_BGSD, pos_BS=None):
        new = torch.stack((k_BGSD, v_BGSD)).half()
        self.held[layer] = torch.cat((self.held[layer], new), 3) if layer in self.held else new
        self.seen = self.held[layer].shape[3]

    def read(self, layer):
        k_BGTD, v_BGTD = self.held[layer].float().repeat_interleave(self.repeats, 2)
        pos_BGT = torch.arange(k_BGTD.shape[2]).expand(k_BGTD.shape[:3])
        return LayerKV(k_BGTD, v_BGTD, pos_BGT, in_order=True, whole=True)


def test_dense_copies_made_at_every_step_save_memory_alone():
    made = Mine()  # which does not say how many layers it has
    found = engaged(MODEL, made, PROMPT, NEW)
    assert set(found.findings) == {"copies"} and found.saves_memory and not found.saves_reading
    assert found.held_bytes == DENSE // 2 and found.read_bytes == DENSE


def test_repeated_heads_are_counted():
    made = Mine()
    made.repeats = 2
    found = engaged(MODEL, made, PROMPT, NEW)
    assert found.heads == 2 * MODEL.config.n_kv_heads and "heads" in found.findings


class Called(Mine):
    """One that can be called, as a policy can."""

    def __call__(self):
        pass


def test_what_can_be_called_holds_memory_all_the_same():
    assert engaged(MODEL, Called(), PROMPT, NEW).held_bytes == DENSE // 2


def test_memory_is_counted_once_wherever_it_lies():
    big = torch.zeros(10, dtype=torch.float32)
    nested = {"a": [big, big[3:]], "b": (big.view(2, 5), {"c": torch.zeros(4, dtype=torch.uint8)})}
    assert stored_bytes(nested) == 44
    assert stored_bytes([torch.zeros(9, dtype=torch.int64), MODEL]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: engaged(3, cache(), PROMPT), "expected a Transformer"),
        (lambda: engaged(MODEL, None, PROMPT), "an empty cache of this model"),
        (lambda: engaged(MODEL, cache(), PROMPT, 1), "at least 2"),
        (lambda: engaged(MODEL, cache(), "text"), "expected an id"),
        (lambda: engaged(MODEL, full(), PROMPT), "holds 1 tokens; expected an empty one"),
    ],
)
def test_what_cannot_be_watched_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def full():
    made = cache()
    made.rewind(0)
    from kvlab.generation import prefill

    prefill(MODEL, torch.ones(1, 1, dtype=torch.int64), made)
    return made


# --- caches of transformers -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("transformers", "5", reason="needs transformers 5")
    from tests.test_families import peer

    return peer("llama")


def prompt_of(theirs):
    return [i * 7 % (theirs.config.vocab_size - 1) for i in range(60)]


def test_their_dynamic_cache_is_dense(theirs):
    from transformers import DynamicCache

    found = engaged(theirs, DynamicCache(), prompt_of(theirs), NEW)
    assert set(found.findings) == {"fallback"}
    assert found.held_bytes == found.read_bytes == found.dense_bytes


def test_our_policies_inside_their_model_are_in_use(theirs):
    from kvlab import hf

    made = hf.cache(theirs, Evict(knorm, 20, sink=2, recent=8))
    found = engaged(theirs, made, prompt_of(theirs), NEW)
    assert found.saves_reading and "fallback" not in found.findings
