"""What a way's cache really takes: resident and peak memory of a process that reads a prompt."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.breakeven.ways import WAYS, Way
from kvlab import Evict, generate, load
from kvlab.measure import threads
from kvlab.prune.scores import streaming

STATUS = Path("/proc/self/status")
N_NEW = 4


def measured(model: str, way: str, n_tokens: int, n_threads: int) -> dict[str, Any] | None:
    """By a process of its own; None where memory cannot be read, as anywhere but on Linux."""
    if not STATUS.exists():
        return None
    line = [sys.executable, "-m", "benchmarks.breakeven.memory"]
    line += [model, way, str(n_tokens), str(n_threads)]
    out = subprocess.run(line, capture_output=True, text=True, check=False)
    if out.returncode:
        raise ValueError(f"The memory of {way!r} could not be measured: {out.stderr[-300:]}")
    return json.loads(out.stdout)


def used(way: Way, model: Any, n_tokens: int) -> dict[str, Any]:
    """Bytes that this process has more after reading a prompt, at most meanwhile, and by its
    cache's own count."""
    _answer(way, model, 64)  # kernels are loaded, and what is made once is made
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    cache = _answer(way, model, n_tokens)
    gc.collect()
    return {
        "tokens": n_tokens,
        "resident_bytes": _status("VmRSS") - before,
        "peak_bytes": _status("VmHWM") - before,
        "cache_bytes": cache.allocated_bytes,
    }


def _answer(way: Way, model: Any, n_tokens: int) -> Any:
    """Read a prompt of random tokens, thin it as the way does, and answer a few tokens."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.config.vocab_size, (n_tokens,), generator=draw).tolist()
    cache, prune = way.empty(model, n_tokens + 2 * N_NEW), None
    if way.kept < 1:
        prune = Evict(streaming, way.kept, recent=min(32, n_tokens // 8))
    first = generate(model, ids, 1, cache=cache, prune=prune, eos=())
    if way.kept < 1:
        cache.shrink(cache.used_L[0] + 2 * N_NEW)
    step, _ = way.step(model, cache)
    token_B = first[:, -1]
    for _ in range(N_NEW):
        token_B = step(model, token_B, cache).argmax(-1)
    return cache


def _status(name: str) -> int:
    """Bytes by the name that Linux gives them."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"{STATUS} says nothing of {name}")


def main(model: str, way: str, n_tokens: str, n_threads: str) -> None:
    with threads(int(n_threads)), torch.inference_mode():
        opened, _ = load(model, dtype=WAYS[way].dtype)
        print(json.dumps(used(WAYS[way], opened, int(n_tokens))))


if __name__ == "__main__":
    main(*sys.argv[1:])
