"""9.7: which split for which workload."""

from __future__ import annotations

from kvlab.course.author import Exercise

Q = Exercise(
    "9.7",
    "Which split for which workload?",
    "choose_split",
    points=4,
    minutes=25,
    difficulty=3,
    statement="""
Choose how to cut a model over `devices["n"]` equal devices (chapter 9, "Which split for which workload?"). `tp` of them share every layer and `pp` such groups stand one after the other; `tp` must divide `model["heads"]`, `pp` must divide `model["layers"]`, and `tp x pp` may be anything up to n. `model["matrices"]` are the bytes of all matrices,
`model["kv"]` those of the keys and values of **one** chat; a split deals both out evenly.

- A device holds `(matrices + chats x kv) / (tp x pp)` bytes; that must not be more than `devices["memory"]`.
- A stage that computes one token for each of b chats takes `(matrices + b x kv) / (tp x pp) / devices["rate"]` seconds to read, and besides `devices["message"]` seconds for each message: two for each of its `layers / pp` layers if `tp > 1`, and one for handing on if `pp > 1`.
- One token of one chat alone goes through all stages, one after the other: `pp` times a stage with b = 1.
- With many chats, the batch is cut into `min(pp, chats)` parts, as equal as can be. While a part is in one stage, others are in the other stages; a step takes `pp` times a stage with b = the chats of the **largest** part.

With the goal `"one chat"` the time of one token of a chat alone counts, with `"all chats"` that of a step. Return `[tp, pp]` of the split that fits and takes least; of several the one with fewest devices, and then the one with the smallest `tp`. If none fits return `None`. About 20 lines.

With matrices of 8, no keys and values, 2 layers, 2 heads, 1 chat, 2 devices of memory 8 and rate 1: where a message takes 0.5 seconds, one device takes 8 seconds, tp = 2 takes 4 + 4 x 0.5 = 6 and pp = 2 takes 2 x (4 + 0.5) = 9, so the split is `[2, 1]`.
""",
    hints=(
        "Write the time of one stage as a function of tp, pp and b first. What does a stage not have to do if tp is 1, or pp is 1?",
        "Go through all pairs of tp and pp, leave out those that do not divide, need too many devices, or do not fit, and take the minimum of (seconds, tp * pp, tp).",
        "b = 1 if goal == 'one chat' else -(-chats // min(pp, chats)); stage = (matrices + b * kv) / (tp * pp) / rate; if tp > 1: stage += 2 * layers / pp * message; if pp > 1: stage += message; found.append((pp * stage, tp * pp, tp, pp)). "
        "Return list(min(found)[2:]) if found else None.",
    ),
    size=lambda case: case["devices"]["n"] * 100 + case["chats"],
)

NAMES = ("model", "devices", "chats", "goal")


@Q.case
def case(rng):
    """Numbers that are powers of two times small ones, so that nothing ties by rounding."""
    layers, heads = rng.choice([(4, 6), (6, 4), (8, 12), (12, 8)])
    model = {"matrices": 960 * rng.randint(3, 9), "kv": 24 * rng.randint(1, 9), "layers": layers}
    model["heads"] = heads
    n, chats = rng.choice([4, 6, 8]), rng.choice([5, 7, 11, 30])
    whole = model["matrices"] + chats * model["kv"]
    devices = {"n": n, "memory": whole // rng.choice([1, 2, 3]), "rate": 64.0}
    devices["message"] = rng.choice([0.125, 0.5, 2.0, 8.0])
    return {"model": model, "devices": devices, "chats": chats, "goal": rng.choice(GOALS)}


GOALS = ("one chat", "all chats")


@Q.solution
def choose_split(model, devices, chats, goal):
    """Return [tp, pp] of the best split that fits, or None."""
    ### BEGIN SOLUTION
    found = []
    for tp in range(1, devices["n"] + 1):
        for pp in range(1, devices["n"] // tp + 1):
            if model["heads"] % tp or model["layers"] % pp:
                continue
            parts = tp * pp
            if (model["matrices"] + chats * model["kv"]) / parts > devices["memory"]:
                continue
            b = 1 if goal == "one chat" else -(-chats // min(pp, chats))
            stage = (model["matrices"] + b * model["kv"]) / parts / devices["rate"]
            if tp > 1:
                stage += 2 * model["layers"] / pp * devices["message"]
            if pp > 1:
                stage += devices["message"]
            found.append((pp * stage, parts, tp, pp))
    return list(min(found)[2:]) if found else None
    ### END SOLUTION


@Q.also_right
def best_so_far(model, devices, chats, goal):
    from math import ceil

    best, least = None, float("inf")
    pairs = [(t * p, t, p) for t in range(1, 40) for p in range(1, 40) if t * p <= devices["n"]]
    for used, tp, pp in sorted(pairs):
        divides = model["heads"] % tp == 0 and model["layers"] % pp == 0
        if not divides or model["matrices"] + chats * model["kv"] > devices["memory"] * used:
            continue
        rows = ceil(chats / min(pp, chats)) if goal == "all chats" else 1
        reads = (model["matrices"] + rows * model["kv"]) / used / devices["rate"]
        messages = (2 * model["layers"] // pp if tp != 1 else 0) + (pp != 1)
        seconds = pp * (reads + messages * devices["message"])
        if seconds < least * (1 - 1e-12):
            best, least = (tp, pp), seconds
    return best


# --- laws ---


def _law(says, change=lambda case: {}):
    def given(case):
        new = {**case, **change(case)}
        return [new[name] for name in NAMES]

    def shows(case):
        return ", ".join(f"{n} {v}" for n, v in zip(NAMES, given(case), strict=True))

    Q.law(says, shows=shows)(lambda answer, case: {"the split": answer(*given(case))})


def _devices(**new):
    return lambda case: {"devices": {**case["devices"], **new}}


def _roomy(case, **new):
    whole = case["model"]["matrices"] + 100 * case["model"]["kv"]
    return {"devices": {**case["devices"], "memory": whole, **new}}


def _exactly(parts, less=0):
    """Memory that holds a share of so many parts to the byte, or not quite."""

    def change(case):
        model = {**case["model"], "matrices": 9600, "kv": 24, "layers": 4, "heads": 4}
        held = (9600 + 10 * 24) // parts
        devices = {**case["devices"], "memory": held - less, "n": 8, "message": 1e6}
        return {"model": model, "devices": devices, "chats": 10}

    return change


_law("one device, all in it", lambda case: _roomy(case, n=1))
FIXED = {  # matrices, kv, layers, heads; n, memory, message; chats; goal: where one detail decides
    "a stage exchanges for its own layers": ((96, 6, 6, 2), (4, 60, 0.5), 7, GOALS[1]),
    "handing on is a message": ((96, 48, 6, 4), (4, 100, 1.0), 2, GOALS[1]),
    "each part of a batch has its own chats": ((96, 48, 4, 2), (4, 100, 0.25), 2, GOALS[1]),
    "the largest part counts": ((48, 96, 4, 2), (4, 200, 0.5), 5, GOALS[1]),
    "one chat is asked for": ((24, 48, 6, 4), (4, 200, 0.5), 3, GOALS[0]),
    "fewer devices are faster": ((48, 24, 2, 2), (8, 60, 1.0), 5, GOALS[1]),
    "a number that does not divide": ((192, 24, 4, 2), (4, 100, 0.5), 7, GOALS[1]),
    "six share each layer": ((48, 24, 6, 6), (6, 200, 0.5), 2, GOALS[1]),
    "one stage hands on to nobody": ((96, 6, 6, 2), (6, 200, 0.25), 3, GOALS[1]),
    "one chat, whatever their number": ((96, 96, 4, 2), (6, 200, 2.0), 2, GOALS[0]),
    "a tie, and fewer devices": ((64, 0, 4, 2), (4, 100, 0.0), 1, GOALS[0]),
    "a tie, and fewer devices that stand in wider groups": (
        (96, 48, 6, 2),
        (6, 432, 0.75),
        4,
        GOALS[1],
    ),
    "a tie, and fewer devices without stages": ((12, 12, 4, 3), (4, 72, 0.125), 7, GOALS[1]),
    "a tie, and as many devices": ((64, 0, 2, 2), (2, 40, 2.0), 1, GOALS[0]),
}


def _fixed(shape, devices, chats, goal):
    model = dict(zip(("matrices", "kv", "layers", "heads"), shape, strict=True))
    n, memory, message = devices
    given = {"n": n, "memory": memory, "rate": 8.0, "message": message}
    return {"model": model, "devices": given, "chats": chats, "goal": goal}


for name, numbers in FIXED.items():
    _law(name, lambda case, numbers=numbers: _fixed(*numbers))
_law("messages cost nothing", lambda case: _roomy(case, message=0.0))
_law("messages are dear: one chat", lambda case: _roomy(case, message=1e5) | {"goal": GOALS[0]})
_law("the example of the statement", lambda case: {
    "model": {"matrices": 8, "kv": 0, "layers": 2, "heads": 2}, "chats": 1, "goal": GOALS[0],
    "devices": {"n": 2, "memory": 8, "rate": 1.0, "message": 0.5},
})  # fmt: skip
for goal in GOALS:
    _law(
        f"there is space everywhere, {goal}", lambda case, goal=goal: _roomy(case) | {"goal": goal}
    )
    _law(f"memory decides too, {goal}", lambda case, goal=goal: {"goal": goal})
_law("many chats of long texts, and a message that is not free", lambda case: {
    "model": {**case["model"], "kv": 400}, "chats": 50, "goal": GOALS[1],
    "devices": {**case["devices"], "memory": 10**6, "message": 0.25, "n": 6},
})  # fmt: skip
_law("it fits to the byte", _exactly(2))
_law("it misses by a byte", _exactly(2, less=1))
_law("chats do not divide by the stages", lambda case: {
    "model": {"matrices": 96, "kv": 960, "layers": 4, "heads": 5}, "chats": 5, "goal": GOALS[1],
    "devices": {"n": 4, "memory": 10**6, "rate": 64.0, "message": 0.5},
})  # fmt: skip
_law("fewer chats than stages", lambda case: {
    "model": {"matrices": 9600, "kv": 960, "layers": 4, "heads": 4}, "chats": 2, "goal": GOALS[1],
    "devices": {"n": 4, "memory": 5000, "rate": 64.0, "message": 3.0},
})  # fmt: skip
_law("a number of heads that nothing divides", lambda case: {
    **_roomy(case, message=0.01), "model": {**case["model"], "heads": 5, "layers": 7},
})  # fmt: skip
_law("none fits", _devices(memory=1))


# --- what goes wrong: each changes one thing of this ---


def _choose(
    model, devices, chats, goal, *, per_layer=2, hop=1, tp_talks=lambda tp: tp > 1, held="all",
    fits=True, divides=True, alone=lambda pp: pp, part=lambda chats, pp: -(-chats // min(pp, chats)),
    all_devices=False, key=lambda seconds, tp, pp: (seconds, tp * pp, tp), per_stage=True,
    nothing=None, goals=None, swapped=False, kv_shared=True, strict=False,
):  # fmt: skip
    found, n = [], devices["n"]
    kv, matrices = model["kv"], model["matrices"]
    for tp in range(1, n + 1):
        for pp in range(1, n // tp + 1):
            if divides and (model["heads"] % tp or model["layers"] % pp):
                continue
            if all_devices and tp * pp != n:
                continue
            holds = {"all": matrices + chats * kv, "matrices": matrices, "one": matrices + kv}[held]
            full = (
                holds / (tp * pp) >= devices["memory"]
                if strict
                else holds / (tp * pp) > devices["memory"]
            )
            if fits and full:
                continue
            b = 1 if (goals or goal) == "one chat" else part(chats, pp)
            read = matrices / (tp * pp) + b * kv / (tp * pp if kv_shared else pp)
            stage = read / devices["rate"]
            if tp_talks(tp):
                layers = model["layers"] / (pp if per_stage else 1)
                stage += per_layer * layers * devices["message"]
            stage += (hop * devices["message"]) if pp > 1 else 0
            times = alone(pp) if goal == "one chat" else pp
            found.append((key(times * stage, tp, pp), tp, pp))
    if not found:
        return nothing
    _, tp, pp = min(found)
    return [pp, tp] if swapped else [tp, pp]


Q.mistakes(
    _choose,
    {
        "messages take time as well.": {"per_layer": 0, "hop": 0},
        "a layer that is shared is summed twice, after attention and after the MLP.": {
            "per_layer": 1
        },
        "a stage has its own layers only, layers / pp, and exchanges for these.": {
            "per_stage": False
        },
        "handing on from stage to stage is a message too.": {"hop": 0},
        "whether it fits is not asked.": {"fits": False},
        "keys and values take memory as well as matrices.": {"held": "matrices"},
        "the keys and values of all chats have to fit, not of one.": {"held": "one"},
        "what fits to the byte fits.": {"strict": True},
        "a chat alone goes through all stages, one after the other. Stages do not make it "
        "faster.": {"alone": lambda pp: 1},
        "in a step each part has its own chats, not all of them.": {
            "part": lambda chats, pp: chats
        },
        "the largest part counts: where chats do not divide evenly it has one more.": {
            "part": lambda chats, pp: chats // min(pp, chats)
        },
        "all devices are used. Fewer may be faster, since messages take time.": {
            "all_devices": True
        },
        "tp must divide the heads, and pp the layers.": {"divides": False},
        "of splits that take the same time the one with fewest devices was asked for.": {
            "key": lambda seconds, tp, pp: (seconds, -tp * pp, tp)
        },
        "the smallest tp counts only among those that have as few devices.": {
            "key": lambda seconds, tp, pp: (seconds, tp, pp)
        },
        "of splits that tie with as few devices the smallest tp was asked for, not the largest.": {
            "key": lambda seconds, tp, pp: (seconds, tp * pp, -tp)
        },
        "tp and pp are swapped.": {"swapped": True},
        "the goal is not looked at: all chats always.": {"goals": "all chats"},
        "the split that is fastest is not the one that takes least memory.": {
            "key": lambda seconds, tp, pp: (1 / (tp * pp), seconds, tp)
        },
        "where nothing fits, the answer is None.": {"nothing": [1, 1]},
    },
)
