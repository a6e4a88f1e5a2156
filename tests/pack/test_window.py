"""Which tokens are packed, and when, in plain numbers."""

import random

import pytest

from kvlab.pack.window import Window


def test_tokens_are_due_in_groups_when_they_leave_the_window():
    window = Window(sink=2, recent=5, at_once=4, unit=2)
    assert [window.due(n) for n in (0, 7, 10, 11, 14, 15)] == [0, 0, 0, 4, 4, 8]
    assert window.dense_slots(100) == 2 + 2 * 9 and window.dense_slots(7) == 7


@pytest.mark.parametrize("seed", range(60))
def test_every_token_is_where_it_is_said_to_be(seed):
    """Lists take the place of memory: what a rule would pack, and what lies in the dense slots."""
    draw = random.Random(seed)
    unit = draw.choice([1, 3])
    window = Window(draw.randrange(4), draw.randrange(1, 8), unit * draw.randrange(1, 4), unit)
    capacity = draw.randrange(20, 90)
    dense, body, used, stretch = [None] * window.dense_slots(capacity), [], 0, window.empty()
    while used < capacity:
        n_new = min(capacity - used, draw.choice([0, 1, 1, 1, 2, 9, 30]))
        new = list(range(used, used + n_new))
        how = window.entry(used, stretch, n_new, len(dense))
        body += dense[stretch.tail : stretch.tail + how.leaving]
        body += new[how.to_sinks : how.to_sinks + how.through]
        dense[used : used + how.to_sinks] = new[: how.to_sinks]
        stay = dense[how.begin : how.begin + how.staying] + new[n_new - how.joining :]
        assert how.to_sinks + how.through + how.joining == n_new
        assert window.sink <= how.to and how.to + len(stay) <= len(dense)
        dense[how.to : how.to + len(stay)] = stay
        stretch.packed, stretch.tail = stretch.packed + how.leaving + how.through, how.to
        used += n_new
        sinks = min(used, window.sink)
        tail = dense[stretch.tail : stretch.tail + window.tail(used, stretch)]
        assert dense[:sinks] + body + tail == list(range(used))
        assert stretch.packed == len(body) == window.due(used)
        assert min(used - sinks, window.recent) <= len(tail) < window.recent + window.at_once


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ((0, 0, 1), "A window of 0 recent tokens and 0 sinks .* at least 1"),
        ((-1, 1, 1), "-1 sinks"),
        ((0, 1, 0), "packed 0 at a time"),
        ((0, 1, 6, 4), "groups of 4; expected a multiple of 4"),
        ((0, 1, 6, 0), "groups of 0; expected a multiple of 1"),
    ],
)
def test_a_window_that_cannot_be_is_refused(sizes, why):
    with pytest.raises(ValueError, match=why):
        Window(*sizes)
