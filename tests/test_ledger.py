"""What is counted of a cache, in plain numbers."""

import random

import pytest

from kvlab.ledger import LayerState, Ledger


def states(ledger):
    return [(s.used, s.seen, s.kept_at, s.empty) for s in ledger.layers]


def test_layers_count_for_themselves():
    ledger = Ledger(2, 10)
    ledger.appended(0, 4)
    assert (ledger.used_L, ledger.length, ledger.seen, ledger.most_used) == ((4, 0), 0, 0, 4)
    ledger.appended(1, 4)
    ledger.advanced()
    assert states(ledger) == [(5, 5, 0, 0)] * 2 and ledger.length == ledger.seen == 5
    assert ledger.counts_positions and ledger.in_order and ledger.whole_L == (True, True)


def test_positions_that_are_given_end_the_counting():
    ledger = Ledger(2, 10)
    ledger.appended(1, 3, positions_given=True)
    assert not ledger.counts_positions and not ledger.in_order
    assert ledger.whole_L == (True, False) and ledger[0].in_order
    ledger.appended(1, 2)  # a later one that is not padded does not mend it
    assert ledger.whole_L == (True, False)
    ledger.rewound(0)
    assert ledger.counts_positions and ledger.in_order


def test_an_eviction_leaves_fewer_slots_and_as_many_tokens_seen():
    ledger = Ledger(2, 10)
    for layer in range(2):
        ledger.appended(layer, 8)
    ledger.evicted(0, 5, n_heads=4, n_kept=17)
    assert states(ledger) == [(5, 8, 8, 3), (8, 8, 0, 0)]
    assert (
        sum(state.empty for state in ledger.layers) == 3 and ledger.seen == 8 and ledger.length == 5
    )
    assert ledger.whole_L == (False, True) and not ledger[0].in_order and ledger.counts_positions
    ledger.evicted(0, 4, n_heads=4, n_kept=16)
    assert ledger.whole_L == (True, True) and not ledger.in_order and ledger[0].empty == 0


def test_rewinding_frees_the_latest_slots_of_each_layer():
    ledger = Ledger(2, 20)
    for layer in range(2):
        ledger.appended(layer, 8)
    ledger.evicted(0, 5, 1, 5)
    ledger.appended(0, 6)  # a forward that stopped before the second layer
    assert ledger.rewound(8) == [range(5, 11), range(8, 8)]
    assert states(ledger) == [(5, 8, 8, 0), (8, 8, 0, 0)]
    for layer in range(2):
        ledger.appended(layer, 4)
    assert ledger.rewound(9) == [range(6, 9), range(9, 12)]
    assert ledger.rewound(0) == [range(6), range(9)]
    assert ledger.layers == [LayerState(), LayerState()]


@pytest.mark.parametrize("seen", [-1, 7, 11])
def test_what_was_evicted_or_never_came_cannot_be_rewound_to(seen):
    ledger = Ledger(2, 20)
    for layer in range(2):
        ledger.appended(layer, 8)
    ledger.evicted(1, 5, 1, 5)
    for layer in range(2):
        ledger.appended(layer, 2)
    before = states(ledger)
    why = f"Rewinding to {seen} tokens .* has seen 10, and evicted some after token 8; expected 0"
    with pytest.raises(ValueError, match=why):
        ledger.rewound(seen)
    assert states(ledger) == before
    with pytest.raises(ValueError, match="has seen 0; expected 0"):
        Ledger(1, 4).rewound(1)


def test_capacity_is_that_of_the_fullest_layer():
    ledger = Ledger(2, 10)
    ledger.appended(1, 7)
    ledger.check_capacity(3)
    with pytest.raises(ValueError, match="4 tokens were to be appended, but .* 3 of 10 slots free"):
        ledger.check_capacity(4)
    assert (ledger.check_shrink(None), ledger.check_shrink(9)) == (7, 9)
    for wanted in (6, 11):
        with pytest.raises(ValueError, match=f"Shrinking to {wanted} slots .* 7 are used"):
            ledger.check_shrink(wanted)
    assert Ledger(1, 4).check_shrink(None) == 1  # an empty cache still has memory


def test_a_layer_that_is_not_there_is_refused():
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=f"Layer {layer} was asked for; .* 0 to 1"):
            Ledger(2, 4).appended(layer, 1)


def test_a_copy_goes_its_own_way():
    ledger = Ledger(2, 10)
    ledger.appended(0, 3, positions_given=True)
    twin = ledger.copy(6)
    assert twin.layers == ledger.layers and twin.capacity == 6 and not twin.counts_positions
    assert ledger.copy().capacity == 10
    twin.advanced()
    twin.rewound(0)
    assert ledger.used_L == (3, 0) and not ledger.counts_positions


@pytest.mark.parametrize("seed", range(50))
def test_random_lives_beside_lists_of_tokens(seed):
    """Each layer is a list of heads, a head a list of tokens' numbers, None where it is empty."""
    draw, heads = random.Random(seed), 3
    ledger, layers, given = Ledger(2, 1000), [[[] for _ in range(heads)] for _ in range(2)], 0
    evicted_at = 0
    for _ in range(40):
        what = draw.choice(["append", "append", "evict", "rewind"])
        if what == "append":
            n = draw.randrange(4)
            for i, layer in enumerate(layers):
                ledger.appended(i, n)
                for head in layer:
                    head += range(given, given + n)
            given += n
        elif what == "evict" and ledger.length:
            i = draw.randrange(2)
            kept = [[t for t in h if t is not None and draw.random() < 0.7] for h in layers[i]]
            most = max(map(len, kept))
            ledger.evicted(i, most, heads, sum(map(len, kept)))
            layers[i] = [head + [None] * (most - len(head)) for head in kept]
            evicted_at = given
        elif what == "rewind":
            to = draw.randrange(given + 2)
            if to and not evicted_at <= to <= given:
                with pytest.raises(ValueError, match="Rewinding"):
                    ledger.rewound(to)
                continue
            freed = ledger.rewound(to)
            for layer, slots in zip(layers, freed, strict=True):
                for head in layer:
                    assert slots.stop == len(head)
                    del head[slots.start :]
            given, evicted_at = to, evicted_at if to else 0
        assert ledger.used_L == tuple(len(layer[0]) for layer in layers)
        assert ledger.seen == given
        assert sum(state.empty for state in ledger.layers) == sum(
            t is None for layer in layers for head in layer for t in head
        )
