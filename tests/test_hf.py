"""Policies and packed rows inside models of `transformers`, against our own engine."""

import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from kvlab.policies import (
    adakv,
    criticalkv,
    evictions,
    h2o,
    k_magnitude,
    keydiff,
    knorm,
    snapkv,
    sparsities,
    streaming,
    v_magnitude,
)

from kvlab import Elements, Evict, KVCache, Sparsify, Then, density, greedy, load, needs, stream
from kvlab.generation import decode, prefill
from kvlab.pack import CodesPerChannel, CodesPerToken, PackedKVCache, PerToken
from kvlab.prune import Pruner
from tests.test_families import peer, saved

transformers = pytest.importorskip("transformers", "5", reason="needs transformers 5")
hf = pytest.importorskip("kvlab.hf", exc_type=ImportError)

FAMILIES = ("llama", "mistral", "qwen3")
N_PROMPT, N_SHORT, N_NEW = 44, 37, 5
WINDOW = {"sink": 2, "recent": 4}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Each family once: a model of transformers, and ours with its weights."""
    made = {}

    def pair(family):
        if family not in made:
            theirs = peer(family).double()
            ours, _ = load(saved(theirs, tmp_path_factory.mktemp(family)), dtype="float64")
            made[family] = theirs, ours
        theirs, ours = made[family]
        theirs.set_attn_implementation("sdpa")
        return theirs, ours

    return pair


def prompts(padded):
    """Ids and mask for generate, and the same rows for our engine; no token comes twice in a row.

    A token that comes twice has two keys of one norm in the first layer, so that rounding would
    decide which of them `knorm` keeps.
    """
    draw = torch.Generator().manual_seed(3)
    rows = [
        torch.randperm(101, generator=draw)[:n]
        for n in ((N_PROMPT, N_SHORT) if padded else (N_PROMPT,))
    ]
    ids, mask = (
        torch.zeros(len(rows), N_PROMPT, dtype=torch.int64),
        torch.zeros(len(rows), N_PROMPT),
    )
    for b, row in enumerate(rows):
        ids[b, N_PROMPT - len(row) :], mask[b, N_PROMPT - len(row) :] = row, 1
    return ids, mask.long(), [row.tolist() for row in rows]


def say(model, ids, mask, n_new=N_NEW, **how):
    """Greedy tokens and the logits they were chosen from."""
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=n_new, do_sample=False, pad_token_id=0,
        return_dict_in_generate=True, output_logits=True, **how,
    )  # fmt: skip
    return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, 1)


def read(model, ids, mask, cache):
    """A padded prompt as generate would feed it."""
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache)
    return cache


def ours_say(model, rows, cache, policy, n_new=N_NEW):
    steps = list(stream(model, rows, n_new, cache=cache, prune=policy))
    return torch.stack([s.token_B for s in steps], 1), torch.stack([s.logits_BV for s in steps], 1)


def same(theirs, ours):
    assert torch.equal(theirs[0], ours[0])
    assert (theirs[1] - ours[1]).abs().max() <= 1e-4


def held(kv):
    """What is kept: per layer, row and head the positions, and which elements are not zero."""
    found = []
    for layer, used in enumerate(kv.used_L):
        for b in range(kv.batch):
            for g in range(kv.pos_LBGT.shape[2]):
                pos_T = kv.pos_LBGT[layer, b, g, :used]
                order = pos_T.argsort()[(pos_T < 0).sum() :]
                stores = (x[layer, b, g, order] for x in (kv.k_LBGTD, kv.v_LBGTD))
                found.append([pos_T[order].tolist(), *((x != 0).tolist() for x in stores)])
    return found


def agree(pair, policy, padded, n_new=N_NEW):
    """Same tokens, logits, sets and bytes; returns what was kept."""
    theirs, ours = pair
    ids, mask, rows = prompts(padded)
    kv = ours.new_cache(len(rows), N_PROMPT + n_new)
    want = ours_say(ours, rows, kv, policy, n_new)
    cache = hf.cache(theirs, policy)
    same(say(theirs, ids, mask, n_new, past_key_values=cache), want)
    assert held(cache.kv) == held(kv)
    assert cache.get_seq_length() == N_PROMPT + n_new - 1
    assert density(cache.kv) == density(kv)
    return cache


# --- nothing thinned ----------------------------------------------------------------------------

WHOLE = {
    "no policy": None,
    "all the text": Evict(snapkv, 1.0, **WINDOW),
    "more than the text": Evict(h2o, 64, every=1, **WINDOW),
    "sparsity 0": Sparsify(k=Elements(k_magnitude, 0.0), v=Elements(v_magnitude, 0.0), every=1),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", WHOLE.values(), ids=WHOLE)
def test_what_keeps_all_says_what_plain_generate_says(pairs, family, policy):
    theirs, _ = pairs(family)
    ids, mask, _ = prompts(padded=True)
    want = say(theirs, ids, mask)
    cache = hf.cache(theirs, policy)
    same(say(theirs, ids, mask, past_key_values=cache), want)
    assert cache.live_bytes == 3 * 2 * 2 * (N_PROMPT + N_NEW - 1) * 2 * 8 * 8


def test_the_model_does_with_other_caches_what_it_did(pairs):
    theirs, _ = pairs("qwen3")
    ids, mask, _ = prompts(padded=True)
    want = say(theirs, ids, mask)
    hf.cache(theirs, Evict(knorm, 8, **WINDOW))
    assert theirs.config._attn_implementation == "kvlab"
    for cache in (None, transformers.DynamicCache(config=theirs.config)):
        got = say(theirs, ids, mask, past_key_values=cache)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


# --- the same sets and tokens as in our own engine ----------------------------------------------


@pytest.mark.parametrize(
    ("family", "padded"), [("llama", False), *((family, True) for family in FAMILIES)]
)
@pytest.mark.parametrize("name", evictions(0.5))
def test_tokens_are_evicted_as_in_our_own_engine(pairs, family, padded, name):
    policy = evictions(0.5, **WINDOW)[name]
    cache = agree(pairs(family), policy, padded)
    share = density(cache.kv).tokens
    assert 0.5 < share < 0.6  # half of the prompt, and the answer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sparsities(0.5))
def test_elements_are_zeroed_as_in_our_own_engine(pairs, family, name):
    cache = agree(pairs(family), sparsities(0.5, recent=4, group=8)[name], padded=True)
    left = density(cache.kv)
    assert min(left.k, left.v) < 0.65 and max(left.k, left.v) == 1


EVERY = {
    "streaming": Evict(streaming, 20, every=1, **WINDOW),
    "h2o": Evict(h2o, 20, every=2, **WINDOW),
    "snapkv": Evict(needs(queries=8)(partial(snapkv)), 20, every=2, **WINDOW),
    "adakv": adakv(20, score=needs(queries=8)(partial(snapkv)), every=2, **WINDOW),
    "keyformer": evictions(20, every=1, **WINDOW)["keyformer"],
    "zeros": Sparsify(k=Elements(k_magnitude, 0.5), recent=2, every=2),
    "both": Then(
        adakv(20, score=needs(queries=8)(partial(snapkv)), every=2, **WINDOW),
        Sparsify(v=Elements(v_magnitude, 0.75), recent=2, every=1),
    ),
}


@pytest.mark.parametrize("policy", EVERY.values(), ids=EVERY)
def test_policies_go_on_while_text_is_generated(pairs, policy):
    cache = agree(pairs("llama"), policy, padded=True, n_new=8)
    assert isinstance(policy, Sparsify) or max(density(cache.kv).tokens * 47, 0) < 26


def test_heads_keep_different_numbers(pairs):
    cache = agree(pairs("llama"), adakv(0.5, **WINDOW), padded=True)
    count_BG = (cache.kv.pos_LBGT >= 0).sum(-1)
    assert any(len(set(layer.flatten().tolist())) > 2 for layer in count_BG)


def test_layers_keep_different_numbers_and_memory_fits(pairs):
    cache = agree(pairs("mistral"), evictions(0.5, **WINDOW)["pyramidkv"], padded=False)
    assert cache.kv.used_L[0] > cache.kv.used_L[2]


# --- how text comes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", [EVERY["h2o"], Evict(snapkv, 20, **WINDOW)], ids=["h2o", "snapkv"]
)
def test_a_prompt_in_pieces_is_the_prompt(pairs, policy):
    theirs, _ = pairs("llama")
    ids, mask, _ = prompts(padded=True)
    whole, pieces = hf.cache(theirs, policy), hf.cache(theirs, policy)
    want = say(theirs, ids, mask, past_key_values=whole)
    same(say(theirs, ids, mask, past_key_values=pieces, prefill_chunk_size=15), want)
    assert held(pieces.kv) == held(whole.kv)


def test_a_question_is_read_after_its_text_was_thinned(pairs):
    theirs, ours = pairs("qwen3")
    ids, mask, rows = prompts(padded=True)
    policy, n_text = Evict(snapkv, 20, **WINDOW), N_PROMPT - 3
    cache = hf.cache(theirs, policy)
    read(theirs, ids[:, :n_text], mask[:, :n_text], cache)
    cache.prune()
    assert (cache.kv.pos_LBGT >= 0).sum() == 3 * 2 * 2 * 20
    got = say(theirs, ids, mask, past_key_values=cache)
    kv = ours.new_cache(2, N_PROMPT + N_NEW)
    text, question = [row[:-3] for row in rows], [row[-3:] for row in rows]
    pos_BS = torch.where(
        torch.arange(n_text) < torch.tensor([[n_text], [N_SHORT - 3]]), torch.arange(n_text), -1
    )
    tokens = torch.zeros(2, n_text, dtype=torch.int64)
    for b, row in enumerate(text):
        tokens[b, : len(row)] = torch.tensor(row)
    prefill(ours, tokens, kv, pos_BS=pos_BS, prune=policy)
    same(got, ours_say(ours, question, kv, None))
    assert held(cache.kv) == held(kv)
    with pytest.raises(ValueError, match="not collected since"):
        cache.prune()


def test_a_second_turn_goes_on_from_the_positions_that_were_reached(pairs):
    theirs, ours = pairs("llama")
    ids, mask, rows = prompts(padded=False)
    policy, more = Evict(keydiff, 20, **WINDOW), torch.tensor([[7, 9, 11]])
    cache, kv = hf.cache(theirs, policy), ours.new_cache(1, 80)
    first, _ = say(theirs, ids, mask, past_key_values=cache)
    text = torch.cat((ids, first, more), 1)
    got = say(theirs, text, torch.ones_like(text), past_key_values=cache)
    said, _ = ours_say(ours, rows, kv, policy)
    same(got, ours_say(ours, [[*said[0, -1:].tolist(), 7, 9, 11]], kv, None))
    assert held(cache.kv) == held(kv)
    cache.prune()  # keydiff looks at the cache alone
    assert cache.kv.used_L == (20,) * 3


def test_one_reading_serves_several_policies_and_copies_are_apart(pairs):
    theirs, _ = pairs("llama")
    ids, mask, _ = prompts(padded=True)
    both = Then(Evict(snapkv, 40, **WINDOW), Evict(h2o, 36, **WINDOW))
    first = read(theirs, ids, mask, hf.cache(theirs, both))
    text, longer = torch.cat((ids, ids[:, -1:]), 1), torch.cat((mask, mask[:, -1:]), 1)
    for policy in (Evict(snapkv, 20, **WINDOW), Evict(h2o, 20, every=1, **WINDOW)):
        fork, alone = first.fork(policy), read(theirs, ids, mask, hf.cache(theirs, policy))
        same(*(say(theirs, text, longer, past_key_values=c) for c in (fork, alone)))
        assert held(fork.kv) == held(alone.kv)
    before = held(first.kv)
    say(theirs, text, longer, past_key_values=copy.deepcopy(first))
    assert held(first.kv) == before
    with pytest.raises(ValueError, match="Fork before that"):
        fork.fork(policy)
    with pytest.raises(ValueError, match="this pruner collected 32 queries"):
        first.fork(Evict(needs(queries=40)(partial(snapkv)), 20, **WINDOW))


# --- bytes --------------------------------------------------------------------------------------


def test_bytes_are_those_that_are_kept_and_memory_shrinks_with_them(pairs):
    theirs, _ = pairs("llama")
    ids = torch.arange(400)[None] % 101
    cache = hf.cache(theirs, Evict(knorm, 20, **WINDOW))
    assert (cache.live_bytes, cache.allocated_bytes, cache.kv) == (0, 0, None)
    with torch.no_grad():
        theirs(ids, past_key_values=cache)
    token = 3 * 2 * 2 * 8 * 8
    assert cache.live_bytes == 400 * token <= cache.allocated_bytes
    cache.prune()
    assert cache.live_bytes == 20 * token <= cache.allocated_bytes <= 100 * token
    with torch.no_grad():
        theirs(ids, past_key_values=cache)  # more than it has room for
    assert cache.live_bytes == 420 * token <= cache.allocated_bytes
    assert cache.get_seq_length() == 800
    cache.reset()
    assert (cache.live_bytes, cache.get_seq_length()) == (0, 0)


def test_memory_is_taken_once_where_a_capacity_is_given(pairs):
    theirs, _ = pairs("llama")
    ids, mask, _ = prompts(padded=True)
    cache = hf.cache(theirs, Evict(knorm, 20, **WINDOW), capacity=N_PROMPT)
    say(theirs, ids, mask, past_key_values=cache)  # what was evicted made room for the answer
    assert cache.allocated_bytes == N_PROMPT * 3 * 2 * 2 * 2 * 8 * 8
    small = hf.cache(theirs, capacity=N_PROMPT + 1)
    say(theirs, ids, mask, 2, past_key_values=small)
    before = held(small.kv)
    more, longer = torch.cat((ids, ids[:, -3:]), 1), torch.cat((mask, mask[:, -3:]), 1)
    with pytest.raises(ValueError, match="0 of 45 slots free"):
        say(theirs, more, longer, past_key_values=small)
    assert held(small.kv) == before


RULES = {
    "rows": {"k": PerToken(4), "v": PerToken(4), "recent": 8, "at_once": 4},
    "kivi": {
        "k": CodesPerChannel(4, 8),
        "v": CodesPerToken(4, 8),
        "recent": 8,
        "at_once": 8,
    },
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("padded", [False, True], ids=["alone", "padded"])
def test_packed_rows_are_those_of_our_own_engine(pairs, rules, padded):
    theirs, ours = pairs("llama")
    ids, mask, rows = prompts(padded)
    n = N_PROMPT + N_NEW
    sizes = (3, len(rows), 2, n, 8)
    kv = PackedKVCache(*sizes, dtype=torch.float64, **rules)
    cache = hf.cache(theirs, storage=rules, capacity=n)
    got = say(theirs, ids, mask, past_key_values=cache)
    if not padded:  # padding comes first there and last here, and fills other groups
        same(got, ours_say(ours, rows, kv, None))
        assert cache.live_bytes == kv.live_bytes
    dense = hf.cache(theirs, capacity=n)
    want = say(theirs, ids, mask, past_key_values=dense)
    assert cache.live_bytes < 0.8 * dense.live_bytes
    differ = (got[1] - want[1]).abs().amax((0, 2))
    assert differ[0] <= 1e-6 < differ[2]  # the prompt was read before it was packed


def test_storage_by_its_old_names_is_the_same_with_a_warning_each(pairs):
    theirs, _ = pairs("llama")
    old = {"k_rule": PerToken(4), "v_rule": PerToken(4), "recent": 8, "every": 4}
    with pytest.warns(FutureWarning) as seen:
        cache = hf.cache(theirs, packed=old, capacity=50)
    assert [str(w.message).split(";")[0] for w in seen] == [
        "packed= is now storage=", "k_rule= is now k=", "v_rule= is now v=",
        "every= is now at_once=",
    ]  # fmt: skip
    assert {w.filename for w in seen} == {__file__}
    theirs(torch.arange(20)[None] % 50, past_key_values=cache)
    assert cache.kv.rules == (PerToken(4), PerToken(4)) and cache.kv.at_once == 4


def test_what_a_policy_left_is_packed(pairs):
    theirs, ours = pairs("llama")
    ids, mask, rows = prompts(padded=True)
    policy = Evict(keydiff, 24, **WINDOW)
    cache = hf.cache(theirs, policy, storage=RULES["rows"], capacity=N_PROMPT + N_NEW)
    got = say(theirs, ids, mask, past_key_values=cache)
    kv = ours.new_cache(2, N_PROMPT + N_NEW)
    steps = list(stream(ours, rows, 1, cache=kv, prune=policy))
    packed = PackedKVCache.of(kv, **RULES["rows"])
    tokens, logits = [steps[0].token_B], [steps[0].logits_BV]
    for _ in range(N_NEW - 1):
        with torch.no_grad():
            logits.append(decode(ours, tokens[-1], packed))
        tokens.append(greedy(logits[-1]))
    same(got, (torch.stack(tokens, 1), torch.stack(logits, 1)))
    assert isinstance(cache.kv, PackedKVCache)
    assert cache.live_bytes == packed.live_bytes
    assert torch.equal(cache.kv.pos_LBGT, packed.pos_LBGT)


# --- what cannot work ---------------------------------------------------------------------------


def other(kind, **changes):
    """A tiny model of another make; nothing of it is ever run."""
    sizes = {
        "vocab_size": 31, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **changes})
    return getattr(transformers, f"{kind}ForCausalLM")(config)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: other("Mistral", sliding_window=8), "sliding_window = 8"),
        (lambda: other("Gemma2"), "'gemma2'"),
        (lambda: torch.nn.Linear(2, 2), "A Linear came"),
        (lambda: torch.compile(other("Llama")), "OptimizedModule came"),
    ],
)
def test_models_that_would_run_wrongly_are_refused(make, said):
    model = make()
    before = getattr(model, "config", None) and model.config._attn_implementation
    with pytest.raises(ValueError, match=said):
        hf.cache(model, Evict(knorm, 40))
    assert before is None or model.config._attn_implementation == before != "kvlab"


def test_a_model_that_compile_changed_is_refused():
    model = other("Llama")
    model.compile(backend="eager")
    with pytest.raises(ValueError, match="was compiled"):
        hf.cache(model, Evict(knorm, 40))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"policy": knorm}, "came as a policy"),
        ({"policy": Evict(knorm, 40), "capacity": 0}, "capacity is 0"),
        ({"storage": RULES["rows"]}, "give it capacity="),
        ({"policy": Evict(knorm, 40, every=2), "storage": RULES["rows"], "capacity": 9}, "every=0"),
        ({"storage": {"k": PerToken(4)}, "capacity": 9}, "v missing"),
        ({"storage": {"k": PerToken(9), "v": PerToken(9)}, "capacity": 9}, "9"),
    ],
)
def test_policies_and_storage_that_cannot_work_are_refused(pairs, how, said):
    theirs, _ = pairs("llama")
    with pytest.raises(ValueError, match=said):
        hf.cache(theirs, **how)
    assert theirs.config._attn_implementation == "sdpa"


def test_a_score_that_reads_quantised_weights_is_refused():
    model = other("Llama")
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight = torch.nn.Parameter(
            torch.zeros(16, 16, dtype=torch.uint8), requires_grad=False
        )
    with pytest.raises(ValueError, match=r"torch.uint8"):
        hf.cache(model, Evict(criticalkv, 40))
    hf.cache(model, Evict(knorm, 40))


@pytest.mark.parametrize(
    ("how", "said", "read"),
    [
        ({"prompt_lookup_num_tokens": 2}, "Assisted decoding", False),
        ({"cache_implementation": "static"}, "cache_implementation", False),
        ({"num_beams": 2}, "num_beams=1", True),
    ],
)
def test_ways_to_generate_that_cannot_work_are_refused(pairs, how, said, read):
    theirs, _ = pairs("llama")
    ids, mask, _ = prompts(padded=False)
    cache = hf.cache(theirs, Evict(knorm, 20, **WINDOW))
    with pytest.raises(ValueError, match=said):
        theirs.generate(ids, attention_mask=mask, max_new_tokens=3, past_key_values=cache, **how)
    assert (cache.kv is not None) == read


def wrong_forwards():
    ids, mask, _ = prompts(padded=True)
    full = torch.ones(2, 1, N_PROMPT, N_PROMPT, dtype=torch.bool).tril()
    return {
        "positions": ({"input_ids": ids, "attention_mask": mask}, "position_ids do not count"),
        "4D mask": ({"input_ids": ids, "attention_mask": full}, "mask of four axes"),
    }


@pytest.mark.parametrize("name", wrong_forwards())
def test_a_forward_that_would_be_wrong_is_refused_before_anything_is_read(pairs, name):
    theirs, _ = pairs("llama")
    how, said = wrong_forwards()[name]
    cache = hf.cache(theirs, Evict(knorm, 20, **WINDOW))
    with pytest.raises(ValueError, match=said), torch.no_grad():
        theirs(**how, past_key_values=cache)
    assert cache.kv is None
    ids, mask, _ = prompts(padded=True)
    say(theirs, ids, mask, past_key_values=cache)  # and the cache can still be used


def test_what_does_not_go_with_what_was_read_is_refused(pairs):
    theirs, _ = pairs("llama")
    ids, mask, _ = prompts(padded=True)
    cache = hf.cache(theirs, Evict(knorm, 20, **WINDOW))
    say(theirs, ids, mask, past_key_values=cache)
    before, token = held(cache.kv), ids[:, -1:]
    wrong = [
        (theirs, {"input_ids": token[:1]}, "1 rows came to a cache of 2"),
        (theirs, {"input_ids": ids, "attention_mask": mask}, "covers fewer tokens"),
        (pairs("qwen3")[0], {"input_ids": token}, "knows nothing of this cache"),
    ]
    for model, how, said in wrong:
        if model is not theirs:
            hf.cache(model)  # its attention is ours, but the cache is another model's
            said = "another model"
        theirs.set_attn_implementation("kvlab")
        with pytest.raises(ValueError, match=said), torch.no_grad():
            model(**how, past_key_values=cache)
    theirs.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="knows nothing of this cache"), torch.no_grad():
        theirs(token, past_key_values=cache)
    assert held(cache.kv) == before


def test_a_share_smaller_than_what_is_protected_keeps_that(pairs):
    theirs, _ = pairs("llama")
    ids, mask, _ = prompts(padded=False)
    cache = hf.cache(theirs, Evict(knorm, 0.1, **WINDOW))
    n_new = say(theirs, ids, mask, past_key_values=cache)[0].shape[1]
    kept = WINDOW["sink"] + WINDOW["recent"]
    assert 4 < kept < N_PROMPT and cache.kv.used_L == (kept + n_new - 1,) * 3


@pytest.mark.parametrize("padded", [False, True])
def test_a_used_cache_says_that_it_is_used(pairs, padded):
    theirs, _ = pairs("llama")
    ids, mask, _ = prompts(padded=padded)
    cache = hf.cache(theirs, Evict(knorm, 20, **WINDOW))
    first, _ = say(theirs, ids, mask, past_key_values=cache)
    seen = cache.kv.seen
    with pytest.raises(ValueError, match=f"has seen {seen} tokens: .* make a new one, or call"):
        say(theirs, ids, mask, past_key_values=cache)
    cache.reset()
    assert torch.equal(say(theirs, ids, mask, past_key_values=cache)[0], first)


def test_a_forward_that_stopped_halfway_is_noticed(pairs):
    theirs, _ = pairs("llama")
    ids, mask, _ = prompts(padded=False)
    cache = hf.cache(theirs, Evict(h2o, 20, **WINDOW))

    def stop(*_):
        raise RuntimeError("stopped")

    hook = theirs.model.layers[1].mlp.register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="stopped"):
        say(theirs, ids, mask, past_key_values=cache)
    hook.remove()
    with pytest.raises(ValueError, match=r"reset\(\)"):
        say(theirs, ids, mask, past_key_values=cache)
    cache.reset()
    again = say(theirs, ids, mask, past_key_values=cache)
    same(again, say(theirs, ids, mask, past_key_values=hf.cache(theirs, Evict(h2o, 20, **WINDOW))))


def test_a_cache_on_the_device_says_the_same(device):
    theirs = peer("llama").to(device)
    ids, mask, _ = prompts(padded=True)
    for policy in (None, adakv(20, **WINDOW), Evict(h2o, 20, every=2, **WINDOW)):
        cache = hf.cache(theirs, policy)
        said, _ = say(theirs, ids.to(device), mask.to(device), past_key_values=cache)
        assert said.device.type == cache.kv.k_LBGTD.device.type == device


def test_a_pruner_of_our_own_model_takes_the_same_cache(pairs):
    """What was collected inside transformers is what our own engine collects."""
    theirs, ours = pairs("llama")
    ids, _, _ = prompts(padded=False)
    cache, kv = hf.cache(theirs, Evict(h2o, 20, **WINDOW)), ours.new_cache(1, N_PROMPT)
    pruner = Pruner(ours, kv, Evict(h2o, 20, **WINDOW))
    with torch.no_grad():
        theirs(ids, past_key_values=cache)
        with pruner:
            prefill(ours, ids, kv)
    pruner.prune()
    cache.prune()
    assert held(cache.kv) == held(kv)
    assert isinstance(cache.kv, KVCache)


WITHOUT = """
import sys
sys.modules["transformers"] = None
try:
    import kvlab.hf
except ImportError as error:
    print(error)
"""


def test_without_transformers_one_sentence_says_so():
    out = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == hf.WANTED and "pip install" in hf.WANTED
