"""The pocket model's whole examination: every measurement, and the bars it has to pass.

kvlab eval pocket --out benchmarks/results/pocket.json --log runs/seed0/log.jsonl
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from kvlab import files
from kvlab.checkpoint import load
from kvlab.measure import machine
from kvlab.measure.progress_bar import progress
from kvlab.model import Transformer
from kvlab.pocket import bpe, heads, path, perplexity
from kvlab.pocket.bars import IN_SENTENCES, bars
from kvlab.pocket.question_sets import (
    BARRED_TOKENS,
    DEPTHS,
    cell_name,
    cells,
    in_own_words,
    needle_row,
    rows,
)
from kvlab.pocket.questions import continued, counted, in_words, scored, scored_either, sha256
from kvlab.pocket.training_log import training_of

Result = dict[str, Any]

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
    some, few, each = (-(-n_prompts // n) for n in (2, 10, len(perplexity.OPENINGS)))
    parts: dict[str, Callable[[], Any]] = {
        "retrieval": lambda: heads.retrieval(model, tokenizer, n_prompts),
        "sinks": lambda: heads.sinks(model, tokenizer, some),
        "outliers": lambda: heads.outliers(model, tokenizer, few),
        "documentation": lambda: perplexity.documentation(model, tokenizer),
        "prose": lambda: perplexity.prose(model, tokenizer, each),
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
    found = _told_of(model, folder) | {
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


def _told_of(model: Transformer, folder: Path) -> Result:
    """Say what was examined, and on what machine."""
    return {
        "machine": machine() | {"tokenizers": tokenizers.__version__},
        "parameters": model.config.n_params,
        "max_positions": model.config.max_positions,
        "weights_bytes": (folder / "model.safetensors").stat().st_size,
        "weights_sha256": sha256(folder / "model.safetensors"),
        "tokenizer_sha256": sha256(folder / "tokenizer.json"),
    }


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


# --------------------------------------------------------------------------------- the command line
def run(name: str, n_prompts: int, out: Path | None, log: Path | None) -> Result:
    """Examine "pocket" or a folder; `log` is the training's, by default that beside the folder.

    Raises: ValueError when `out` could not be written or `log` not be read, before minutes pass.
    """
    folder = path() if name == "pocket" else Path(name).expanduser()
    if out and (out.is_dir() or not files.folder_of(out).is_dir()):
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
