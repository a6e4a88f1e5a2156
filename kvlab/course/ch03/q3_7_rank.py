"""3.7: which heads a model needs, and which cover for each other."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

from kvlab.course.author import AtMost, Exercise, LentFunction, named, per_thread

Q = Exercise(
    "3.7",
    "Which heads does the pocket model need?",
    "rank_heads",
    points=5,
    minutes=25,
    difficulty=3,
    statement="""
To the section "Which heads matter?". You get `score`, a function that runs a model with some of its heads taken away and tells how many of
its answers are still right. `score([])` takes nothing away; `score([[2, 0]])` takes away head 0 of layer 2, `score([[2, 0], [2, 1]])`
heads 0 and 1 of that layer. `score` takes a list of heads, each of them a list `[layer, head]` (not a tuple). The model has `n_layers` layers of `n_heads` heads. What a head costs is `score([])` minus the score without this
head alone.

Return two lists:

- `ranking`: all heads, each as `[layer, head]`, the costliest first; of two that cost the same, the one of the lower layer first,
  then the lower head. A cost may be below 0: some models answer better without a head.
- `covered`: the layers, in ascending order, whose heads cover for each other. No head of such a layer alone costs more than a tenth
  of `score([])`, and all its heads together cost more than half of it.

A score takes a moment: ask for 1 + n_layers · n_heads + n_layers scores at most.

Two layers of two heads: `score([])` is 20, each head of layer 0 costs 1 alone and both together 15; head 0 of layer 1 costs 12, head
1 nothing, both 12. Then the ranking is `[[1, 0], [0, 0], [0, 1], [1, 1]]`, and layer 0 is covered. Before you run the check, write down which
layer of the pocket model you expect in `covered`: the last cases are the pocket model's, answering with codes.
""",
    hints=(
        "Which lists does `score` have to be called with, all in all? Each head is put back before the next is taken.",
        "Store score([]) once. cost[l, h] = whole - score([[l, h]]), and for each layer whole - score of all its heads. "
        "Python's sorted is stable: sort heads, in order of layer and head, by minus their cost.",
        "heads = [[l, h] for l in range(n_layers) for h in range(n_heads)]; ranking = sorted(heads, key=lambda at: "
        "-cost[tuple(at)]); layer l is covered if max(cost of its heads) * 10 <= whole and "
        "(whole - score([[l, h] for h in range(n_heads)])) * 2 > whole",
    ),
    size=lambda case: case["whole"] * len(case["costs"][0]),
)
RESULTS = ("ranking", "covered")


@Q.case
def case(rng):
    """Layers of every kind in one model, in any order, each bound met from both sides."""
    whole, n_heads = 10 * rng.randint(9, 14), rng.choice([6, 8])
    tenth, half = whole // 10, whole // 2
    small = [rng.randint(0, tenth) for _ in range(n_heads - 1)]
    layers = [
        ([tenth, *small], half + 1),  # covered, at both bounds
        ([tenth, *small], half),  # all together cost no more than half
        ([tenth + 1, *small], whole),  # a head costs too much alone
        ([-tenth - rng.randint(1, 3), *small], whole),  # covered: a head may cost less than nothing
        ([-1, *small], 0),  # nothing is needed
        ([whole - 1, *small], whole),  # one head carries the layer
        (
            [tenth] * n_heads,
            half,
        ),  # the heads' costs add up to more than half, and are less together
    ]
    rng.shuffle(layers)
    for costs, _ in layers:
        rng.shuffle(costs)
    return {
        "whole": whole,
        "costs": [costs for costs, _ in layers],
        "together": [all_costs for _, all_costs in layers],
    }


def _scored(case):
    """A model as a table: what its heads cost alone, and a layer's together."""

    def score(off):
        lost, gone = 0, {tuple(at) for at in off}
        for layer, costs in enumerate(case["costs"]):
            heads = [h for i, h in gone if i == layer]
            whole_layer = len(heads) == len(costs)
            lost += case["together"][layer] if whole_layer else sum(costs[h] for h in heads)
        return max(0, case["whole"] - lost)

    return score


@per_thread
def _pocket():
    """The pocket model, and prompts that ask it for one code of three."""
    from kvlab.checkpoint import load
    from kvlab.pocket.questions import recall_items

    model, tokenizer = load("pocket")
    return model, recall_items(tokenizer.inner, 3, 16, 3, 60, "code")


@cache
def _of_the_pocket(off):
    """How many codes of 16 the pocket model knows with some heads' outputs at 0."""
    from contextlib import ExitStack

    from kvlab.course.plugging import own_attention
    from kvlab.pocket.questions import right

    model, items = _pocket()
    with ExitStack() as plugs:
        for layer in {i for i, _ in off}:
            heads = [h for i, h in off if i == layer]

            def without(q_BHSD, k_BGTD, v_BGTD, heads=heads):
                out_BHSD = F.scaled_dot_product_attention(
                    q_BHSD, k_BGTD, v_BGTD, is_causal=True, enable_gqa=True
                )
                return out_BHSD.index_fill(1, torch.tensor(heads), 0.0)

            plugs.enter_context(own_attention(model, without, [layer]))
        return sum(right(model, items))


@Q.solution
def rank_heads(score, n_layers, n_heads):
    """Return ranking, [layer, head] from the costliest on, and the layers that are covered."""
    ### BEGIN SOLUTION
    whole = score([])
    cost, covered = {}, []
    for layer in range(n_layers):
        heads = [(layer, head) for head in range(n_heads)]
        for at in heads:
            cost[at] = whole - score([list(at)])
        together = whole - score([list(at) for at in heads])
        if 10 * max(cost[at] for at in heads) <= whole and 2 * together > whole:
            covered.append(layer)
    ranking = sorted(cost, key=lambda at: -cost[at])
    return [list(at) for at in ranking], covered
    ### END SOLUTION


@Q.also_right
def by_table(score, n_layers, n_heads):
    full = score([])
    table = torch.tensor([[score([[i, j]]) for j in range(n_heads)] for i in range(n_layers)])
    order = table.flatten().sort(stable=True).indices.tolist()
    layers = torch.tensor([score([[i, j] for j in range(n_heads)]) for i in range(n_layers)])
    alone_enough = table.min(1).values >= 0.9 * full - 1e-9
    covered = (alone_enough & (layers < 0.5 * full)).nonzero().flatten().tolist()
    return [[n // n_heads, n % n_heads] for n in order], covered


def _bounded(score, n_layers, n_heads):
    """`score` as it is lent: it refuses what is no list of heads."""

    def asked(off):
        heads = off if isinstance(off, list) else None
        if heads is None or not all(isinstance(at, list) and len(at) == 2 for at in heads):
            raise ValueError("score takes a list of heads, each as [layer, head]: score([[2, 0]])")
        for layer, head in heads:
            if type(layer) is not int or type(head) is not int:
                raise ValueError(f"layer and head are whole numbers; {[layer, head]!r} came")
            if not (0 <= layer < n_layers and 0 <= head < n_heads):
                raise ValueError(f"there is no head {[layer, head]}: both count from 0")
        return score([tuple(at) for at in heads])

    return LentFunction(asked)


def _ranked(answer, case, part):
    n_layers, n_heads = len(case["costs"]), len(case["costs"][0])
    lent = _bounded(_scored(case), n_layers, n_heads)
    return {part: named(answer(lent, n_layers, n_heads), *RESULTS)[part]}


def _table(case):
    return (
        f"a model that scores {case['whole']}; costs of its heads alone, layer by layer, "
        f"{case['costs']}, and of whole layers {case['together']}"
    )


@Q.law("the ranking", shows=_table)
def _(answer, case):
    return _ranked(answer, case, "ranking")


@Q.law("the layers that are covered", shows=_table)
def _(answer, case):
    return _ranked(answer, case, "covered")


@Q.law("one layer of two heads, and as many scores as are needed", shows=lambda _: "one layer")
def _(answer, case):
    small = {"whole": 10, "costs": [[0, 1]], "together": [6]}
    lent = _bounded(_scored(small), 1, 2)
    found = named(answer(lent, 1, 2), *RESULTS)
    return {**found, "scores asked for": AtMost(4).of(lent.calls)}


@Q.law("the pocket model, asked for codes", shows=lambda _: "the pocket model, 16 prompts")
def _(answer, case):
    config = _pocket()[0].config
    lent = _bounded(lambda off: _of_the_pocket(frozenset(off)), config.n_layers, config.n_heads)
    return named(answer(lent, config.n_layers, config.n_heads), *RESULTS)


def ranked(
    score, n_layers, n_heads,
    *,
    off=lambda heads, at: [list(at)],
    order=lambda cost: sorted(cost, key=lambda at: -cost[at]),
    alone=lambda costs, whole: 10 * max(costs) <= whole,
    most=lambda together, costs, whole: 2 * together > whole,
    before=lambda score, whole: whole,
):  # fmt: skip
    """The solution in steps, each of which can go wrong."""
    whole, cost, covered = score([]), {}, []
    every = [(i, j) for i in range(n_layers) for j in range(n_heads)]
    for layer in range(n_layers):
        heads = [(layer, j) for j in range(n_heads)]
        for at in heads:
            cost[at] = before(score, whole) - score(off(every, at))
        together = whole - score([list(at) for at in heads])
        costs = [cost[at] for at in heads]
        if alone(costs, whole) and most(together, costs, whole):
            covered.append(layer)
    return [list(at) for at in order(cost)], covered


Q.mistakes(
    ranked,
    {
        "heads are taken away one after the other and never put back: each score is that of one head less than the last.": {
            "off": lambda every, at: [list(one) for one in every if one <= at]
        },
        "all heads but this one are taken away: a head's cost is that of its own absence.": {
            "off": lambda every, at: [list(one) for one in every if one != at]
        },
        "the cheapest head stands first: the costliest does.": {
            "order": lambda cost: sorted(cost, key=lambda at: cost[at])
        },
        "of two that cost the same the later one stands first.": {
            "order": lambda cost: sorted(cost, key=lambda at: cost[at])[::-1]
        },
        "a cost below 0 is taken for a large one: it is the score that rose, so there is no absolute value.": {
            "order": lambda cost: sorted(cost, key=lambda at: -abs(cost[at]))
        },
        "only what all heads of a layer cost together is looked at: a head that carries the layer alone is not covered by anybody.": {
            "alone": lambda costs, whole: True
        },
        "only what heads cost alone is looked at: a layer that nobody needs covers nothing.": {
            "most": lambda together, costs, whole: True
        },
        "the costs of a layer's heads are added up. What they cost together has to be asked: score of all of them at once.": {
            "most": lambda together, costs, whole: 2 * sum(costs) > whole
        },
        "no layer is in `covered` here. It is one whose heads cost little one by one and much together.": lambda *given: (
            ranked(*given)[0], []
        ),
        "a head that costs exactly a tenth is not too costly: no more than a tenth is asked for.": {
            "alone": lambda costs, whole: 10 * max(costs) < whole
        },
        "a head that costs less than nothing costs no more than a tenth: its cost counts with its sign.": {
            "alone": lambda costs, whole: 10 * max(map(abs, costs)) <= whole
        },
        "half is not more than half.": {
            "most": lambda together, costs, whole: 2 * together >= whole
        },
        "score([]) is asked for again with each head: store it once.": {
            "before": lambda score, whole: score([])
        },
    },
)  # fmt: skip
