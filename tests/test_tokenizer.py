import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers

from kvlab import Tokenizer, load

STRANGE = ["\U0001f642 naïve", "السلام عليكم", "a\x00b", "\t\n  x", "日本語", "e\u0301", "<eos>x"]


@pytest.fixture(scope="module")
def pocket():
    return load("pocket")[1]


@pytest.mark.parametrize("text", STRANGE)
def test_byte_level_text_comes_back_whole(pocket, text):
    ids = pocket.encode(text, special=False)
    assert pocket.decode(ids, special=True) == text


@pytest.mark.parametrize("text", STRANGE[:-1])
def test_a_stream_gives_whole_characters_and_the_whole_text(pocket, text):
    ids = pocket.encode(text, special=False)
    pieces = list(pocket.stream(iter(ids)))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_special_tokens_are_the_tokenizers_own_and_can_be_left_out(pocket):
    with_bos, without = pocket.encode("Hello"), pocket.encode("Hello", special=False)
    assert with_bos == [0, *without]
    assert pocket.decode(with_bos) == "Hello" and pocket.pieces(with_bos)[0] == "<eos>"
    assert pocket.encode("", special=False) == []


def test_text_that_a_vocabulary_cannot_spell_is_named():
    words = Inner(models.WordLevel({"hello": 0, "<unk>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert Tokenizer(words).encode("hello hello") == [0, 0]
    with pytest.raises(ValueError, match=r"'\U0001f642' \(U\+1F642\)"):
        Tokenizer(words).encode("hello \U0001f642")
    silent = Inner(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(ValueError, match=r"'c' \(U\+0063\)"):
        Tokenizer(silent).encode("abc")


def test_the_size_is_that_of_the_vocabulary(pocket):
    assert len(pocket) == load("pocket")[0].config.vocab_size


def byte_fallback():
    """As Llama 2 spells: what is not in the vocabulary becomes its bytes."""
    ids = {"<unk>": 0, "a": 1, "▁": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}}
    inner = Inner(models.BPE(ids, [], unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence(steps)
    return Tokenizer(inner)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 258), max_size=20))
def test_any_ids_can_be_streamed(pocket, ids):
    """A model may say bytes that are no text: the stream goes on, and drops nothing."""
    assert "".join(pocket.stream(ids)) == pocket.decode(ids)
    list(byte_fallback().stream(ids))


@pytest.mark.parametrize("text", STRANGE)
def test_a_byte_fallback_vocabulary_spells_and_streams_everything(text):
    tokenizer = byte_fallback()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == "".join(tokenizer.stream(ids)) == text


def test_an_unknown_character_of_a_unigram_vocabulary_is_named():
    pieces = Inner(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    assert Tokenizer(pieces).encode("aa") == [1, 1]
    with pytest.raises(ValueError, match=r"'c' \(U\+0063\)"):
        Tokenizer(pieces).encode("aca")


def test_half_a_character_is_named(pocket):
    with pytest.raises(ValueError, match="half a character"):
        pocket.encode("a\udcff")


def test_one_row_of_a_batch_is_decoded_as_its_ids():
    _, tokenizer = load("pocket")
    ids = tokenizer.encode("The cat sat.")
    for row in (ids, tuple(ids), torch.tensor(ids), torch.tensor([ids]), [ids], iter(ids)):
        assert tokenizer.decode(row) == "The cat sat."
    assert tokenizer.decode(torch.tensor(ids[1])) == tokenizer.decode([ids[1]])
    for wrong in (torch.tensor([ids, ids]), [-1], [1.5], [None], [2**40]):
        with pytest.raises(ValueError, match="A token id is .*; expected whole numbers of one row"):
            tokenizer.decode(wrong)
