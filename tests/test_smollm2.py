"""A trained model, SmolLM2-135M-Instruct, says what it says in `transformers`, run in any way."""

import pytest
import torch

from kvlab import Evict, generate, hub, load, stream
from kvlab.generation import prefill
from kvlab.prune.scores import snapkv

transformers = pytest.importorskip("transformers", "5", reason="needs transformers 5")
if not hub.NAMED["smollm2"].is_dir():
    pytest.skip(hub.UNFETCHED, allow_module_level=True)

N_NEW, N_AFTER_EVICTION = 256, 48
CLOSE = 1e-3  # logits that rounding may order either way; ours and theirs differ by 1e-4 at most
QUESTIONS = (
    "What is the capital of France?",
    "Write a story about a lighthouse keeper who finds a letter in a bottle.",
    "Explain in three sentences why the sky is blue at noon and red in the evening.",
)


@pytest.fixture(scope="module")
def ours():
    return load("smollm2")


@pytest.fixture(scope="module")
def theirs():
    model = transformers.AutoModelForCausalLM.from_pretrained(hub.NAMED["smollm2"])
    return model.float().eval()


@pytest.fixture(scope="module")
def prompts(ours):
    form = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [ours[1].encode(form.format(question)) for question in QUESTIONS]


@torch.inference_mode()
def their_choices(theirs, prompt, answer):
    """How far each of our tokens' logits is from the best one's, by their logits of the text."""
    text = torch.tensor([prompt + answer])
    logits_NV = theirs(text).logits[0, len(prompt) - 1 : -1]
    return logits_NV.amax(-1) - logits_NV.gather(-1, torch.tensor(answer)[:, None])[:, 0]


def test_it_answers(ours, prompts):
    model, tokenizer = ours
    assert tokenizer.decode(generate(model, prompts[0], 12)) == "The capital of France is Paris."


def test_rows_of_different_lengths_decode_as_transformers_would(ours, theirs, prompts):
    tokens_BN = generate(ours[0], prompts, N_NEW, eos=())
    assert len({len(prompt) for prompt in prompts}) == len(prompts)
    for prompt, row in zip(prompts, tokens_BN.tolist(), strict=True):
        assert their_choices(theirs, prompt, row).amax() < CLOSE


def test_a_prompt_in_chunks_gives_their_logits(ours, theirs, prompts):
    model, prompt = ours[0], prompts[0] + prompts[1] + prompts[2]
    cache = model.new_cache(1, len(prompt))
    for start in range(0, len(prompt), 17):
        logits_BV = prefill(model, torch.tensor([prompt[start : start + 17]]), cache)
    with torch.inference_mode():
        want_BV = theirs(torch.tensor([prompt])).logits[:, -1]
    assert torch.allclose(logits_BV, want_BV, atol=5e-4)


def test_what_the_docs_say_of_caches_in_use_on_it(ours, theirs):
    """docs/pruning.md, "Is it on?"; bytes are the same on every machine."""
    from kvlab import PerToken, hf
    from kvlab.measure import engaged

    model, tokenizer = ours
    line = "The lighthouse keeper wrote every evening into a book what the sea had brought. "
    text, policy = tokenizer.encode(line * 30)[:400], Evict(snapkv, 100)
    rows = {"k": PerToken(19), "v": PerToken(19), "sink": 4}
    evicted = engaged(model, model.new_cache(1, 408), text, prune=policy)
    packed = engaged(model, model.new_cache(1, 408, **rows), text)
    inside = engaged(theirs, hf.cache(theirs, policy), text)
    shares = [
        round(100 * part / found.dense_bytes)
        for found in (evicted, inside, packed)
        for part in (found.held_bytes, found.read_bytes)
    ]
    assert shares == [100, 26, 52, 26, 61, 42]
    assert set(evicted.findings) == {"slack"}


@pytest.mark.slow
def test_after_an_eviction_each_of_256_tokens_is_theirs_through_our_cache(ours, theirs, prompts):
    """Ours step by step, compiled; their model reads the evicted prompt and then our answer."""
    from kvlab import compiled_decode, hf

    policy, prompt = Evict(snapkv, budget=64), prompts[0] + prompts[2] + prompts[1]
    cache = ours[0].new_cache(1, len(prompt) + N_NEW)
    how = {"cache": cache, "decode": compiled_decode(ours[0], cache), "prune": policy, "eos": ()}
    tokens = generate(ours[0], prompt, N_NEW, **how)[0].tolist()
    inside = hf.cache(theirs, policy)
    with torch.inference_mode():
        first_V = theirs(torch.tensor([prompt]), past_key_values=inside).logits[0, -1]
        inside.prune()
        after_NV = theirs(torch.tensor([tokens[:-1]]), past_key_values=inside).logits[0]
    logits_NV = torch.cat([first_V[None], after_NV])
    chosen_N = logits_NV.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    assert (logits_NV.amax(-1) - chosen_N).amax() < CLOSE
    assert inside.kv.used_L[0] == 64 + N_NEW - 1 == cache.used_L[0]


def test_after_an_eviction_their_model_says_the_same_through_our_cache(ours, theirs, prompts):
    from kvlab import hf

    policy = Evict(snapkv, budget=64)
    prompt = prompts[0] + prompts[2] + prompts[1]
    steps = list(stream(ours[0], prompt, N_AFTER_EVICTION, prune=policy, eos=()))
    cache = hf.cache(theirs, policy)
    out = theirs.generate(
        torch.tensor([prompt]), past_key_values=cache, do_sample=False, use_cache=True,
        max_new_tokens=N_AFTER_EVICTION, min_new_tokens=N_AFTER_EVICTION, pad_token_id=0,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    for step, want_BV in zip(steps, out.logits, strict=True):
        assert torch.allclose(step.logits_BV, want_BV, atol=2e-3)
    assert [int(step.token_B) for step in steps] == out.sequences[0, len(prompt) :].tolist()
