import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers

from kvlab import Tokenizer, load
from kvlab.checks import told

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
        for refuse in (tokenizer.decode, tokenizer.pieces):
            with pytest.raises(ValueError, match="A token id is .*; expected whole numbers of one"):
                refuse(wrong)


def test_an_id_without_a_token_is_named_and_a_stream_leaves_it_out(pocket):
    for refuse in (pocket.decode, pocket.pieces):
        for wrong in ([10**6], torch.tensor([1, 2048])):
            with pytest.raises(ValueError, match=r"no token \d+; the tokenizer has 2048"):
                refuse(wrong)
        for wrong in (None, "12", b"12", object()):
            with pytest.raises(ValueError, match="ids is .* expected several"):
                refuse(wrong)
    ids = pocket.encode("The cat", special=False)
    # a model may have more rows than its tokenizer has tokens
    assert "".join(pocket.stream([2048, *ids, 10**6])) == "The cat"
    with pytest.raises(ValueError, match="A token id is -1"):
        list(pocket.stream([-1]))


def test_a_text_is_text(pocket):
    for wrong in (None, 5, b"a", ["a"]):
        with pytest.raises(ValueError, match=rf"is a {type(wrong).__name__}; expected one str"):
            pocket.encode(wrong)
    assert pocket("The cat") == pocket.encode("The cat")
    assert pocket("The cat", special=False) == pocket.encode("The cat", special=False)


@pytest.mark.parametrize(
    "model", [models.WordLevel({"a": 0}), models.Unigram([("a", -1.0)], None)], ids=["words", "uni"]
)
def test_a_vocabulary_without_an_unknown_token_says_what_it_cannot_spell(model):
    with pytest.raises(ValueError, match=r"cannot spell 'b' and has none for the unknown"):
        Tokenizer(Inner(model)).encode("b")
    assert Tokenizer(Inner(model)).encode("a") == [0]


def metaspace():
    """As sentencepiece spells: a space belongs to the word after it."""
    words = ["<unk>", "▁", "▁the", "▁cat", "s", "▁queen", "é", "<eos>"]
    inner = Inner(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(["<eos>"])
    return Tokenizer(inner)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 7), max_size=50), one=st.sampled_from(range(8)))
def test_a_stream_of_words_is_what_they_decode_to(ids, one):
    tokenizer = metaspace()
    for given_ids in (ids, [one] * 40 + ids):
        assert "".join(tokenizer.stream(given_ids)) == tokenizer.decode(given_ids)


class Counting:
    """A tokenizer of the library that counts the ids it decodes."""

    def __init__(self, inner):
        self.inner, self.n_ids = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def decode(self, ids, **how):
        self.n_ids += len(ids)
        return self.inner.decode(ids, **how)


@pytest.mark.parametrize("what", ["parts of characters", "ends", "whole and in parts"])
def test_a_long_stream_costs_as_much_as_it_is_long(pocket, what):
    part = pocket.encode("\U0001f642", special=False)[0]
    word = pocket.encode("cat", special=False)[0]
    run = {"parts of characters": [part], "ends": [0], "whole and in parts": [part] * 9 + [word]}
    for n in (1000, 4000):
        ids = (run[what] * n)[:n]
        tokenizer = Tokenizer(Counting(pocket.inner))
        text = "".join(tokenizer.stream(ids))
        assert text == pocket.decode(ids) and tokenizer.inner.n_ids < 60 * n
    assert "\ufffd" in text or what == "ends"


def test_a_tokenizer_file_is_refused_in_few_words(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"version": "' + "x" * 5000 + '"}')
    with pytest.raises(ValueError, match="is not a readable tokenizer.json") as caught:
        Tokenizer.from_file(path)
    assert len(str(caught.value)) < 500


def test_what_the_library_panics_at_is_refused(tmp_path):
    """Found by tests.fuzz: it is no Exception that comes out of Rust."""

    class Panic(BaseException):
        pass

    for error in (Panic("range end index"), Exception("bare")):
        said = pytest.raises(ValueError, match=rf"This cannot be \({error}\)\.")
        with said, told("This cannot be"):
            raise error
    with pytest.raises(KeyboardInterrupt), told("This cannot be"):
        raise KeyboardInterrupt


def test_what_a_training_left_of_padding_and_cutting_is_not_done_to_prompts(pocket, tmp_path):
    inner = Inner.from_str(pocket.inner.to_str())
    text = "What is the capital of France?"
    want = pocket.encode(text)
    inner.enable_padding(length=50)
    inner.enable_truncation(max_length=3)
    inner.save(str(tmp_path / "tokenizer.json"))
    assert len(inner.encode(text).ids) == 50
    assert Tokenizer.from_file(tmp_path / "tokenizer.json").encode(text) == want
    assert Tokenizer(inner).encode(text) == want
