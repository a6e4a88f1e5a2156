"""Ask the pocket model: questions with one right answer, and how many it gets right.

`exam` asks them all; `skills` asks some of them again and again while the model learns.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer

from kvlab.generation import generate
from kvlab.measure.intervals import wilson
from kvlab.model import Transformer
from kvlab.pocket import bpe, world


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


def recall_prompts(
    tokenizer: Tokenizer,
    seed: int,
    n_prompts: int,
    n_relations: int,
    n_tokens: int,
    kind: str,
    *,
    held: bool = True,
    names: Sequence[str] = world.TOLD,
    depth: float | None = None,
) -> list[world.RecallPrompt]:
    """Write prompts that ask for one of some like relations; see `world.recall_prompt`.

    Those of another depth, or about other people, are other prompts, not the same ones rearranged.
    """
    rng = random.Random(
        f"{seed} {n_relations} {n_tokens} {kind}" + f" {depth}" * (depth is not None)
    )

    def count(text: str) -> int:
        return len(bpe.ids_of(tokenizer, text))

    return [
        world.recall_prompt(rng, count, n_relations, n_tokens, kind, held, names=names, depth=depth)
        for _ in range(n_prompts)
    ]


def recall_items(
    tokenizer: Tokenizer,
    seed: int,
    n_prompts: int,
    n_relations: int,
    n_tokens: int,
    kind: str,
    **which: Any,
) -> list[Item]:
    """Make prompts that ask for one of some like relations, of held-out pairs unless not `held`.

    The answer's first words are part of the prompt: only the value is asked for.
    """
    made = recall_prompts(tokenizer, seed, n_prompts, n_relations, n_tokens, kind, **which)
    return [item(tokenizer, one.prompt + one.stem, one.value) for one in made]


def whole_answers(
    tokenizer: Tokenizer, seed: int, n_prompts: int, n_tokens: int, kind: str
) -> list[tuple[Item, Item]]:
    """Ask as `recall_items` does, without the answer's first words, for one of five relations.

    The model was taught two whole answers, the value alone and a sentence: each prompt comes with
    both.
    """
    made = recall_prompts(tokenizer, seed, n_prompts, 5, n_tokens, kind)
    return [
        (
            item(tokenizer, one.prompt, f"{one.value}.", ends=True),
            item(tokenizer, one.prompt, f"{one.stem}{one.value}.", ends=True),
        )
        for one in made
    ]


def fact_items(
    tokenizer: Tokenizer,
    *,
    held: bool,
    systems: Sequence[str] = world.SYSTEMS[:1],
    lines: Sequence[str] = "\n",
) -> list[Item]:
    """Ask every trained, or every held-out, question about a country; the answer must end.

    Each is asked after each system line, with each of `lines` between the turns.
    """
    return [
        item(tokenizer, f"System: {system}{line}User: {q}{line}Assistant:", f" {a}", ends=True)
        for system in systems
        for line in lines
        for q, a in world.facts(held=held)
    ]


def two_kinds_items(
    tokenizer: Tokenizer, seed: int, n_prompts: int, n_people: int = 2
) -> list[Item]:
    """Tell the password and the place of some people, all held-out pairs; ask for one.

    Here the name alone does not decide. More than two people have all different values.
    """
    rng = random.Random(f"{seed} two kinds")
    names = [n for n in world.TOLD if any(world.held_out(n, v) for v in world.PLACES)]
    items: list[Item] = []
    while len(items) < n_prompts:
        told = [
            world.Relation(kind, name, world.value_for(rng, name, world.KINDS[kind], held=True))
            for name in rng.sample(names, n_people)
            for kind in ("password", "place")
        ]
        if n_people > 2 and len({one.value for one in told}) < len(told):
            continue
        rng.shuffle(told)
        asked = rng.choice(told)
        story = " ".join(one.sentence for one in told)
        prompt = f"Story: {story}\nUser: {asked.question}\nAssistant:{asked.stem}"
        items.append(item(tokenizer, prompt, f" {asked.value}"))
    return items


def pair_items(
    tokenizer: Tokenizer, seed: int, n_prompts: int, between: str, n_pairs: int = 5
) -> list[Item]:
    """Pair some people with words, all held-out pairs, then ask for one: "Anna has" tiger.

    `between` are the words from a name to what goes with it.
    """
    rng = random.Random(f"{seed} pair {between} {n_pairs}")
    names = [n for n in world.TOLD if any(world.held_out(n, word) for word in world.WORDS)]
    items: list[Item] = []
    while len(items) < n_prompts:
        pairs = {
            name: world.value_for(rng, name, world.WORDS, held=True)
            for name in rng.sample(names, n_pairs)
        }
        if len(set(pairs.values())) == n_pairs:
            told = "".join(f" {name}{between} {value}," for name, value in pairs.items())
            name = rng.choice(list(pairs))
            items.append(item(tokenizer, f"Pairs:{told} {name}{between}", f" {pairs[name]}"))
    return items


def latest_items(
    tokenizer: Tokenizer, seed: int, n_prompts: int, n_people: int = 5, room: int = 230
) -> list[Item]:
    """Tell the passwords of some people, some of them changed once or twice; ask what holds now.

    All values differ, and all pairs are held out.
    """
    rng = random.Random(f"{seed} latest {n_people}")
    items: list[Item] = []
    while len(items) < n_prompts:
        turns = [n for n in rng.sample(world.TOLD, n_people) for _ in range(rng.randint(1, 3))]
        rng.shuffle(turns)
        now: dict[str, world.Relation] = {}
        free, sentences = set(world.WORDS), []
        for name in turns:
            values = sorted(value for value in free if world.held_out(name, value))
            if not values:
                break  # some people have few held-out values, and others told them before
            one = world.Relation("password", name, rng.choice(values))
            free.remove(one.value)
            sentences.append(one.changed_sentence if name in now else one.sentence)
            now[name] = one
        else:
            asked = rng.choice(list(now.values()))
            story = " ".join(world.hidden_in(rng, sentences, room, world.NAMES))
            prompt = f"Story: {story}\nUser: {asked.question_now}\nAssistant:{asked.stem}"
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


# ----------------------------------------------------------------------------------------- counting
def scored(model: Transformer, items: Sequence[Item]) -> dict[str, Any]:
    """Count the right answers, with their share and its interval."""
    return counted(sum(right(model, items)), len(items))


def scored_either(model: Transformer, pairs: Sequence[tuple[Item, Item]]) -> dict[str, Any]:
    """Count the prompts to which greedy decoding gives one of two right answers."""
    ways = [right(model, items) for items in zip(*pairs, strict=True)]
    return counted(sum(map(any, zip(*ways, strict=True))), len(pairs))


def counted(n_right: int, n: int) -> dict[str, Any]:
    """Write n_right of n as a score."""
    low, high = wilson(n_right, n)
    return {"right": n_right, "of": n, "share": round(n_right / n, 4), "low": low, "high": high}


def continued(model: Transformer, tokenizer: Tokenizer, prompt: str, n_new: int = 24) -> str:
    """Return what the model greedily says after a prompt, its end marked."""
    answer_BN = generate(model, [0, *bpe.ids_of(tokenizer, prompt)], n_new)
    return tokenizer.decode(answer_BN[0].tolist(), skip_special_tokens=False)


def in_words(score: dict[str, Any]) -> str:
    """Write a score as "199 of 200, 99.5 % (97.2 to 99.9)"."""
    low, high = 100 * score["low"], 100 * score["high"]
    return (
        f"{score['right']} of {score['of']}, {100 * score['share']:.1f} % ({low:.1f} to {high:.1f})"
    )


def sha256(file: Path) -> str:
    """Return a file's hash."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
