"""12.7: is a cache that is said to be small in use? Told from memory and counters."""

from __future__ import annotations

from kvlab.course.author import AtMost, Exercise, Near
from kvlab.course.ch12._suspects import KINDS, Suspect, dense_bytes

Q = Exercise(
    "12.7",
    "Prove it is on",
    "prove",
    points=4,
    minutes=25,
    difficulty=3,
    statement="""
Somebody hands you a cache in which the pocket model has read a text, and says that it has been made smaller. None of the ways in which
that goes wrong shows in an answer, so look from outside (chapter 12, "Your storage rule runs the model"). You have

- `suspect.memory()`: a list with three whole numbers for each tensor in which the cache holds something: the *number of the piece of memory* that the tensor
lies in, the bytes of that whole piece, and the bytes of the tensor itself. Several tensors may lie in one piece, which is then listed with each of them;
- `suspect.counted()`: `{"read": ..., "unpacked": ...}`, the bytes that attention has read, and the dense bytes written because rows had to be unpacked, both *since the cache was made*;
- `suspect.step()`: the model reads one more token. It can be called once.

`dense_bytes` is what a dense cache would take for the text with that token; a step reads all of it. Return a dict:

- `"held"`: the bytes of memory that the cache occupies after the step, each piece once and whole;
- `"read"`: the bytes that this one step read;
- `"verdict"`: the first of these that fits.

| verdict | |
|---|---|
| `"not smaller"` | it occupies at least `dense_bytes` |
| `"unpacks"` | the step wrote dense rows to read them |
| `"reads as much"` | the step read at least `dense_bytes` |
| `"on"` | it occupies less, reads less, and copies nothing |

Example: with `dense_bytes` 100, `memory()` giving `[[0, 60, 30], [0, 60, 30]]` and 60 bytes read by the step, the answer is
`{"held": 60, "read": 60, "verdict": "on"}`: the two tensors share one piece. Roughly 12 lines.
""",
    hints=(
        "A tensor may be a small view of a large piece of memory, and two tensors may be views of one. What of it does the "
        "device pay for? And what had been counted before your step?",
        "Look at counted() before the step and after it, and take the difference. Ask for memory() after it. A dict from the "
        "piece's number to the piece's bytes has each piece once.",
        "before = suspect.counted(); suspect.step(); after = suspect.counted(); held = sum({piece: whole for piece, whole, _ "
        'in suspect.memory()}.values()); read = after["read"] - before["read"]; unpacked = after["unpacked"] - '
        'before["unpacked"]. Then in this order: held >= dense_bytes, unpacked > 0, read >= dense_bytes, else "on".',
    ),
    n_cases=5,
    size=lambda case: case["n_tokens"],
)


@Q.case
def case(rng):
    """A third of the text is a whole number of tokens, so that a step can read just the dense bytes."""
    return {
        "n_tokens": 3 * rng.randint(12, 20),
        "_kinds": rng.sample(list(KINDS), len(KINDS)),
        "_seed": rng.randrange(2**31),
    }


@Q.solution
def prove(suspect, dense_bytes):
    """Return {"held": bytes, "read": bytes, "verdict": one of four}."""
    ### BEGIN SOLUTION
    before = suspect.counted()
    suspect.step()
    after = suspect.counted()
    held = sum({piece: whole for piece, whole, _ in suspect.memory()}.values())
    read = after["read"] - before["read"]
    if held >= dense_bytes:
        verdict = "not smaller"
    elif after["unpacked"] > before["unpacked"]:
        verdict = "unpacks"
    else:
        verdict = "reads as much" if read >= dense_bytes else "on"
    return {"held": held, "read": read, "verdict": verdict}
    ### END SOLUTION


@Q.also_right
def one_question_after_the_other(suspect, dense_bytes):
    start = {**suspect.counted()}
    suspect.step()
    grown = {name: count - start[name] for name, count in suspect.counted().items()}
    held, known = 0, []
    for piece, whole, _own in suspect.memory():
        if piece not in known:
            known.append(piece)
            held += whole
    fits = {
        "not smaller": held >= dense_bytes,
        "unpacks": grown["unpacked"] != 0,
        "reads as much": grown["read"] >= dense_bytes,
        "on": True,
    }
    return {
        "verdict": next(name for name in fits if fits[name]),
        "read": grown["read"],
        "held": held,
    }


# --- laws ---


@Q.law("each suspect gets its verdict, and the bytes that it rests on")
def _(answer, case):
    seen = {}
    for i, kind in enumerate(case["_kinds"]):
        suspect = Suspect(kind, case["n_tokens"], case["_seed"])
        got = answer(suspect, dense_bytes(case["n_tokens"]))
        for name in ("held", "read", "verdict"):
            seen[f"{name} of the cache that {kind}"] = got[name]
        seen[f"steps of suspect {i}"] = AtMost(1).of(suspect.steps)
    return seen


@Q.law("one byte decides")
def _(answer, case):
    """What is dense is said to be just as much as a cache holds, or reads, and a byte more."""
    seen = {}
    for kind in ("evicts half, and shrinks", "evicts half, and has two slots to spare"):
        for less in (0, 1):
            suspect = Suspect(kind, case["n_tokens"], case["_seed"])
            slots = (case["n_tokens"] - 1) // 2 + 1 + (2 if "spare" in kind else 0)
            held = dense_bytes(slots)
            right = "not smaller" if less == 0 else "on"
            got = answer(suspect, held + less)
            seen[f"verdict, if dense is {held + less:,} bytes"] = Near(right).of(got["verdict"])
    return seen


# --- what goes wrong: each changes one thing of this ---


def _pieces(memory):
    return sum({piece: whole for piece, whole, _ in memory}.values())


def _prove(
    suspect,
    dense_bytes,
    *,
    held_of=_pieces,
    asks_first=False,
    since_start=False,
    unpacked_ever=False,
    order=("not smaller", "unpacks", "reads as much"),
    at_least=lambda a, b: a >= b,
):
    before, early = suspect.counted(), suspect.memory()
    suspect.step()
    after = suspect.counted()
    start = {"read": 0, "unpacked": 0} if since_start else before
    held = held_of(early if asks_first else suspect.memory())
    read, unpacked = (after[name] - start[name] for name in ("read", "unpacked"))
    unpacked = after["unpacked"] if unpacked_ever else unpacked
    fits = {
        "not smaller": at_least(held, dense_bytes),
        "unpacks": unpacked > 0,
        "reads as much": at_least(read, dense_bytes),
    }
    verdict = next((name for name in order if fits[name]), "on")
    return {"held": held, "read": read, "verdict": verdict}


Q.mistakes(
    _prove,
    {
        "the bytes of the tensors are added up. A small view keeps its whole piece of memory alive, "
        "and the device pays for the piece.": {
            "held_of": lambda memory: sum(own for _, _, own in memory)
        },
        "a piece in which two tensors lie is counted twice. Each piece once.": {
            "held_of": lambda memory: sum(whole for _, whole, _ in memory)
        },
        "pieces of the same size are taken for one. It is the number that tells pieces apart.": {
            "held_of": lambda memory: sum({whole for _, whole, _ in memory})
        },
        "the memory is looked at before the step. What the step takes to unpack into is missed.": {
            "asks_first": True
        },
        "the counters are those since the cache was made. Take what they were before the step from "
        "what they are after it.": {"since_start": True},
        "what was unpacked while the text was read is counted as well. It is the step that is asked "
        "about.": {"unpacked_ever": True},
        'the verdict "unpacks" is never given: memory and reading are small, and the copy that each '
        "step makes goes unseen.": {"order": ("not smaller", "reads as much")},
        "nobody asks what the step read. A cache that takes less memory and is read three times is "
        "no faster.": {"order": ("not smaller", "unpacks")},
        "nobody asks what is held. To read less is not to hold less.": {
            "order": ("unpacks", "reads as much")
        },
        'the verdicts are asked in another order. The first one in the table is "not smaller".': {
            "order": ("unpacks", "not smaller", "reads as much")
        },
        'exactly dense_bytes counts as less. "At least" is >=.': {"at_least": lambda a, b: a > b},
    },
)
