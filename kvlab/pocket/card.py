"""Fill the tables of the model card from the recorded examinations.

    python -m kvlab.pocket.card

The card's words are written by hand, its numbers are not: each table stands between two comments
that name it, and is made here.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kvlab import files
from kvlab.pocket import exam, path
from kvlab.pocket.evaluate import in_words

CURVE = {
    "copy": "copy loss",
    "repeat": "repeat loss",
    "pair": "pair loss",
    "apart": "pair apart",
    "recall password": "word of 8",
    "recall color": "color",
    "recall pet": "pet",
    "recall place": "place",
    "recall code": "code",
    "two kinds": "two kinds",
    "latest": "latest",
    "counting": "counting",
    "where": "where",
    "has": "has",
    "facts": "facts",
    "facts held out": "held out",
    "recall password 950": "word of 4, 950 tokens",
    "recall password 1900": "1,900 tokens",
}
SPREAD = (
    "facts",
    "facts, held-out phrasings",
    *(exam.needle_row(kind, n) for kind in exam.GRID for n in (512, 1000, 2000)),
    "color of 5, 256 tokens",
    "pet of 5, 256 tokens",
    "place of 5, 256 tokens",
    "password of 5, 256 tokens, strangers",
    "password and place of 5 people, no filler",
    "password of 5 that changes, about 256 tokens",
    "counting one to six",
    "story, where is somebody",
    "story, what does somebody have",
)
Result = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def facts(result: Result) -> str:
    """Tell where all numbers come from."""
    training, minutes, machine = (
        result["training"],
        result["training"]["minutes"],
        result["machine"],
    )
    spent = ", ".join(f"{value} {what}" for what, value in minutes.items())
    tokens = "; ".join(f"`{p!r}`: {n}" for p, n in result["prompt_tokens"].items())
    rows = [
        ["parameters", f"{result['parameters']:,}"],
        ["longest text", f"{result['max_positions']:,} tokens"],
        ["weights", f"{result['weights_bytes']:,} bytes, float16"],
        ["sha256 of the weights", f"`{result['weights_sha256']}`"],
        ["trained by", f"`{training['command']}`"],
        ["steps, tokens seen", f"{training['steps']:,}, {training['tokens'] / 1e6:.2f} million"],
        ["minutes", f"{sum(minutes.values()):.1f} ({spent})"],
        ["on", f"{training['cpu']}, {training['threads']} thread, torch {training['torch']}"],
        ["measured by", f"`{result['command']}`, in {result['seconds']:.0f} s"],
        ["on", f"{machine['cpu']}, {machine['threads']} thread, torch {machine['torch']}"],
        ["prompt tokens, with the one that opens a text", tokens],
    ]
    return table(["", ""], rows)


def bars(result: Result) -> str:
    """Tell every bar, and whether it is passed."""
    rows = [
        [bar["what"], f"{bar['measured']:.3f}", bar["bar"], "yes" if bar["passed"] else "**no**"]
        for bar in result["bars"]
    ]
    return table(["what", "measured", "bar", "passed"], rows)


def scores(result: Result) -> str:
    """Tell every share with its interval."""
    rows = [[name, in_words(score)] for name, score in result["scores"].items()]
    return table(["what", "right (95 % interval)"], rows)


def grid(result: Result) -> str:
    """Tell the share right for each length and depth."""
    rows = [
        [kind, f"{int(n):,}", next(iter(row.values()))["of"]]
        + [f"{100 * score['share']:.1f} %" for score in row.values()]
        for kind, by_length in result["grid"].items()
        for n, row in by_length.items()
    ]
    return table(["", "tokens", "prompts a cell", *map(_depth, exam.DEPTHS)], rows)


def _depth(depth: float) -> str:
    return {0.0: "first sentence", 1.0: "last"}.get(depth, f"{depth:g}")


def documentation(result: Result) -> str:
    """Tell the bits a byte of held-out documentation, and of which text."""
    found = result["documentation"]
    parts = found["bits_per_byte"]
    ways = [what for what in parts["together"] if what != "bytes"]
    rows = [[way, *(f"{parts[part][way]:.3f}" for part in parts)] for way in ways]
    heads = [f"{part}, {bits['bytes']:,} bytes" for part, bits in parts.items()]
    return table(["bits a byte", *heads], rows) + (
        f"\nText: {found['source']}. Python {found['python']}; of {found['bytes_held_out']:,} "
        f"bytes held out, {parts['together']['bytes']:,} are left. sha256 `{found['sha256']}`. "
        f"The 5-grams learned from {found['trained_bytes']:,} bytes, "
        f"sha256 `{found['trained_sha256']}`.\n"
    )


def retrieval(result: Result) -> str:
    """Tell what each layer looks at, and what is left without it."""
    found = result["retrieval"]
    rows = [
        [
            f"**{layer}**" if layer == found["best_layer"] else layer,
            f"{sum(by_head) / len(by_head):.2f}",
            " ".join(f"{mass:.2f}" for mass in by_head),
            " ".join(f"{mass:.2f}" for mass in found["value_by_layer_and_head"][layer]),
            in_words(found["recall_without_layer"][str(layer)]),
        ]
        for layer, by_head in enumerate(found["sentence_by_layer_and_head"])
    ]
    head = [
        "layer",
        "on the sentence",
        "each head",
        "each head, on the value alone",
        "recall without this layer's attention",
    ]
    return table(head, rows) + (
        f"\n{found['prompts']} prompts of {found['tokens']} tokens, {found['relations']} passwords "
        f"each; with all layers {in_words(found['recall'])}.\n"
    )


def inside(result: Result) -> str:
    """Tell of sinks and outlier channels."""
    sinks, outliers = result["sinks"], result["outliers"]
    rows = [
        [layer, f"{share:.4f}"]
        + [
            f"{outliers[which][layer][what]:.2f}"
            for which in ("keys", "values")
            for what in ("rms_ratio", "kurtosis", "first_token")
        ]
        for layer, share in enumerate(sinks["of_all_queries"])
    ]
    head = ["layer", f"attention on the first token (even: {sinks['even']:.4f})"]
    head += [
        f"{which}: {what}"
        for which in ("keys", "values")
        for what in ("largest channel / median", "kurtosis", "first token's norm / median")
    ]
    gone = [
        f"without {which} KL is {cost['kl']:.5f} nats and {cost['right']} of {cost['of']} are right"
        for which, cost in (
            ("the first token", sinks["first_token_evicted"]),
            ("a token of the filler", sinks["filler_token_evicted"]),
        )
    ]
    return table(head, rows) + f"\nEvicted before the answer: {'; '.join(gone)}.\n"


def prose(result: Result) -> str:
    """Tell how often free prose loops and repeats."""
    rows = [
        [name, found["texts"], found["loop"], f"{100 * found['repeated_4_grams']:.1f} %"]
        for name, found in result["prose"].items()
    ]
    first = result["prose"]["temperature 1"]["first"].replace("\n", " ")
    return table(["", "texts", "loop", "4-grams that repeat"], rows) + f"\n> {first}\n"


def samples(result: Result) -> str:
    """Show what the model greedily says."""
    shown = [[f"`{p!r}`", f"`{a!r}`"] for p, a in result["samples"].items()]
    return table(["prompt", "greedy continuation"], shown)


def curve(result: Result) -> str:
    """Tell how the skills emerged; of all reports every other one, and the last."""
    reports = result["training"]["curve"]
    kept = [r for r in reports if r["step"] % 200 == 0 or r is reports[-1]]
    rows = [
        [r["step"], f"{r['tokens'] / 1e6:.1f}", r["stage"]]
        + [f"{r[k]:.2f}" if k in r else "" for k in CURVE]
        for r in kept
    ]
    return table(["step", "M tokens", "stage", *CURVE.values()], rows)


def spread(seeds: Sequence[Result]) -> str:
    """Set the training seeds side by side."""
    lines: list[list[Any]] = [
        ["bars passed"]
        + [f"{sum(b['passed'] for b in seed['bars'])} of {len(seed['bars'])}" for seed in seeds]
    ]
    lines += [
        [name, *(f"{100 * s['scores'][name]['share']:.1f} %" if name in s["scores"] else ""
                 for s in seeds)]
        for name in SPREAD
    ]  # fmt: skip
    best = [seed["retrieval"] for seed in seeds]
    lines += [
        ["attention on the needle, layer"]
        + [f"{found['mass_on_sentence']:.2f}, {found['best_layer']}" for found in best],
        ["documentation, bits a byte"]
        + [
            f"{min(v for k, v in bits.items() if k.startswith('the model')):.3f}"
            for bits in (seed["documentation"]["bits_per_byte"]["together"] for seed in seeds)
        ],
    ]
    trained = [seed["training"] for seed in seeds]
    lines += [
        ["minutes", *(f"{sum(t['minutes'].values()):.1f}" for t in trained)],
        ["M tokens", *(f"{t['tokens'] / 1e6:.2f}" for t in trained)],
        ["times a gate asked for 200 more steps", *(_more_steps(t) for t in trained)],
    ]
    for skill, words in CURVE.items():
        if skill not in exam.NO_SHARE:
            steps = [t["emerged"].get(skill, "never") for t in trained]
            lines.append([f"step of the first 0.8: {words}", *steps])
    return table(["", *(_seed_name(seed, seeds[0]) for seed in seeds)], lines)


def _more_steps(training: Result) -> int:
    return sum(entry["gate"] == "more steps" for entry in training["gates"])


def _seed_name(seed: Result, shipped: Result) -> str:
    is_shipped = seed["weights_sha256"] == shipped["weights_sha256"]
    return f"seed {seed['training']['seed']}" + ", shipped" * is_shipped


BLOCKS: dict[str, Callable[[Result], str]] = {
    "facts": facts,
    "bars": bars,
    "scores": scores,
    "grid": grid,
    "documentation": documentation,
    "retrieval": retrieval,
    "inside": inside,
    "prose": prose,
    "samples": samples,
    "curve": curve,
}


def filled(card: str, result: Result, others: Sequence[Result] = ()) -> str:
    """Return the card with every block made anew from the result, and the other seeds' results.

    Raises: ValueError if the card lacks a block.
    """
    made = {name: write(result) for name, write in BLOCKS.items()}
    more = [other for other in others if other["weights_sha256"] != result["weights_sha256"]]
    made["spread"] = spread([result, *more])
    for name, text in made.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(block.findall(card)) != 1:
            raise ValueError(f"the card needs exactly one block {name!r}")
        card = block.sub(lambda found, text=text: found[1] + text + found[2], card)
    return card


def recorded(file: Path) -> tuple[Result, list[Result]]:
    """Read the shipped model's result, and those of all seeds that lie beside it."""
    beside = sorted(file.parent.glob(f"{file.stem}-seed*.json"))
    read = [json.loads(one.read_text(encoding="utf-8")) for one in (file, *beside)]
    return read[0], read[1:]


def main(argv: Sequence[str] | None = None) -> None:
    """Rewrite the card's tables."""
    parser = argparse.ArgumentParser("python -m kvlab.pocket.card", description=main.__doc__)
    default = Path("benchmarks/results/pocket.json")
    parser.add_argument("--result", type=Path, default=default, help="what `kvlab eval` wrote")
    parser.add_argument("--card", type=Path, default=path() / "README.md")
    args = parser.parse_args(argv)
    card = args.card.read_text(encoding="utf-8")
    files.write(args.card, filled(card, *recorded(args.result)))


if __name__ == "__main__":
    main()
