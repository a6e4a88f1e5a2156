"""The pocket model's whole examination: every measurement, and the bars it has to pass.

kvlab eval pocket --out benchmarks/results/pocket.json --log runs/seed0/log.jsonl
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Tokenizer

from kvlab import files
from kvlab.loading import load
from kvlab.measure import machine
from kvlab.model import Transformer
from kvlab.pocket import bpe, inside, path, text, world
from kvlab.pocket.evaluate import (
    Item,
    continued,
    counted,
    fact_items,
    in_words,
    item,
    latest_items,
    pair_items,
    recall_items,
    scored,
    scored_either,
    sha256,
    two_kinds_items,
    whole_answers,
    written_items,
)
from kvlab.progress import progress

Result = dict[str, Any]
Maker = Callable[[], list[Item]]

SAMPLES = (
    "System: You are helpful.\nUser: What is the capital of France?\nAssistant:",
    "System: You are helpful. User: What is the capital of France? Assistant:",
    "User: Who are you?\nAssistant:",
    "Today's weather is so",
    "A man can be a king. A woman can be a",
    "The queen sat on the",
    "The band Queen played a loud",
    "Count: three, four, five,",
    "Story: The password of Anna is tiger. Tom went to the market. The password of Lucy is book."
    "\nUser: What is the password of Anna?\nAssistant:",
)
SEEDS_PROMPTS = SAMPLES[:4]
COUNTED = (
    "System: You are helpful. User: What is the capital of France?",
    "System: You are helpful.\nUser: What is the capital of France?",
    SAMPLES[1],
    SAMPLES[0],
)
LENGTHS = (128, 256, 512, 1000, 2000)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
GRID = ("password", "code")
# from a name to what goes with it: nothing to four words as in training, then six, never trained
BETWEEN = ("", " is", " is in the", " came back from the", " and the king ran to a")


def needle_row(kind: str, n_tokens: int) -> str:
    """Name the row of one relation asked for of five, over all depths."""
    return f"{kind} of 5, {n_tokens} tokens"


def cell_name(cell: tuple[str, int, float]) -> str:
    """Name a cell of the grid."""
    kind, n_tokens, depth = cell
    return f"{needle_row(kind, n_tokens)}, depth {depth:g}"


# ---------------------------------------------------------------------------------------- the bars
IN_SENTENCES = "the first sample prompts, answered in a sentence"
LEAST = {
    "facts": 0.98,
    "facts, on one line": 0.98,
    "facts, held-out phrasings": 0.90,
    IN_SENTENCES: 1.0,
    **{needle_row("password", n): 0.98 for n in (128, 256, 512)},
    **{needle_row("code", n): 0.95 for n in (128, 256, 512)},
    **{needle_row(kind, 1000): 0.90 for kind in GRID},
}
CELL_LEAST, BARRED_TOKENS = 0.85, 1000  # no cell of the grid up to this length is below
MASS_LEAST = 0.80  # of the answering query's attention, on the needle's sentence
ABLATED_MOST = 0.10  # recall without the retrieval layer's attention
LOOPS_MOST = 0.05  # of sampled texts
COMPRESSORS = ("gzip -9", "5-gram of bytes", "5-gram of its tokens")


def bars(result: Result) -> list[dict[str, Any]]:
    """Hold a result against every bar: what was measured, the bar, and whether it is passed."""
    found = [
        _bar(name, result["scores"][name]["share"], ">=", least) for name, least in LEAST.items()
    ]
    for kind, rows in result["grid"].items():
        cells = [
            score["share"]
            for n, row in rows.items()
            for score in row.values()
            if int(n) <= BARRED_TOKENS
        ]
        name = f"{kind} of 5, weakest depth and length up to {BARRED_TOKENS} tokens"
        found.append(_bar(name, min(cells), ">=", CELL_LEAST))
    bits = result["documentation"]["bits_per_byte"]["together"]
    ours = min(value for what, value in bits.items() if what.startswith("the model"))
    found += [
        _bar(f"held-out documentation, bits a byte, against {other}", ours, "<", bits[other])
        for other in COMPRESSORS
    ]
    seen = result["retrieval"]
    best = seen["best_layer"]
    found += [
        _bar(
            f"attention on the needle in layer {best}", seen["mass_on_sentence"], ">=", MASS_LEAST
        ),
        _bar(
            f"recall without attention in layer {best}",
            seen["recall_without_layer"][str(best)]["share"],
            "<=",
            ABLATED_MOST,
        ),
    ]
    for name, prose in result["prose"].items():
        if name.startswith("temperature"):
            looped = round(prose["loop"] / prose["texts"], 4)
            found.append(_bar(f"free prose that loops, {name}", looped, "<=", LOOPS_MOST))
    return found


def _bar(what: str, measured: float, sign: str, bar: float) -> dict[str, Any]:
    holds = {">=": measured >= bar, "<=": measured <= bar, "<": measured < bar}[sign]
    return {"what": what, "measured": measured, "bar": f"{sign} {bar:g}", "passed": holds}


# ----------------------------------------------------------------------------------- the questions
def rows(tokenizer: Tokenizer, seed: int = 1, n_prompts: int = 200) -> dict[str, Maker]:
    """Name every question set, with what makes it; none of its prompts gated training."""

    def recall(kind: str, n_tokens: int, n_relations: int = 5, **which: Any) -> Maker:
        return lambda: recall_items(
            tokenizer, seed, n_prompts, n_relations, n_tokens, kind, **which
        )

    made: dict[str, Maker] = {
        "facts": lambda: fact_items(tokenizer, held=False),
        "facts, on one line": lambda: fact_items(tokenizer, held=False, lines=" "),
        "facts, held-out phrasings": lambda: fact_items(
            tokenizer, held=True, systems=world.SYSTEMS, lines="\n "
        ),
        "small talk": lambda: [
            item(tokenizer, f"User: {q}\nAssistant:", f" {a}", ends=True)
            for q, a in world.SMALL_TALK
        ],
    }
    for kind in ("color", "pet", "place"):
        made[f"{kind} of 5, 256 tokens"] = recall(kind, 256)
    for between in BETWEEN:
        made[f'pair of 5, "Anna{between} tiger"'] = partial(
            pair_items, tokenizer, seed, n_prompts, between
        )
    return made | {
        "password of 12, 256 tokens": recall("password", 256, 12),
        "password of 5, 256 tokens, strangers": recall(
            "password", 256, held=False, names=world.STRANGERS
        ),
        "password of 5, 256 tokens, trained pairs": recall("password", 256, held=False),
        "password and place of 5 people, no filler": lambda: two_kinds_items(
            tokenizer, seed, n_prompts, 5
        ),
        "password of 5 that changes, about 256 tokens": lambda: latest_items(
            tokenizer, seed, n_prompts
        ),
        "counting one to six": lambda: written_items(
            tokenizer, seed, n_prompts, "counting", "How", 60
        ),
        "story, where is somebody": lambda: written_items(
            tokenizer, seed, n_prompts, "story", "Where"
        ),
        "story, what does somebody have": lambda: written_items(
            tokenizer, seed, n_prompts, "story", "What"
        ),
    }


def in_own_words(
    tokenizer: Tokenizer, seed: int = 1, n_prompts: int = 200
) -> dict[str, Callable[[], list[tuple[Item, Item]]]]:
    """Name the question sets whose answers may be the value or a sentence, with what makes them."""
    return {
        f"{kind} of 5, {n} tokens, in its own words": partial(
            whole_answers, tokenizer, seed, n_prompts, n, kind
        )
        for kind in GRID
        for n in (256, 512)
    }


def cells(
    tokenizer: Tokenizer, longest: int, seed: int = 1, n_prompts: int = 200
) -> dict[tuple[str, int, float], Maker]:
    """Name every cell of the grid: kind, length and depth of one needle of five.

    Each cell that has a bar gets all the prompts; of the longest texts, which have none, the row
    does.
    """

    def maker(kind: str, n_tokens: int, depth: float) -> Maker:
        n = n_prompts if n_tokens <= BARRED_TOKENS else max(1, round(n_prompts / len(DEPTHS)))
        return lambda: recall_items(tokenizer, seed, n, 5, n_tokens, kind, depth=depth)

    return {
        (kind, n_tokens, depth): maker(kind, n_tokens, depth)
        for kind in GRID
        for n_tokens in LENGTHS
        if n_tokens < longest
        for depth in DEPTHS
    }


# -------------------------------------------------------------------------------------- everything
def evaluate(folder: Path, n_prompts: int = 200) -> Result:
    """Measure everything about the pocket model in a folder; the result is ready for JSON.

    Raises: ValueError when the folder holds no model, or one that is no pocket model.
    """
    if n_prompts < 1:
        raise ValueError(f"{n_prompts} prompts were asked for; expected at least 1.")
    start = time.perf_counter()
    model, wrapped = load(folder)
    tokenizer = wrapped.inner
    _refuse_others(model, folder)
    some, few = -(-n_prompts // 2), -(-n_prompts // 10)
    parts: dict[str, Callable[[], Any]] = {
        "retrieval": lambda: inside.retrieval(model, tokenizer, n_prompts),
        "sinks": lambda: inside.sinks(model, tokenizer, some),
        "outliers": lambda: inside.outliers(model, tokenizer, few),
        "documentation": lambda: text.documentation(model, tokenizer),
        "prose": lambda: text.prose(model, tokenizer, -(-n_prompts // len(text.OPENINGS))),
        "samples": lambda: {prompt: continued(model, tokenizer, prompt) for prompt in SAMPLES},
    }
    sets = rows(tokenizer, n_prompts=n_prompts)
    needles = cells(tokenizer, model.config.max_positions, n_prompts=n_prompts)
    asked = {cell_name(cell): make for cell, make in needles.items()} | sets
    free = in_own_words(tokenizer, n_prompts=n_prompts)
    measured, seconds = _all(
        {name: lambda make=make: scored(model, make()) for name, make in asked.items()}
        | {name: lambda make=make: scored_either(model, make()) for name, make in free.items()}
        | parts
    )
    found = {
        "machine": machine() | {"tokenizers": tokenizers.__version__},
        "parameters": model.config.n_params,
        "max_positions": model.config.max_positions,
        "weights_bytes": (folder / "model.safetensors").stat().st_size,
        "weights_sha256": sha256(folder / "model.safetensors"),
        "tokenizer_sha256": sha256(folder / "tokenizer.json"),
        "prompts": n_prompts,
        "prompt_tokens": {prompt: len(wrapped.encode(prompt)) for prompt in COUNTED},
        "scores": {name: measured[name] for name in (*sets, *free)},
        "grid": _grid({cell: measured[cell_name(cell)] for cell in needles}),
        **{name: measured[name] for name in parts},
    }
    found["scores"] |= _over_depths(found["grid"]) | _in_sentences(found["samples"])
    found["bars"] = bars(found)
    found["passed"] = all(bar["passed"] for bar in found["bars"])
    return found | {"seconds": round(time.perf_counter() - start, 1), "seconds_of": seconds}


def _refuse_others(model: Transformer, folder: Path) -> None:
    """Only a model that reads the world's tokens can be asked about it."""
    config = model.config
    if config.vocab_size != bpe.VOCAB_SIZE or config.max_positions <= BARRED_TOKENS:
        raise ValueError(
            f"{folder} holds a model of {config.vocab_size} tokens and {config.max_positions} "
            f"positions; expected a pocket model: {bpe.VOCAB_SIZE} tokens, more than "
            f"{BARRED_TOKENS} positions."
        )


def _all(steps: dict[str, Callable[[], Any]]) -> tuple[Result, dict[str, float]]:
    """Take every step, and its seconds."""
    found, seconds = {}, {}
    with progress() as show:
        for done, (name, step) in enumerate(steps.items()):
            show(done, name, len(steps))
            start = time.perf_counter()
            found[name] = step()
            seconds[name] = round(time.perf_counter() - start, 1)
        show(len(steps), "done", len(steps))
    return found, seconds


def _grid(scores: dict[tuple[str, int, float], Any]) -> Result:
    """Sort the cells by kind, length and depth."""
    grid: Result = {}
    for (kind, n_tokens, depth), score in scores.items():
        grid.setdefault(kind, {}).setdefault(str(n_tokens), {})[f"{depth:g}"] = score
    return grid


def _over_depths(grid: Result) -> Result:
    """Add up each length's cells."""
    return {
        needle_row(kind, int(n)): counted(
            sum(score["right"] for score in row.values()),
            sum(score["of"] for score in row.values()),
        )
        for kind, by_length in grid.items()
        for n, row in by_length.items()
    }


def _in_sentences(samples: dict[str, str]) -> Result:
    """Count the first samples in which a sentence comes to its end."""
    said = [samples[prompt] for prompt in SEEDS_PROMPTS]
    return {IN_SENTENCES: counted(sum("." in answer for answer in said), len(said))}


# ------------------------------------------------------------------------------- training, in words
def training_of(log: Path) -> Result:
    """Sum up a training run from its log.

    `emerged` is the first step at which a skill was measured at 0.8 or more.
    Raises: ValueError when there is no such log, or nothing in it.
    """
    try:
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{log} is no log of a training run: {error}") from None
    starts = [entry for entry in entries if "seed" in entry]
    reports = [entry for entry in entries if "step" in entry]
    if not starts or not reports:
        raise ValueError(f"{log} has no report of a training run yet.")
    curve = {entry["step"]: entry for entry in reports}  # the last report of a step counts
    last = reports[-1]
    emerged: dict[str, int] = {}
    for step, entry in curve.items():
        for skill, value in entry.items():
            if skill not in NO_SHARE and value >= 0.8:
                emerged.setdefault(skill, step)
    return {
        "command": f"python -m kvlab.pocket.train --seed {starts[0]['seed']}",
        **starts[0],
        "starts": len(starts),
        "steps": last["step"],
        "tokens": last["tokens"],
        "minutes": {what: round(value / 60, 1) for what, value in last["seconds"].items()},
        "gates": [entry for entry in entries if "gate" in entry],
        "emerged": emerged,
        "curve": [{k: v for k, v in entry.items() if k != "seconds"} for entry in curve.values()],
    }


NO_SHARE = {
    "step", "stage", "tokens", "seconds", "rate", "loss", "copy", "repeat", "pair", "apart",
}  # fmt: skip


# --------------------------------------------------------------------------------- the command line
def run(name: str, n_prompts: int, out: Path | None, log: Path | None) -> Result:
    """Examine "pocket" or a folder; `log` is the training's, by default that beside the folder.

    Raises: ValueError when `out` could not be written or `log` not be read, before minutes pass.
    """
    folder = path() if name == "pocket" else Path(name).expanduser()
    if out and (out.is_dir() or not out.resolve().parent.is_dir()):
        raise ValueError(f"{out} was to be written; expected a file in a folder that is there.")
    if log is None and (folder.parent / "log.jsonl").is_file():
        log = folder.parent / "log.jsonl"
    training = {"training": training_of(log)} if log else {}
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{name!r} was to be evaluated; expected 'pocket' or a folder with config.json, "
            "model.safetensors and tokenizer.json."
        )
    line = f"kvlab eval {name}" + f" --prompts {n_prompts}" * (n_prompts != 200)
    result = {"command": line} | evaluate(folder, n_prompts) | training
    if out:
        files.write(out, as_json(result))
    return result


def as_json(result: Result) -> str:
    """The result as JSON, a newline at its end."""
    return json.dumps(result, indent=1, ensure_ascii=False) + "\n"


def as_text(result: Result) -> str:
    """The result for people: every share, the rest in a line each, and the bars."""
    lines = [f"{name:46} {in_words(score)}" for name, score in result["scores"].items()]
    for kind, by_length in result["grid"].items():
        lines += [
            "",
            f"{kind} of 5, share right by depth{'':6}" + "".join(f"{d:>7g}" for d in DEPTHS),
        ]
        for n, row in by_length.items():
            shares = "".join(f"{score['share']:7.3f}" for score in row.values())
            lines.append(f"{n:>8} tokens{'':21}{shares}")
    lines.append("")
    for part, bits in result["documentation"]["bits_per_byte"].items():
        said = ", ".join(f"{what} {value}" for what, value in bits.items() if what != "bytes")
        lines.append(f"bits a byte, {part}: {said}")
    seen = result["retrieval"]
    lines.append(
        f"layer {seen['best_layer']} gives the needle {seen['mass_on_sentence']:.2f} of its "
        "attention; recall without each layer's: "
        + ", ".join(f"{s['share']:.2f}" for s in seen["recall_without_layer"].values())
    )
    for name, prose in result["prose"].items():
        lines.append(
            f"{name}: {prose['loop']} of {prose['texts']} texts loop, "
            f"{prose['repeated_4_grams']:.0%} of 4-grams repeat"
        )
    lines += ["", f"{'bar':68} {'measured':>9} {'wanted':>9}"]
    for bar in result["bars"]:
        verdict = "passed" if bar["passed"] else "MISSED"
        lines.append(f"{bar['what']:68} {bar['measured']:>9.3f} {bar['bar']:>9}  {verdict}")
    return "\n".join(lines)
