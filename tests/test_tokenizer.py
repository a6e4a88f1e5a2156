import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers

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
