import pytest
import torch

from kvlab import PerToken, generate
from kvlab.fast import choosing
from kvlab.generation import decode
from kvlab.pack import CodesPerToken
from tests.conftest import tiny_model

PROMPT = list(range(1, 30))


@pytest.fixture
def model():
    return tiny_model(0, torch.float32)


def test_what_an_answer_reads_decides(model, monkeypatch):
    cache = model.new_cache(1, 99)
    step = choosing.step_for(model, cache, 64)
    assert (step.decode, step.how) == (decode, "plain")
    assert step.why.startswith("for up to 64 new tokens the compiled step saves about 0.1 s, and t")
    read = sum(w.nbytes for w in model.parameters()) - model.model.embed_tokens.weight.nbytes
    monkeypatch.setattr(choosing, "LOADING", 63.5 * (3 * choosing.PER_LAYER + 1e-6 * read))
    monkeypatch.setattr(choosing, "PER_BYTE", 1e-6)
    assert choosing.step_for(model, cache, 63).how == "plain"
    step = choosing.step_for(model, cache, 64)
    assert step.how == "compiled" and step.seconds > 0
    fast = generate(model, PROMPT, 64, cache=cache, decode=step.decode, eos=())
    assert torch.equal(fast, generate(model, PROMPT, 64, eos=()))


def test_an_embedding_that_is_the_head_too_is_read():
    tied, own = (tiny_model(0, torch.float32, tie_embeddings=tie) for tie in (True, False))
    assert choosing._read_bytes(tied) == choosing._read_bytes(own)


def test_where_there_is_none_the_plain_one_says_why(model, monkeypatch):
    monkeypatch.setattr(choosing, "LOADING", 0)
    rows = model.new_cache(1, 99, k=PerToken(4), v=PerToken(4))
    assert choosing.step_for(model, rows, 8).how == "compiled"
    codes = model.new_cache(1, 99, k=CodesPerToken(4, 8), v=CodesPerToken(4, 8))
    step = choosing.step_for(model, codes, 8)
    assert (step.decode, step.how) == (decode, "plain") and "CodesPerToken" in step.why
    meta = tiny_model(0, torch.float32, device="meta")
    assert choosing.step_for(meta, codes, 8).why == "the model is on meta"
    monkeypatch.setattr(choosing, "missing", lambda name: "numba is not installed")
    assert choosing.step_for(model, codes, 8).why == "numba is not installed"
