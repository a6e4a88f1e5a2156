"""What a reader gets of an answer: whole characters, nothing of a stop string, all of the rest."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvlab
from kvlab.serve.stream import Pieces, Stops
from kvlab.tokenizer import Decoding

SPLIT = ["🙂", "👩\u200d🚀 flies", "한글은 좋다", "naïve café 🙃🙃", "a\ufffdb", "العربية"]


@pytest.fixture(scope="module")
def tokenizer():
    return kvlab.load("pocket")[1]


def told(tokenizer, ids, stops=()):
    """Every piece, and what ended it. As a server does, no token is pushed after a stop string."""
    pieces, text = [], Pieces(tokenizer, stops)
    for i in ids:
        pieces.append(text.push(i))
        if text.stopped:
            break
    return [*pieces, text.end()], text.stopped


@pytest.mark.parametrize("text", SPLIT)
def test_characters_of_several_tokens_come_whole(tokenizer, text):
    ids = tokenizer.encode(text, special=False)
    assert len(ids) > len(text.split())
    pieces, _ = told(tokenizer, ids)
    assert "".join(pieces) == text
    assert all("\ufffd" not in p for p in pieces) or "\ufffd" in text


@pytest.mark.parametrize("text", SPLIT)
def test_an_end_inside_a_character_shows_no_part_of_it(tokenizer, text):
    ids = tokenizer.encode(text, special=False)
    for n in range(len(ids)):
        pieces, _ = told(tokenizer, ids[:n])
        whole = tokenizer.decode(ids[:n])
        assert "".join(pieces) == whole.rstrip("\ufffd")
        assert text.startswith("".join(pieces))


def test_bytes_that_are_no_character_come_once_text_follows(tokenizer):
    half = tokenizer.encode("🙂", special=False)[:2]
    ids = [*half, *tokenizer.encode("so", special=False)]
    pieces, _ = told(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids) and "".join(pieces).endswith("so")


def test_a_special_token_is_no_text(tokenizer):
    assert told(tokenizer, [0, *tokenizer.encode("hi", special=False), 0])[0][-1] == ""
    assert "".join(told(tokenizer, [0, *tokenizer.encode("hi", special=False), 0])[0]) == "hi"


@pytest.mark.parametrize("stop", ["queen", "he que", ".", "n l", "castle.", "th", "🙂 i", "글"])
def test_a_stop_string_over_several_tokens_is_never_shown(tokenizer, stop):
    text = "The queen lives in 한글 🙂 in the castle."
    ids = tokenizer.encode(text, special=False)
    pieces, stopped = told(tokenizer, ids, [stop])
    assert stopped == stop and "".join(pieces) == text[: text.index(stop)]
    once = [i for i in range(len(ids)) if stop in tokenizer.decode(ids[: i + 1])]
    assert len(pieces) - 1 == once[0] + 1  # found with the token that completes it


@pytest.mark.parametrize("stop", ["castles", "castle..", ".\n", "castle.🙂"])
def test_what_only_began_a_stop_string_is_shown_at_the_end(tokenizer, stop):
    text = "in the castle."
    pieces, stopped = told(tokenizer, tokenizer.encode(text, special=False), [stop])
    assert stopped is None and "".join(pieces) == text


def test_a_stop_string_in_what_the_end_gives_out_stops_too(tokenizer):
    """A long run of bytes that are no text is looked at now and then only."""
    smile = tokenizer.encode("🙂", special=False)
    ids = [*smile[1:2] * 18, *smile]
    assert "".join(map(Decoding(tokenizer).push, ids)) == ""
    assert told(tokenizer, ids)[0][-1].endswith("🙂")
    pieces, stopped = told(tokenizer, ids, ["🙂"])
    assert ("".join(pieces), stopped) == ("\ufffd" * 18, "🙂")


def test_the_longest_beginning_of_a_stop_string_is_held():
    stops = Stops(["aab"])
    assert [stops.push(c) for c in "xaaab"] == ["x", "", "", "a", ""] and stops.found == "aab"


def one_by_one(text, stops):
    """What is shown of a text when each character is looked at by itself."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    st.lists(st.text("abc", max_size=4), max_size=8),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
)
def test_how_a_text_is_cut_changes_nothing(pieces, stops):
    stopping = Stops(stops)
    shown = [stopping.push(piece) for piece in pieces]
    before = "".join(shown)
    shown.append(stopping.end())
    text, found = one_by_one("".join(pieces), stops)
    assert ("".join(shown), stopping.found) == (text, found)
    if found is None:  # no more was held than had to be
        held = text[len(before) :]
        assert len(held) <= max((len(s) - 1 for s in stops), default=0)
        assert not held or any(s.startswith(held) for s in stops)


def test_any_ids_give_the_text_that_they_decode_to(tokenizer):
    rng = random.Random(3)
    for _ in range(100):
        ids = [rng.randrange(2048) for _ in range(rng.randrange(30))]
        pieces, _ = told(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids).rstrip("\ufffd")


@pytest.mark.parametrize("stops", ["abc", [""], [None], 3, ["a", 4]])
def test_what_is_no_stop_string_is_refused(stops):
    with pytest.raises(ValueError, match=r"stop"):
        Stops(stops)
