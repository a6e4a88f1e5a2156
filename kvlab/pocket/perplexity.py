"""Running text: what the model makes of text no generator wrote, and how its own prose reads.

N tokens or bytes in a row, B windows or rows, S tokens of a window.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import math
import platform
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from kvlab.generation import generate
from kvlab.model import Transformer
from kvlab.pocket import bpe, world
from kvlab.sampling import Sampler

PARTS = {"help topics": "topic ", "docstrings": "module "}
OPENINGS = (
    "",
    "Today's weather is so",
    "The queen sat on the",
    "The king and the queen",
    "In the morning Anna",
    "Peter went to the",
    "The band Queen",
    "A man can be a king.",
)
SOURCE = (
    "help topics (pydoc_data.topics) and docstrings of the standard library; of the topics and"
    " modules, the tenth that a hash of the name holds out; without the paragraphs that stand in"
    " the rest too"
)
N_PROSE = 100  # tokens of each sample
TAIL, LONGEST_PERIOD = 48, 24


# ------------------------------------------------------------------------------------ documentation
@torch.inference_mode()
def nats(model: Transformer, ids: Sequence[int], context: int, batch_tokens: int = 4096) -> float:
    """Sum the loss of a text in windows of `context` tokens, each read after the opening token.

    Every token of the text is scored, the first of a window given the opening token alone.
    """
    step = context - 1
    windows = [[0, *ids[start : start + step]] for start in range(0, len(ids), step)]
    whole = [window for window in windows if len(window) == context]
    n_rows = max(1, batch_tokens // context)
    batches = [whole[i : i + n_rows] for i in range(0, len(whole), n_rows)]
    batches += [[window] for window in windows if len(window) < context]
    total = 0.0
    for rows in batches:
        tokens_BS = torch.tensor(rows)
        logits_BSV = model(tokens_BS[:, :-1])
        total += F.cross_entropy(
            logits_BSV.flatten(0, 1), tokens_BS[:, 1:].flatten(), reduction="sum"
        ).item()
    return total


class NGrams:
    """An n-gram model of whole numbers below `2**bits`: interpolated Kneser-Ney, one discount each.

    Source: Chen and Goodman 1999, "An Empirical Study of Smoothing Techniques", section 3.
    Raises: ValueError when n numbers of that many bits do not fit into 63.
    """

    def __init__(self, text: Sequence[int], n: int, bits: int) -> None:
        if n * bits > 63:
            raise ValueError(f"{n}-grams of {bits} bits were asked for; expected at most 63 bits.")
        self.n, self.bits = n, bits
        self.tables = []  # of each length: contexts, their mass, their discount's share; grams
        grams, counts = np.unique(
            _packed(np.asarray(text, dtype=np.int64), n, bits), return_counts=True
        )
        for length in range(n, 0, -1):
            self.tables.append(self._table(grams, counts))
            # a shorter gram counts once for each different one before it
            grams, counts = np.unique(grams & ((1 << bits * (length - 1)) - 1), return_counts=True)
        self.tables.reverse()

    def _table(self, grams: np.ndarray, counts: np.ndarray):
        once, twice = max(1, (counts == 1).sum()), (counts == 2).sum()
        discount = once / (once + 2 * twice)
        contexts, first, n_types = np.unique(
            grams >> self.bits, return_index=True, return_counts=True
        )
        mass = np.add.reduceat(counts, first)
        return grams, counts - discount, contexts, mass, discount * n_types / mass

    def bits_of(self, text: Sequence[int]) -> float:
        """Sum the bits that a text costs, each number given up to n - 1 before it."""
        text_N = np.asarray(text, dtype=np.int64)
        p_N = np.full(len(text_N), 2.0**-self.bits)
        for length, (grams, counts, contexts, mass, share) in enumerate(self.tables, 1):
            asked_N = _packed(text_N, length, self.bits)
            lower_N = p_N[length - 1 :]
            at_N, known_N = _found(contexts, asked_N >> self.bits)
            gram_N, seen_N = _found(grams, asked_N)
            here_N = np.where(seen_N, counts[gram_N], 0.0) / mass[at_N] + share[at_N] * lower_N
            p_N[length - 1 :] = np.where(known_N, here_N, lower_N)
        return float(-np.log2(p_N).sum())


def _packed(text_N: np.ndarray, n: int, bits: int) -> np.ndarray:
    """Write each n numbers in a row as one."""
    packed_N = np.zeros(max(0, len(text_N) - n + 1), dtype=np.int64)
    for i in range(n):
        packed_N = packed_N << bits | text_N[i : i + len(packed_N)]
    return packed_N


def _found(sorted_M: np.ndarray, wanted_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where numbers stand in a sorted table, and whether they do."""
    at_N = np.searchsorted(sorted_M, wanted_N).clip(max=len(sorted_M) - 1)
    return at_N, sorted_M[at_N] == wanted_N


def documentation(
    model: Transformer, tokenizer: Tokenizer, contexts: Sequence[int] = (256, 2048)
) -> dict[str, Any]:
    """Count the bits a byte of held-out documentation costs the model, and simpler ones.

    The 5-grams learn from the documentation that the model was trained on. Documentation quotes
    itself, so a held-out paragraph that stands in a trained text too is left out.
    """
    trained, held = bpe.python_docs()
    learned = "\n\n".join(trained.values())
    known = paragraphs(learned)
    of_bytes = NGrams(list(learned.encode()), 5, 8)
    of_tokens = NGrams(bpe.ids_of(tokenizer, learned), 5, 11)
    parts = {part: unseen_text(held, mark, known) for part, mark in PARTS.items()}
    whole = "\n\n".join(parts.values())
    windows = [n for n in contexts if n <= model.config.max_positions]
    ours: dict[str, dict[int, float]] = {}
    for part, words in parts.items():
        ids = bpe.ids_of(tokenizer, words)
        ours[part] = {n: nats(model, ids, n) / math.log(2) for n in windows}
    ours["together"] = {n: sum(ours[part][n] for part in parts) for n in windows}
    found = {}
    for part, words in (parts | {"together": whole}).items():
        raw = words.encode()
        bits = {f"the model, windows of {n}": value for n, value in ours[part].items()}
        bits |= _compressed(raw) | {
            "5-gram of bytes": of_bytes.bits_of(list(raw)),
            "5-gram of its tokens": of_tokens.bits_of(bpe.ids_of(tokenizer, words)),
        }
        found[part] = {what: round(value / len(raw), 3) for what, value in bits.items()}
        found[part]["bytes"] = len(raw)
    return {
        "source": SOURCE,
        "bytes_held_out": sum(len(text.encode()) for text in held.values()),
        "python": platform.python_version(),
        "sha256": hashlib.sha256(whole.encode()).hexdigest(),
        "trained_bytes": len(learned.encode()),
        "trained_sha256": hashlib.sha256(learned.encode()).hexdigest(),
        "bits_per_byte": found,
    }


def _compressed(raw: bytes) -> dict[str, int]:
    """Count the bits that compressors need."""
    return {
        "gzip -9": 8 * len(gzip.compress(raw, 9, mtime=0)),
        "xz -9e": 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
    }


def paragraphs(text: str) -> set[str]:
    """Return the different paragraphs of a text, without the space around them."""
    return {paragraph.strip() for paragraph in text.split("\n\n")}


def unseen_text(held: dict[str, str], mark: str, known: set[str]) -> str:
    """Join the paragraphs of texts whose names start with a mark, but for the known ones."""
    return "\n\n".join(
        paragraph
        for name, text in held.items()
        if name.startswith(mark)
        for paragraph in text.split("\n\n")
        if paragraph.strip() not in known
    )


# --------------------------------------------------------------------------------------- free prose
def loops(ids: Sequence[int]) -> bool:
    """Tell whether the last 48 tokens repeat themselves with a period of at most 24."""
    tail = list(ids[-TAIL:])
    return any(tail[period:] == tail[:-period] for period in range(1, LONGEST_PERIOD + 1))


def repeated(ids: Sequence[int], n: int = 4) -> float:
    """Return the share of n-grams that stood earlier in the same text."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams)


def prose(model: Transformer, tokenizer: Tokenizer, n_seeds: int) -> dict[str, Any]:
    """Let the model go on from some openings for 100 tokens; count what loops and what repeats.

    Where a text ends, the next one begins: an ending token is followed like any other. Beside it
    the world's own prose, cut into pieces as long.
    """
    prompts = [[0, *bpe.ids_of(tokenizer, opening)] for opening in OPENINGS]
    found = {
        f"temperature {temperature:g}": _counted(
            [
                row
                for seed in range(n_seeds)
                for row in generate(
                    model, prompts, N_PROSE, pick=Sampler(temperature, seed=seed), eos=()
                ).tolist()
            ],
            tokenizer,
        )
        for temperature in (1.0, 0.8)
    }
    found["greedy"] = _counted(generate(model, prompts, N_PROSE, eos=()).tolist(), tokenizer)
    rng, ids = random.Random(5), []
    while len(ids) < N_PROSE * n_seeds * len(prompts):
        ids += [0, *bpe.ids_of(tokenizer, world.text_of(world.prose(rng, 200)))]
    own = [ids[i : i + N_PROSE] for i in range(0, N_PROSE * n_seeds * len(prompts), N_PROSE)]
    found["the world's own prose"] = _counted(own, tokenizer)
    return found


def _counted(rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "texts": len(rows),
        "loop": sum(map(loops, rows)),
        "repeated_4_grams": round(sum(map(repeated, rows)) / len(rows), 4),
        "first": tokenizer.decode(list(rows[0]), skip_special_tokens=False),
    }
