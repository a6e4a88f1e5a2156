"""What the pocket model is trained on, stage by stage, and the skills that each stage must bring.

The order matters more than the size. A boot camp comes first: copying, then repeating, then pairs,
then recall by name emerge one after the other, each rather suddenly. Only then does the text grow
long. A gate at a stage's end measures the skill that the next stage rests on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

LEARNING_RATE = 3e-3
# what the schedule below, and its stages on 128 tokens, take at most when no gate asks for more: on
# the slowest core that trained it (0.63 s a step of 2,048 tokens); the card's took three quarters
FULL_MINUTES, CAMP_MINUTES = 70, 20

REPETITION = {
    "facts": 0.08,
    "prose": 0.05,
    "story": 0.04,
    "key_value": 0.23,
    "copy": 0.15,
    "repeat": 0.30,
    "pair": 0.15,
}
PAIRS = {
    "facts": 0.07,
    "prose": 0.05,
    "story": 0.06,
    "key_value": 0.25,
    "copy": 0.03,
    "repeat": 0.14,
    "pair": 0.26,
    "records": 0.14,
}
RELATIONS = {
    "facts": 0.06,
    "prose": 0.04,
    "story": 0.22,
    "key_value": 0.28,
    "copy": 0.02,
    "repeat": 0.03,
    "records": 0.09,
    "apart": 0.26,
}
CODES = {
    "facts": 0.06,
    "prose": 0.04,
    "story": 0.18,
    "key_value": 0.15,
    "codes": 0.14,
    "profiles": 0.09,
    "latest": 0.06,
    "counting": 0.05,
    "numbers": 0.08,
    "copy": 0.02,
    "repeat": 0.02,
    "records": 0.05,
    "apart": 0.06,
}
ANSWERS = {
    "facts": 0.40,
    "fact_prose": 0.10,
    "prose": 0.25,
    "story": 0.05,
    "copy": 0.10,
    "repeat": 0.10,
}
EVERYTHING = {
    "facts": 0.12,
    "fact_prose": 0.04,
    "prose": 0.12,
    "story": 0.09,
    "key_value": 0.20,
    "codes": 0.06,
    "needle": 0.17,
    "profiles": 0.06,
    "latest": 0.05,
    "counting": 0.03,
    "numbers": 0.03,
    "copy": 0.01,
    "repeat": 0.01,
    "apart": 0.01,
}
COPYING = ("copy", "repeat", "pair", "apart")  # skills measured as a loss
KINDS_GATE = {
    "recall password": 0.8,
    "recall color": 0.8,
    "recall pet": 0.8,
    "recall place": 0.8,
    "recall code": 0.8,
    "where": 0.8,
    "has": 0.8,
}

LAST_GATE = KINDS_GATE | {
    "recall code": 0.9,
    "recall password 256": 0.95,
    "recall password 950": 0.9,
    "recall first code 950": 0.9,
    "two kinds": 0.8,
    "facts": 0.95,
}


@dataclass(frozen=True)
class Stage:
    """Steps on windows of one length, drawn from one mix.

    `gate` maps a skill to the least share of right answers, or for COPYING to the highest loss.

    `docs` of the windows are Python's documentation; `long` of the rest start with one document
    that fills the window, and `far` of these ask for what their first sentences told. The learning
    rate goes evenly from the first `rate` to the second.
    """

    name: str
    context: int
    steps: int
    tokens_per_step: int
    mix: dict[str, float]
    docs: float = 0.0
    long: float = 0.0
    far: float = 0.0
    gate: dict[str, float] = field(default_factory=dict)
    rate: tuple[float, float] = (LEARNING_RATE, LEARNING_RATE)


SCHEDULE = (
    Stage("repetition", 128, 800, 2048, REPETITION, gate={"repeat": 0.5}),
    Stage("pairs", 128, 300, 2048, PAIRS, gate={"pair": 0.5}),
    Stage("relations", 128, 400, 2048, RELATIONS, gate={"recall password": 0.8, "apart": 0.5}),
    Stage("codes", 128, 400, 2048, CODES, gate=KINDS_GATE),
    Stage("everything 256", 256, 450, 4096, EVERYTHING, 0.70, 0.15, rate=(3e-3, 3e-3)),
    Stage("everything 512", 512, 400, 4096, EVERYTHING, 0.60, 0.35, rate=(3e-3, 2.2e-3)),
    Stage("everything 1024", 1024, 450, 4096, EVERYTHING, 0.50, 0.50, 0.5, rate=(2.2e-3, 0.8e-3)),
    Stage(
        "everything 2048",
        2048,
        250,
        4096,
        EVERYTHING,
        docs=0.30,
        long=0.60,
        far=0.7,
        rate=(0.8e-3, 0.02e-3),
        gate=LAST_GATE,
    ),
    # what little was read at a falling rate is weak: documentation, and codes 1,000 tokens back
    Stage(
        "once more 1280",
        1280,
        300,
        4096,
        EVERYTHING,
        docs=0.40,
        long=0.80,
        far=0.5,
        rate=(1.5e-3, 0.02e-3),
        gate=LAST_GATE,
    ),
)
CAMP = SCHEDULE[:4]


def fingerprint(stage: Stage) -> str:
    """Name a stage by a hash of all its numbers."""
    return hashlib.sha256(repr(stage).encode()).hexdigest()[:12]


def schedule_for(minutes: float) -> tuple[Stage, ...]:
    """Return the stages that fit into so many minutes of the card's machine.

    The stages on 128 tokens, in which recall emerges, are kept whole, and what is left goes to the
    long ones; their gate asks nothing of a run that is cut short. In less time than that nothing
    would be recalled: the run learns to answer questions instead.
    """
    if minutes < CAMP_MINUTES:
        steps = round(minutes / CAMP_MINUTES * sum(stage.steps for stage in CAMP))
        return (Stage("answers", 128, max(1, steps), 2048, ANSWERS, rate=(3e-3, 0.3e-3)),)
    share = (minutes - CAMP_MINUTES) / (FULL_MINUTES - CAMP_MINUTES)
    cut = (
        replace(
            stage,
            steps=max(1, round(stage.steps * share)),
            gate=stage.gate if share >= 1 else {},
        )
        for stage in SCHEDULE[len(CAMP) :]
    )
    return (*CAMP, *cut)
