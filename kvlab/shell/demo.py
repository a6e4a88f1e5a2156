"""One prompt answered twice, with a cache and without: the book in twenty seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from kvlab import files
from kvlab.cache import KVCache
from kvlab.checkpoint import load
from kvlab.fast.choosing import step_for
from kvlab.generation import generate, stream
from kvlab.kernels import ONE_THREAD_BYTES
from kvlab.measure import machine, synchronize, threads
from kvlab.measure.probe import Probe
from kvlab.measure.uncached import generate_uncached, stream_uncached
from kvlab.model import Transformer
from kvlab.prompts import check_positions
from kvlab.shell.answer import as_ids
from kvlab.tokenizer import Tokenizer

FACTS = """The password of Anna is tiger. The password of Tom is lemon. The password of Lucy is \
lamp. The password of Peter is whale. The king and the queen live in the castle. Today's weather \
is so windy that Ruth holds the hat."""
QUESTION = "What is the password of Tom?"
PROMPT = f"Facts: {FACTS}\nUser: {QUESTION}\nAssistant:"


def run(
    prompt: str | None,
    n_new: int,
    *,
    model: str = "pocket",
    device: str = "cpu",
    dtype: str = "float32",
    system: str | None = None,
    raw: bool = False,
) -> dict[str, Any]:
    """Generate greedily both ways and count.

    The prompt is put into the model's chat form, if its checkpoint has one, unless `raw`.
    Both runs, and a third where the compiled step pays, go on for all `n_new` tokens, past the end
    of the answer. A small model keeps to one thread. Returns counts, seconds, bytes and a ratio.
    Raises: ValueError when the prompt is empty or does not fit.
    """
    transformer, tokenizer = load(model, device=device, dtype=dtype)
    prompt, ids = _asked(tokenizer, model, prompt, system, raw)
    check_positions(transformer, len(ids), n_new)  # before memory is taken
    cache = transformer.new_cache(1, len(ids) + n_new - 1)
    with threads(_enough_threads(transformer)):
        where = machine()
        cached = _cached(transformer, ids, n_new, cache)
        uncached = _uncached(transformer, ids, n_new)
        compiled, third = _compiled(transformer, ids, n_new)
    return {
        "prompt": prompt,
        "prompt_tokens": len(ids),
        "new_tokens": n_new,
        "answer": tokenizer.decode(_until_end(cached[0], transformer.config.eos_ids)),
        "same_tokens": cached[0] == uncached[0] == (compiled or cached)[0],
        "cached": _side(*cached),
        "uncached": _side(*uncached),
        "compiled": compiled and _side(*compiled),
        "step": third,
        "cache_bytes": cache.live_bytes,
        "ratio": uncached[1][-1] / cached[1][-1],
        "machine": where,
    }


def _asked(
    tokenizer: Tokenizer, model: str, prompt: str | None, system: str | None, raw: bool
) -> tuple[str, list[int]]:
    """What is shown as the prompt, and its ids."""
    if prompt is not None and not prompt.strip():
        raise ValueError("The prompt is empty; expected some text.")
    if prompt is None and system is None and (model == "pocket" or not tokenizer.template):
        return PROMPT, as_ids(tokenizer, PROMPT, raw=True)
    prompt = f"{FACTS} {QUESTION}" if prompt is None else prompt
    ids = as_ids(tokenizer, prompt, system=system, raw=raw)
    return prompt if raw or not tokenizer.template else f"{prompt}\n", ids


def _until_end(ids: list[int], eos_ids: tuple[int, ...]) -> list[int]:
    """The tokens before the first that ends a text."""
    return ids[: min((i for i, token in enumerate(ids) if token in eos_ids), default=None)]


def _enough_threads(model: Transformer) -> int | None:
    """One where two would mostly wait for each other, on a busy machine for long; None: all."""
    small = sum(weight.nbytes for weight in model.parameters()) < ONE_THREAD_BYTES
    return 1 if small else None


def timed_both_ways(
    model: Transformer, ids: list[int], n_new: int
) -> tuple[list[float], list[float], bool]:
    """Seconds until each new token with a cache, without one, and whether the tokens agree.

    One run each; both go on past an ending token.
    """
    cache = model.new_cache(1, len(ids) + n_new - 1)
    cached_ids, cached, _ = _cached(model, ids, n_new, cache)
    uncached_ids, uncached, _ = _uncached(model, ids, n_new)
    return cached, uncached, cached_ids == uncached_ids


Run = tuple[list[int], list[float], int]


def _cached(model: Transformer, ids: list[int], n_new: int, cache: KVCache) -> Run:
    generate(model, ids, 3, eos=())
    steps = stream(model, ids, n_new, cache=cache, eos=())
    return _timed(model, (step.token_B for step in steps))


def _compiled(model: Transformer, ids: list[int], n_new: int) -> tuple[Run | None, dict[str, Any]]:
    """Where the compiled step pays, a third run with it; and which step pays, and why.

    No probe can count its rows: they are those that its cache took."""
    cache = model.new_cache(1, len(ids) + n_new - 1)
    step = step_for(model, cache, n_new)
    told = {"how": step.how, "why": step.why, "ready_seconds": round(step.seconds, 4)}
    if step.how == "plain":
        return None, told
    steps = stream(model, ids, n_new, cache=cache, decode=step.decode, eos=())
    found, seconds = _clocked(step.token_B for step in steps)
    return (found, seconds, cache.seen), told


def _uncached(model: Transformer, ids: list[int], n_new: int) -> Run:
    generate_uncached(model, ids, 3)
    return _timed(model, stream_uncached(model, ids, n_new))


def _timed(model: Transformer, tokens: Iterator[Tensor]) -> Run:
    """The tokens, the seconds from the start at which each was there, and rows projected."""
    with Probe(model) as seen:
        ids, seconds = _clocked(tokens)
    return ids, seconds, seen.rows_projected


def _clocked(tokens: Iterator[Tensor]) -> tuple[list[int], list[float]]:
    """The tokens, and the seconds from the start at which each was there."""
    synchronize()
    start, ids, seconds = time.perf_counter(), [], []
    for token_B in tokens:
        ids.append(int(token_B[0]))
        seconds.append(time.perf_counter() - start)
    return ids, seconds


def _side(_ids: list[int], seconds: list[float], rows: int) -> dict[str, Any]:
    return {
        "rows_projected": rows,
        "seconds": seconds[-1],
        "first_token_seconds": seconds[0],
        "seconds_at_token": [round(s, 6) for s in seconds],
    }


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    sides = {"with cache": report["cached"], "without": report["uncached"]}
    if report["compiled"]:
        sides = {"compiled step": report["compiled"], **sides}
    held = [report["cache_bytes"]] * (len(sides) - 1) + [0]
    lines = {
        "": list(sides),
        "rows projected": [f"{side['rows_projected']:,}" for side in sides.values()],
        "bytes held in cache": [f"{n:,}" for n in held],
        "seconds": [f"{side['seconds']:.2f}" for side in sides.values()],
    }
    ways = "both ways" if len(sides) == 2 else "in all three ways"
    same = "the same tokens" if report["same_tokens"] else "DIFFERENT tokens"
    where, answer = report["machine"], report["answer"]
    answer = answer.lstrip() if report["prompt"].endswith("\n") else answer
    return "\n".join(
        [
            report["prompt"] + answer,
            "",
            f"{report['prompt_tokens']} prompt tokens, {report['new_tokens']} new ones, {same} "
            f"{ways} (the answer ends earlier; both go on, to do the same work)",
            "",
            *(f"{name:<24}" + "".join(f"{x:>14}" for x in row) for name, row in lines.items()),
            "",
            f"{report['ratio']:.1f} times as fast with the cache, on {where['cpu']}, "
            f"{where['threads']} thread{'s' * (where['threads'] != 1)}, torch {where['torch']}.",
            *([f"{report['step']['why'].capitalize()}."] if report["compiled"] else []),
        ]
    )


def check_picture(path: str | Path) -> None:
    """Refuse a picture that could not be written, before any time is spent.

    Raises: ValueError when the folder is not there, the ending is none that matplotlib writes, or
    the book's packages are missing.
    """
    path = Path(path)
    if not files.folder_of(path).is_dir():
        raise ValueError(f"{path}: its folder is not there; expected an existing folder.")
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise ValueError(f"A picture needs matplotlib ({error}): pip install matplotlib") from None
    endings = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in endings:
        raise ValueError(f"{path}: expected a file that ends in one of {', '.join(endings)}.")


def plot(report: dict[str, Any], path: str | Path) -> None:
    """Seconds until each token, both ways, as a picture."""
    from kvlab.view.figures import seconds_at_token

    figure = seconds_at_token(
        report["cached"]["seconds_at_token"], report["uncached"]["seconds_at_token"]
    )
    with files.writing(path) as part:
        figure.savefig(part, dpi=150)
