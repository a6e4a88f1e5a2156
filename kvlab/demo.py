"""One prompt answered twice, with a cache and without: the book in twenty seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kvlab.generation import generate_uncached, greedy, pad, stream
from kvlab.loading import load
from kvlab.measure import machine, synchronize
from kvlab.probe import Probe

PROMPT = """Facts: The password of Anna is tiger. The password of Tom is lemon. The password of \
Lucy is lamp. The password of Peter is whale. The king and the queen live in the castle. Today's \
weather is so windy that Ruth holds the hat.
User: What is the password of Tom?
Assistant:"""


def run(
    prompt: str | None, n_new: int, *, model: str = "pocket", device: str = "cpu", dtype: str = "float32"
) -> dict[str, Any]:
    """Generate greedily both ways and count.

    Both runs go on for all `n_new` tokens, past the end of the answer, so that they do the same
    work. Returns tokens, rows projected, bytes and seconds of each, and the ratio.
    Raises: ValueError when the prompt is empty or does not fit.
    """
    if prompt is not None and not prompt.strip():
        raise ValueError("The prompt is empty; expected some text.")
    transformer, tokenizer = load(model, device=device, dtype=dtype)
    ids = tokenizer.encode(PROMPT if prompt is None else prompt)
    for warm in (2, 3):
        generate_uncached(transformer, ids, warm)
        list(stream(transformer, ids, warm, eos=()))
    cache = transformer.new_cache(1, len(ids) + n_new - 1)
    cached_steps = stream(transformer, ids, n_new, cache=cache, eos=())
    with Probe(transformer) as seen:
        cached_ids, cached_seconds = _timed(step.token_B for step in cached_steps)
    with Probe(transformer) as seen_again:
        uncached_ids, uncached_seconds = _timed(_uncached(transformer, ids, n_new))
    answer = cached_ids
    for end in transformer.config.eos_ids:
        answer = answer[: answer.index(end)] if end in answer else answer
    return {
        "prompt": PROMPT if prompt is None else prompt,
        "prompt_tokens": len(ids),
        "new_tokens": n_new,
        "answer": tokenizer.decode(answer),
        "same_tokens": cached_ids == uncached_ids,
        "cached": _side(seen.rows_projected, cached_seconds, cache.bytes_written),
        "uncached": _side(seen_again.rows_projected, uncached_seconds, 0),
        "cache_bytes": cache.live_bytes,
        "ratio": uncached_seconds[-1] / cached_seconds[-1],
        "machine": machine(),
    }


def _uncached(transformer, ids: list[int], n_new: int):
    """Token by token, each from the whole text: `generate_uncached` with a clock between."""
    tokens_BS, _ = pad(ids, transformer.device)
    for _ in range(n_new):
        with torch.inference_mode():
            token_B = greedy(transformer.head(transformer.hidden(tokens_BS)[:, -1]))
            tokens_BS = torch.cat((tokens_BS, token_B[:, None]), dim=1)
        yield token_B


def _timed(tokens) -> tuple[list[int], list[float]]:
    """The tokens, and the seconds from the start at which each was there."""
    import time

    synchronize()
    start, ids, seconds = time.perf_counter(), [], []
    for token_B in tokens:
        ids.append(int(token_B[0]))
        seconds.append(time.perf_counter() - start)
    return ids, seconds


def _side(rows: int, seconds: list[float], bytes_written: int) -> dict[str, Any]:
    return {
        "rows_projected": rows,
        "seconds": seconds[-1],
        "first_token_seconds": seconds[0],
        "bytes_written": bytes_written,
        "seconds_at_token": [round(s, 6) for s in seconds],
    }


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    with_cache, without = report["cached"], report["uncached"]
    same = "the same tokens" if report["same_tokens"] else "DIFFERENT tokens"
    where = report["machine"]
    return "\n".join(
        [
            report["prompt"] + report["answer"],
            "",
            f"{report['prompt_tokens']} prompt tokens, {report['new_tokens']} new ones, {same} "
            "both ways (the answer ends earlier; both go on, to do the same work)",
            "",
            f"{'':<24}{'with cache':>14}{'without':>14}",
            f"{'rows projected':<24}{with_cache['rows_projected']:>14,}{without['rows_projected']:>14,}",
            f"{'bytes held in cache':<24}{report['cache_bytes']:>14,}{0:>14}",
            f"{'seconds':<24}{with_cache['seconds']:>14.2f}{without['seconds']:>14.2f}",
            "",
            f"{report['ratio']:.1f} times as fast with the cache, on {where['cpu']}, "
            f"{where['threads']} threads, torch {where['torch']}.",
        ]
    )


def plot(report: dict[str, Any], path: str | Path) -> None:
    """Seconds until each token, both ways, as a picture.

    Raises: ValueError when the file's ending is none that matplotlib writes, or the folder is not
    there.
    """
    path = Path(path)
    if not path.resolve().parent.is_dir():
        raise ValueError(f"{path}: its folder is not there; expected an existing folder.")
    from kvlab.view.figures import seconds_at_token

    figure = seconds_at_token(
        report["cached"]["seconds_at_token"], report["uncached"]["seconds_at_token"]
    )
    figure.savefig(path, dpi=150)
