"""13.3: which methods lie on the Pareto front, and which one a budget allows."""

from __future__ import annotations

from kvlab.course.author import Exercise, Near, named

Q = Exercise(
    "13.3",
    "Pareto front",
    "front",
    points=3,
    minutes=20,
    difficulty=2,
    statement="""
Which ways to make a cache small are worth looking at (chapter 13, "At equal bytes")? `points` is a list of tuples `(name, size, loss)`: what a way is called, the bytes that it leaves, and what it costs in nats. Less is better of both.

A way is on the **front** if no other one is better in one of the two and at least as good in the other. (Of two that are equal in both, neither is better than the other.) Return two things:

- `names`, the names of all ways on the front by rising bytes; those that are equal in both stand in the order of the list;
- `best`, the name of the way of least loss among those whose bytes are at most `budget`; of equal losses the one of fewer bytes, of ways that are equal in both the first in the list. `None` if no way fits.

With `[("a", 10, 3.0), ("b", 20, 1.0), ("c", 30, 1.0), ("d", 20, 2.0)]` and a budget of 30 the result is `(["a", "b"], "b")`: c is no better than b and larger, d as large as b and worse. About 8 lines.
""",
    hints=(
        "When does a point throw another one off the front? Write that down as one condition of two pairs of numbers, and try it on two that are equal.",
        "q throws p off if q is at most p in bytes and in loss, and less in one of them. Keep the points that no point of the list throws off, and sort by bytes; "
        "sorted keeps the order of what is equal.",
        "names = [n for n, b, l in sorted(points, key=lambda p: p[1]) if not any(B <= b and L <= l and (B < b or L < l) for _, B, L in points)]; "
        "fits = [p for p in points if p[1] <= budget]; best = min(fits, key=lambda p: (p[2], p[1]))[0] if fits else None",
    ),
    size=lambda case: len(case["points"]),
)  # fmt: skip


@Q.case
def case(rng):
    """Few different numbers, so that some are equal; a twin of a way on the front; one way large
    and bad; and a budget that is the size of one."""
    names = rng.sample([f"way {letter}" for letter in "abcdefghijklmnop"], 16)
    chosen = rng.sample(range(1, 9), 4)
    falling = sorted((rng.randint(1, 6) / 4 for _ in chosen), reverse=True)
    on = list(zip(sorted(chosen), falling, strict=True))
    near = [(10 + size, loss) for size, loss in on]
    more = [(10 + rng.randint(1, 9), rng.randint(2, 8) / 4) for _ in range(rng.randint(3, 5))]
    size, loss = rng.choice(near)
    twins = [(size, loss), (size + 1, loss), (size, loss + 0.25), (30, 5.0)]
    points = near + more + twins
    rng.shuffle(points)
    made = [(name, *point) for name, point in zip(names, points, strict=False)]
    return {"points": made, "budget": rng.choice([size for _, size, _ in made])}


@Q.solution
def front(points, budget):
    """Return the names on the front by rising bytes, and the best way within the budget."""

    ### BEGIN SOLUTION
    def thrown_off(size, loss):
        return any(
            other_size <= size and other_loss <= loss and (other_size, other_loss) != (size, loss)
            for _, other_size, other_loss in points
        )

    by_size = sorted(points, key=lambda point: point[1])
    names = [name for name, size, loss in by_size if not thrown_off(size, loss)]
    fits = [point for point in points if point[1] <= budget]
    best = min(fits, key=lambda point: (point[2], point[1]))[0] if fits else None
    return names, best
    ### END SOLUTION


@Q.also_right
@Q.right
def from_small_to_large(points, budget):
    """By bytes, then by loss: what is on the front is better than all before it."""
    names, least, last, best = [], float("inf"), None, (float("inf"), None)
    for name, size, loss in sorted(points, key=lambda p: (p[1], p[2])):
        if loss < least or (size, loss) == last:
            names.append(name)
            least, last = loss, (size, loss)
        if size <= budget and loss < best[0]:
            best = loss, name
    return names, best[1]


# --- laws ---


def _found(answer, points, budget):
    found = named(answer(list(points), budget), "names", "best")
    return found | {"names": list(found["names"])}


@Q.law("the front")
def _(answer, case):
    return {"names": _found(answer, case["points"], case["budget"])["names"]}


@Q.law("the best way within the budget")
def _(answer, case):
    return {"best": _found(answer, case["points"], case["budget"])["best"]}


@Q.law("nothing fits; everything fits")
def _(answer, case):
    sizes = [size for _, size, _ in case["points"]]
    none = _found(answer, case["points"], min(sizes) - 1)
    every = _found(answer, case["points"], max(sizes))
    return {
        "with a budget below all bytes, names": none["names"],
        "with a budget below all bytes, best": none["best"],
        "with a budget for all, best": every["best"],
    }


@Q.law("what is thrown off may be left out before")
def _(answer, case):
    """The front of the front is the front."""
    names = _found(answer, case["points"], case["budget"])["names"]
    points = [point for point in case["points"] if point[0] in names]
    again = _found(answer, points, case["budget"])["names"] if points else []
    return {"of the ways on the front, names": Near(names).of(again)}


@Q.law("one way; two equal ones; equal bytes; equal loss")
def _(answer, case):
    """The smallest lists, each the other way round as well, and a loss of nothing."""
    lists = {
        "one way": [("a", 3, 0.5)],
        "two equal ones": [("b", 3, 0.5), ("a", 3, 0.5)],
        "two of equal bytes": [("a", 3, 0.5), ("b", 3, 0.25)],
        "two of equal loss": [("a", 4, 0.5), ("b", 3, 0.5)],
        "one that loses nothing": [("a", 4, 0.0), ("b", 3, 0.5), ("c", 5, 0.0)],
        "three, the middle one above the line": [("a", 0, 1.0), ("b", 5, 0.875), ("c", 10, 0.0)],
    }
    seen = {}
    for what, points in lists.items():
        for order, given in (("", points), (", turned", points[::-1])):
            for name, value in _found(answer, given, 4).items():
                seen[f"{what}{order}: {name}"] = value
    return seen


# --- what goes wrong: each changes one thing of this ---


def _worse(p, q):
    """Whether q throws p off. Both are a name, bytes and a loss."""
    return q[1] <= p[1] and q[2] <= p[2] and (q[1] < p[1] or q[2] < p[2])


def _running(points, key):
    least, names = float("inf"), []
    for name, _size, loss in sorted(points, key=key):
        if loss < least:
            names.append(name)
            least = loss
    return names


def _hull(points):
    """The names of the front's points that lie on its lower convex hull."""
    by = {p[0]: p for p in points}
    kept: list[tuple] = []
    for name in _front(points, 0)[0]:
        while len(kept) > 1 and _right_turn(kept[-2], kept[-1], by[name]):
            kept.pop()
        kept.append(by[name])
    return [name for name, _, _ in kept]


def _right_turn(one, two, three):
    (_, a, x), (_, b, y), (_, c, z) = one, two, three
    return (b - a) * (z - x) - (y - x) * (c - a) < 0


def _front(
    points, budget, *, off=_worse, key=lambda p: p[1], names=None,
    fits=lambda size, budget: size <= budget, order=lambda p: (p[2], p[1]), none=None,
):  # fmt: skip
    kept = names(points) if names else [
        p[0] for p in sorted(points, key=key) if not any(off(p, q) for q in points)
    ]  # fmt: skip
    within = [p for p in points if fits(p[1], budget)]
    return kept, min(within, key=order)[0] if within else none


Q.mistakes(
    _front,
    {
        "only what is worse in both is thrown off. A way that is as large and worse, or as bad and larger, goes as well.": {
            "off": lambda p, q: q[1] < p[1] and q[2] < p[2]
        },
        "of two that are equal in both only one is left. Neither is better than the other.": {
            "names": lambda points: _running(points, lambda p: (p[1], p[2]))
        },
        "of equal bytes the first in the list stays, whatever it loses.": {
            "names": lambda points: _running(points, lambda p: p[1])
        },
        "each way throws itself off: at least as good in both is not yet better.": {
            "off": lambda p, q: q[1] <= p[1] and q[2] <= p[2]
        },
        "a higher loss is taken for the better one. Nats are a cost.": {
            "off": lambda p, q: _worse((p[0], p[1], -p[2]), (q[0], q[1], -q[2]))
        },
        "the names are sorted by loss; by rising bytes was asked for.": {"key": lambda p: p[2]},
        "the names stand in the order of the list; by rising bytes was asked for.": {
            "key": lambda p: 0
        },
        "a line is drawn between ways, and what lies above it is left out. Nobody can have a way between two ways: the front is not a hull.": {
            "names": _hull
        },
        "bytes that are exactly the budget fit: at most is <=.": {
            "fits": lambda size, budget: size < budget
        },
        "of equal losses the one of fewer bytes was asked for.": {"order": lambda p: p[2]},
        "the largest way that fits is taken, and not the one of least loss.": {
            "order": lambda p: (-p[1], p[2])
        },
        "the budget is not asked: the least loss of all wins.": {"fits": lambda size, budget: True},
        "where nothing fits the answer is None.": {"none": ""},
    },
)  # fmt: skip
