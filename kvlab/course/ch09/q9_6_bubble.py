"""9.6: stages one after the other, and how long each of them stands idle."""

from __future__ import annotations

from kvlab.course.author import Exercise, Near, named

Q = Exercise(
    "9.6",
    "The bubble of a pipeline",
    "pipeline",
    points=3,
    minutes=20,
    difficulty=3,
    statement="""
A model stands in stages, one process for each (chapter 9, "Cut the model into stages"). A batch is cut into `n_micro` micro-batches of equal size, which go through all stages in order. Stage s takes `seconds[s]` for one of them, and handing it on to the next stage takes `hop` seconds, in which neither of the two
stages has to wait for it. So stage s begins with a micro-batch as soon as it is done with the one before **and** this one has arrived from stage s - 1; all lie before the first stage at the beginning.

Return two numbers, `(total, idle)`: the seconds until the last stage is done with the last micro-batch, and the share of all stages' time, `number of stages x total`, in which a stage does nothing. The stages need not be equally slow. About 8 lines.

Two stages of 3 and 3 seconds, `hop` 0 and one micro-batch: 6 seconds, and half of the time is idle. With three micro-batches it is 12 seconds, of which a quarter is idle: 24 seconds of two stages, 18 of work. For S equal stages, M micro-batches and no hop the share is (S - 1) / (M + S - 1).
""",
    hints=(
        "Make a table for the example: when does stage 1 begin with micro-batch 2, and what did it wait for?",
        "Keep for each stage the time at which it is free. A micro-batch begins at a stage at the later of two times: when the stage is free, and when it arrived.",
        "free = [0.0] * S; for each micro-batch: arrived = 0.0; for s in range(S): free[s] = max(free[s], arrived) + seconds[s]; arrived = free[s] + hop. Then total = free[-1] and idle = 1 - n_micro * sum(seconds) / (S * total).",
    ),
    size=lambda case: len(case["seconds"]) + case["n_micro"],
)

NAMES = ("seconds", "n_micro", "hop")
RESULTS = ("total", "idle")


@Q.case
def case(rng):
    """Unequal stages of which one in the middle is the slowest, and a hop that shows."""
    n = rng.randint(3, 5)
    seconds = [float(t) for t in rng.sample(range(2, 12), n)]
    at = rng.randrange(1, n - 1)
    most = max(range(n), key=seconds.__getitem__)
    seconds[at], seconds[most] = seconds[most], seconds[at]
    return {"seconds": seconds, "n_micro": rng.randint(3, 7), "hop": rng.choice([0.5, 1.0, 1.5])}


@Q.solution
def pipeline(seconds, n_micro, hop):
    """Return the seconds until all is done, and the share of the stages' time that is idle."""
    ### BEGIN SOLUTION
    free = [0.0 for _ in seconds]
    for _ in range(n_micro):
        arrived = 0.0
        for stage, takes in enumerate(seconds):
            free[stage] = max(free[stage], arrived) + takes
            arrived = free[stage] + hop
    total = free[-1]
    return total, 1 - n_micro * sum(seconds) / (len(seconds) * total)
    ### END SOLUTION


@Q.right
def longest_way(seconds, n_micro, hop):
    """The slowest stage takes all micro-batches, and one of them passes all others."""
    n = len(seconds)
    total = sum(seconds) + (n - 1) * hop + (n_micro - 1) * max(seconds)
    return total, (n * total - n_micro * sum(seconds)) / (n * total)


@Q.also_right
def a_clock_that_ticks(seconds, n_micro, hop):
    from functools import cache

    @cache
    def done(stage, micro):
        if micro < 0:
            return 0.0
        before = done(stage - 1, micro) + hop if stage else 0.0
        return max(before, done(stage, micro - 1)) + seconds[stage]

    total = done(len(seconds) - 1, n_micro - 1)
    waits = sum(total - n_micro * takes for takes in seconds)
    return [total, waits / total / len(seconds)]


# --- laws ---


def _law(says, change):
    def given(case):
        return {name: {**case, **change(case)}[name] for name in NAMES}

    def shows(case):
        return ", ".join(f"{name} {value}" for name, value in given(case).items())

    def run(answer, case):
        return named(answer(*given(case).values()), *RESULTS)

    def expect(case, _outcome):
        wanted = longest_way(*given(case).values())
        return {name: Near(value) for name, value in zip(RESULTS, wanted, strict=True)}

    Q.law(says, expect=expect, shows=shows)(run)


_law("one stage is never idle", lambda case: {"seconds": case["seconds"][:1]})
_law("one micro-batch: one stage works at a time", lambda case: {"n_micro": 1, "hop": 0.0})
_law("equal stages", lambda case: {"seconds": [2.0] * len(case["seconds"]), "hop": 0.0})
_law("the first stage is the slowest", lambda case: {
    "seconds": sorted(case["seconds"], reverse=True), "hop": 0.0,
})  # fmt: skip
_law("the last stage is the slowest", lambda case: {"seconds": sorted(case["seconds"]), "hop": 0.0})
_law("handing on takes time", lambda case: {"seconds": [3.0, 3.0]})
_law("unequal stages, and a hop", lambda case: {})
_law("one micro-batch, and a hop", lambda case: {"n_micro": 1})
_law("many micro-batches", lambda case: {"n_micro": 60})


@Q.law("idle is a share: twice as slow in everything is as idle")
def _(answer, case):
    """Needs no right answer."""
    slow = [2 * t for t in case["seconds"]]
    one = named(answer(*(case[name] for name in NAMES)), *RESULTS)
    two = named(answer(slow, case["n_micro"], 2 * case["hop"]), *RESULTS)
    return {
        "idle": Near(one["idle"]).of(two["idle"]),
        "total": Near(2 * one["total"]).of(two["total"]),
    }


# --- what goes wrong: each changes one thing of this ---


def _pipeline(
    seconds, n_micro, hop, *, waits=True, hops=None, blocks=False, idle="share", slowest=max,
    last=False, equal=False,
):  # fmt: skip
    n, hop = len(seconds), hop if hops is None else hops
    free = [0.0] * n
    for _ in range(n_micro):
        arrived = 0.0
        for s, takes in enumerate(seconds):
            free[s] = (max(free[s], arrived) if waits else arrived) + takes
            arrived = free[s] + (hop if s < n - 1 or last else 0)
            if blocks and s < n - 1:
                free[s] = arrived
    total = free[-1] + (hop if last else 0)
    if equal:
        total = (n_micro + n - 1) * max(seconds) + (n - 1) * hop
    work = n_micro * sum(seconds)
    shares = {
        "share": 1 - work / (n * total), "busy": work / (n * total), "seconds": n * total - work,
        "formula": (n - 1) / (n_micro + n - 1), "of one": (n * total - work) / total,
        "last": 1 - n_micro * seconds[-1] / total,
    }  # fmt: skip
    return total, shares[idle]


Q.mistakes(
    _pipeline,
    {
        "a stage takes several micro-batches at once: it is not free before it is done.": {
            "waits": False
        },
        "handing on takes no time here. Each stage but the last hands on, which takes `hop`.": {
            "hops": 0.0
        },
        "a stage stands still while it hands on. It goes on with the next micro-batch.": {
            "blocks": True
        },
        "the last stage hands on to nobody.": {"last": True},
        "all stages are taken to be as slow as the slowest. A micro-batch passes the others "
        "faster.": {"equal": True},
        "that is the share in which stages work.": {"idle": "busy"},
        "that is idle time in seconds; a share of all stages' time was asked for.": {
            "idle": "seconds"
        },
        "the formula (S - 1) / (M + S - 1) is that of equal stages without a hop.": {
            "idle": "formula"
        },
        "the idle seconds of all stages are divided by the time of one.": {"idle": "of one"},
        "only the last stage is looked at. All of them may stand idle.": {"idle": "last"},
    },
)
for says, change in {
    "one after the other goes through all stages before the next begins: that is no pipeline.": (
        lambda seconds, n_micro, hop: (
            n_micro * (sum(seconds) + (len(seconds) - 1) * hop),
            1 - sum(seconds) / len(seconds) / (sum(seconds) + (len(seconds) - 1) * hop),
        )
    ),
}.items():
    Q.mistakes(None, {says: change})
