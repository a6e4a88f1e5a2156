"""Measure the pocket model: what it knows, what it recalls from the text before it.

    python -m kvlab.pocket.evaluate --out benchmarks/results/pocket.json --log runs/pocket/log.jsonl

Each recall set is 200 prompts made from held-out pairs, each share comes with its 95 % interval.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from kvlab.generation import generate
from kvlab.loading import load
from kvlab.model import Transformer
from kvlab.pocket import bpe, path, world

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
COUNTED = (
    "System: You are helpful. User: What is the capital of France?",
    "System: You are helpful.\nUser: What is the capital of France?",
    SAMPLES[1],
    SAMPLES[0],
)


class Item(NamedTuple):
    """A prompt, and the tokens that a right greedy answer consists of."""

    prompt: list[int]
    answer: list[int]


@torch.inference_mode()
def right(model: Transformer, items: Sequence[Item], batch: int = 16) -> list[bool]:
    """Tell for each item whether greedy decoding gives exactly its answer.

    One forward pass over prompt and answer decides it: each of the answer's tokens must be the
    most likely one given those before it. Rows are padded behind, where no query looks.
    """
    verdict: list[bool] = [False] * len(items)
    order = sorted(range(len(items)), key=lambda i: len(items[i].prompt) + len(items[i].answer))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        texts = [(items[i].prompt + items[i].answer)[:-1] for i in rows]
        longest = max(len(text) for text in texts)
        tokens_BS = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        x_BSC = model.hidden(tokens_BS)
        for row, i in enumerate(rows):
            first = len(items[i].prompt) - 1
            x_SC = x_BSC[row, first : first + len(items[i].answer)]
            verdict[i] = model.head(x_SC).argmax(-1).tolist() == items[i].answer
    return verdict


def share(verdicts: Sequence[bool]) -> float:
    """Return the share of right ones."""
    return sum(verdicts) / len(verdicts)


def item(tokenizer: Tokenizer, prompt: str, answer: str, *, ends: bool = False) -> Item:
    """Encode a prompt and its answer; with `ends` the text must end after it."""
    tail = [0] if ends else []
    return Item([0, *bpe.ids_of(tokenizer, prompt)], bpe.ids_of(tokenizer, answer) + tail)


def recall_items(
    tokenizer: Tokenizer,
    seed: int,
    n_prompts: int,
    n_relations: int,
    n_tokens: int,
    kind: str,
    *,
    stem: bool = True,
    held: bool = True,
) -> list[Item]:
    """Make prompts that ask for one of some like relations, of held-out pairs unless not `held`.

    With `stem` the answer's first words are part of the prompt: only the value is asked for.
    """
    rng = random.Random(f"{seed} {n_relations} {n_tokens} {kind}")

    def count(text: str) -> int:
        return len(bpe.ids_of(tokenizer, text))

    made = [
        world.recall_prompt(rng, count, n_relations, n_tokens, kind, held) for _ in range(n_prompts)
    ]
    return [item(tokenizer, one.prompt + one.stem * stem, one.value) for one in made]


def fact_items(tokenizer: Tokenizer, *, held: bool) -> list[Item]:
    """Ask every trained, or every held-out, question about a country; the answer must end."""
    return [
        item(tokenizer, f"System: You are helpful.\nUser: {q}\nAssistant:", f" {a}", ends=True)
        for q, a in world.facts(held=held)
    ]


def two_kinds_items(tokenizer: Tokenizer, seed: int, n_prompts: int) -> list[Item]:
    """Tell the password and the place of two people each, all held-out pairs; ask for one.

    Here the name alone does not decide.
    """
    rng = random.Random(f"{seed} two kinds")
    names = [n for n in world.TOLD if any(world.held_out(n, v) for v in world.PLACES)]
    items = []
    for _ in range(n_prompts):
        told = [
            world.Relation(kind, name, world.value_for(rng, name, world.KINDS[kind], held=True))
            for name in rng.sample(names, 2)
            for kind in ("password", "place")
        ]
        rng.shuffle(told)
        asked = rng.choice(told)
        story = " ".join(one.sentence for one in told)
        prompt = f"Story: {story}\nUser: {asked.question}\nAssistant:{asked.stem}"
        items.append(item(tokenizer, prompt, f" {asked.value}"))
    return items


def written_items(
    tokenizer: Tokenizer, seed: int, n_prompts: int, kind: str, asks: str, room: int = 0
) -> list[Item]:
    """Take the first question of documents of a kind, where it starts with these words."""
    rng = random.Random(f"{seed} {kind} {asks}")
    items: list[Item] = []
    while len(items) < n_prompts:
        document = world.WRITERS[kind](rng, room)
        first = next(i for i, piece in enumerate(document) if piece.weight == world.VALUE)
        prompt = world.text_of(document[:first])
        if f"User: {asks}" in prompt:
            items.append(item(tokenizer, prompt, document[first].text))
    return items


class Skills:
    """The few measurements that training takes again and again, on prompts drawn once."""

    def __init__(self, tokenizer: Tokenizer, seed: int = 777) -> None:
        self.recall = {
            f"recall {kind}": recall_items(
                tokenizer, seed, 64 if kind == "password" else 32, 8, 0, kind
            )
            for kind in world.KINDS
        }
        self.longer = {
            (n_tokens, f"recall password {n_tokens}"): recall_items(
                tokenizer, seed, 40, 4, n_tokens, "password"
            )
            for n_tokens in (256, 450, 950, 1900)
        }
        self.recall |= {
            "two kinds": two_kinds_items(tokenizer, seed, 64),
            "latest": written_items(tokenizer, seed, 64, "latest", "What", 60),
            "counting": written_items(tokenizer, seed, 64, "counting", "How", 60),
            "where": written_items(tokenizer, seed, 64, "story", "Where"),
            "has": written_items(tokenizer, seed, 64, "story", "What"),
        }
        rng = random.Random(seed)
        self.facts = {
            "facts": rng.sample(fact_items(tokenizer, held=False), 60),
            "facts held out": fact_items(tokenizer, held=True),
        }
        self.copies = {
            kind: [
                self._tokens_and_copied(tokenizer, world.WRITERS[kind](rng, 110)) for _ in range(40)
            ]
            for kind in ("copy", "repeat", "pair")
        }

    @staticmethod
    def _tokens_and_copied(tokenizer: Tokenizer, document: world.Document):
        ids, copied = [0], [False]
        for piece in document:
            more = bpe.ids_of(tokenizer, piece.text)
            ids += more
            copied += [piece.weight >= world.STEM] * len(more)
        return ids, copied

    def __call__(self, model: Transformer, context: int) -> dict[str, float]:
        """Measure with a model trained on texts up to `context` tokens long."""
        found = {kind: self._copy_loss(model, rows) for kind, rows in self.copies.items()}
        items = dict(self.recall)
        items |= {name: some for (n, name), some in self.longer.items() if n <= context}
        items |= self.facts
        return found | {name: share(right(model, some)) for name, some in items.items()}

    @staticmethod
    @torch.inference_mode()
    def _copy_loss(model: Transformer, rows) -> float:
        longest = max(len(ids) for ids, _ in rows)
        tokens_BS = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
        copied_BS = torch.tensor([marks + [False] * (longest - len(marks)) for _, marks in rows])
        x_NC = model.hidden(tokens_BS[:, :-1])[copied_BS[:, 1:]]
        return F.cross_entropy(model.head(x_NC), tokens_BS[:, 1:][copied_BS[:, 1:]]).item()


# ------------------------------------------------------------------------------ the full evaluation
def wilson(n_right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share, from n_right of n. Source: Wilson 1927."""
    if not 0 <= n_right <= n or n == 0:
        raise ValueError(f"{n_right} of {n} is no share")
    p, zz = n_right / n, z * z / n
    middle = (p + zz / 2) / (1 + zz)
    half = z / (1 + zz) * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def scored(model: Transformer, items: Sequence[Item]) -> dict[str, Any]:
    """Count the right answers, with their share and its interval."""
    n_right, n = sum(right(model, items)), len(items)
    low, high = wilson(n_right, n)
    return {"right": n_right, "of": n, "share": round(n_right / n, 4), "low": low, "high": high}


def all_items(
    tokenizer: Tokenizer, seed: int = 1, n_prompts: int = 200
) -> Iterator[tuple[str, list[Item]]]:
    """Yield every question set by name. No prompt of theirs is among those that gated training."""
    for held, name in ((False, "facts, trained phrasing"), (True, "facts, held-out phrasing")):
        yield name, fact_items(tokenizer, held=held)
    one_line = "System: You are helpful. User: {} Assistant:"
    yield (
        "facts, on one line",
        [
            item(tokenizer, one_line.format(q), f" {a}", ends=True)
            for q, a in world.facts(held=False)
        ],
    )
    yield (
        "small talk",
        [
            item(tokenizer, f"User: {q}\nAssistant:", f" {a}", ends=True)
            for q, a in world.SMALL_TALK
        ],
    )
    for n_tokens in (128, 256, 512, 1000):
        yield (
            f"password of 4, {n_tokens} tokens",
            recall_items(tokenizer, seed, n_prompts, 4, n_tokens, "password"),
        )
    for n_tokens in (256, 512):
        yield (
            f"password of 4, {n_tokens} tokens, value alone",
            recall_items(tokenizer, seed, n_prompts, 4, n_tokens, "password", stem=False),
        )
    yield (
        "password of 4, 256 tokens, trained pairs",
        recall_items(tokenizer, seed, n_prompts, 4, 256, "password", held=False),
    )
    yield (
        "password of 12, 256 tokens",
        recall_items(tokenizer, seed, n_prompts, 12, 256, "password"),
    )
    for kind in ("color", "pet", "place", "code"):
        yield (
            f"{kind} of 4, 256 tokens",
            recall_items(tokenizer, seed, n_prompts, 4, 256, kind),
        )
    yield "password and place of 2, no filler", two_kinds_items(tokenizer, seed, n_prompts)
    yield "story, where is somebody", written_items(tokenizer, seed, n_prompts, "story", "Where")
    yield (
        "story, what does somebody have",
        written_items(tokenizer, seed, n_prompts, "story", "What"),
    )


@torch.inference_mode()
def bits_per_byte(
    model: Transformer, tokenizer: Tokenizer, context: int, n_tokens: int = 20_000
) -> float:
    """Measure the loss on held-out Python documentation, in windows of `context` tokens."""
    ids = bpe.ids_of(tokenizer, "\n\n".join(bpe.python_docs()[1].values()))
    n_windows = min(len(ids), n_tokens) // context
    nats, n_bytes = 0.0, 0
    for start in range(0, n_windows * context, context):
        window_S = torch.tensor(ids[start : start + context])
        logits_SV = model(window_S[None, :-1])[0]
        nats += F.cross_entropy(logits_SV, window_S[1:], reduction="sum").item()
        n_bytes += len(tokenizer.decode(window_S[1:].tolist()).encode())
    return nats / math.log(2) / n_bytes


def continued(model: Transformer, tokenizer: Tokenizer, prompt: str, n_new: int = 24) -> str:
    """Return what the model greedily says after a prompt, its end marked."""
    answer_BN = generate(model, [0, *bpe.ids_of(tokenizer, prompt)], n_new)
    return tokenizer.decode(answer_BN[0].tolist(), skip_special_tokens=False)


def evaluate(folder: Path, n_prompts: int = 200) -> dict[str, Any]:
    """Measure everything about the model in a folder; the result is ready for JSON."""
    start = time.perf_counter()
    model, wrapped = load(folder)
    tokenizer = wrapped.inner
    scores = {}
    for name, items in all_items(tokenizer, n_prompts=n_prompts):
        scores[name] = scored(model, items)
        print(f"{name}: {in_words(scores[name])}", file=sys.stderr, flush=True)
    return {
        "command": "python -m kvlab.pocket.evaluate --out benchmarks/results/pocket.json"
        " --log runs/pocket/log.jsonl",
        "machine": {"cpu": cpu_name(), "threads": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "parameters": model.config.n_params,
        "weights_bytes": (folder / "model.safetensors").stat().st_size,
        "weights_sha256": sha256(folder / "model.safetensors"),
        "scores": scores,
        "docs_bits_per_byte": {
            str(n): round(bits_per_byte(model, tokenizer, n), 3) for n in (256, 1024)
        },
        "prompt_tokens": {prompt: len(wrapped.encode(prompt)) for prompt in COUNTED},
        "samples": {prompt: continued(model, tokenizer, prompt) for prompt in SAMPLES},
        "seconds": round(time.perf_counter() - start, 1),
    }


def training_of(log: Path) -> dict[str, Any]:
    """Sum up a training run from its log."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    starts = [entry for entry in entries if "seed" in entry]
    reports = [entry for entry in entries if "step" in entry]
    curve = {entry["step"]: entry for entry in reports}  # the last report of a step counts
    last = reports[-1]
    return {
        "command": f"python -m kvlab.pocket.train --seed {starts[0]['seed']}",
        **starts[0],
        "starts": len(starts),
        "steps": last["step"],
        "tokens": last["tokens"],
        "minutes": {what: round(value / 60, 1) for what, value in last["seconds"].items()},
        "gates": [entry for entry in entries if "gate" in entry],
        "curve": [{k: v for k, v in entry.items() if k != "seconds"} for entry in curve.values()],
    }


def in_words(score: dict[str, Any]) -> str:
    """Write a score as "199 of 200, 99.5 % (97.2 to 99.9)"."""
    low, high = 100 * score["low"], 100 * score["high"]
    return (
        f"{score['right']} of {score['of']}, {100 * score['share']:.1f} % ({low:.1f} to {high:.1f})"
    )


def sha256(file: Path) -> str:
    """Return a file's hash."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def cpu_name() -> str:
    """Return the processor's own name for itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a model and print the result, as a table or as JSON."""
    parser = argparse.ArgumentParser("python -m kvlab.pocket.evaluate", description=main.__doc__)
    parser.add_argument("--model", type=Path, default=path(), help="folder of Hugging Face files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the JSON to this file as well")
    parser.add_argument("--log", type=Path, help="log.jsonl of the training run, to sum up as well")
    parser.add_argument("--prompts", type=int, default=200, help="how many in each recall set")
    args = parser.parse_args(argv)
    result = evaluate(args.model, args.prompts)
    if args.log:
        result["training"] = training_of(args.log)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    if args.json:
        print(text, end="")
        return
    for name, score in result["scores"].items():
        print(f"{name:45} {in_words(score)}")
    for prompt, answer in result["samples"].items():
        print(f"{prompt!r} -> {answer!r}")
    print(f"held-out documentation, bits a byte by context: {result['docs_bits_per_byte']}")


if __name__ == "__main__":
    main()
