"""Where the book teaches each idea of the five documents that it implements.

python -m docs.coverage > docs/coverage.md

The documents: A, notes on inference; B, a summary of the KV cache and pruning; C, study notes on
attention and inference; D, an article on logits, prefill and decode; E, a course page on the reuse
of key-value pairs, with its questions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from kvlab.course import exercises


class Idea(NamedTuple):
    """An idea, the documents it is in, and where it is taught: (chapter, heading), exercises.

    `place` is None while its chapter is not written. `loose` says what is wrong in its wording.
    """

    says: str
    sources: str
    place: tuple[int, str] | None = None
    graded: tuple[str, ...] = ()
    loose: str = ""


NOT_YET = "not yet"
IDEAS: tuple[Idea, ...] = (
    Idea(
        "a query says what a token looks for, a key what it offers, a value what it holds",
        "A B C",
        (1, "Three vectors for one token"),
        ("1.1", "1.4"),
    ),
    Idea(
        "one input, three learned matrices",
        "A B C",
        (1, "Where the three vectors come from"),
        ("1.1",),
    ),
    Idea(
        "the three matrices are learned to solve the model's task",
        "A B C",
        (1, "Train the three matrices"),
        ("1.6",),
    ),
    Idea("query times key gives the scores", "A B C D", (1, "One score by hand"), ("1.2",)),
    Idea(
        "the scores are divided by the root of the key's width",
        "D",
        (1, "Why divide by √D?"),
        ("1.2",),
    ),
    Idea("softmax turns scores into weights", "A B C D", (1, "From scores to weights"), ("1.3",)),
    Idea(
        "the output is a weighted sum of values, of a fixed size",
        "A B C D",
        (1, "What mixing can do, and what it cannot"),
        ("1.4",),
    ),
    Idea("the token queen as a query, a key and a value", "A B", (1, "Turn the query"), ("1.5",)),
    Idea(
        "a token looks at itself and at earlier ones",
        "D E",
        (2, "One line forbids it"),
        ("2.1", "2.2"),
    ),
    Idea(
        "with all keys and values of the input, information leaks",
        "E",
        (2, "Everybody looks at everybody"),
        ("2.3", "2.7"),
    ),
    Idea(
        "which pairs the query at position 4 uses",
        "E",
        (2, "One line forbids it"),
        ("2.6",),
    ),
    Idea(
        "Today's weather is so: what the attention weights stress",
        "D",
        (2, '"Today\'s weather is so"'),
        ("2.5",),
    ),
    Idea(
        "each token has a scalar value by its meaning",
        "D",
        (2, '"Today\'s weather is so"'),
        ("1.7", "2.5"),
        loose="a weight belongs to a query, a head and a layer",
    ),
    Idea(
        "high-valued tokens matter most for the prediction",
        "D",
        (11, "Attention is not importance"),
        ("11.3", "11.5"),
        loose="attention is not importance",
    ),
    Idea(
        "heads have key-value spaces of their own, like libraries in a building",
        "C",
        (3, "Share the libraries"),
        ("3.3", "3.6"),
    ),
    Idea("one head, many heads; MHA, MQA, GQA", "C", (3, "Share the libraries"), ("3.2", "3.3")),
    Idea(
        "MQA is the most conservative way to save",
        "C",
        (3, "Predicted beside measured"),
        ("3.6",),
        loose="it is the most aggressive",
    ),
    Idea(
        "heads are concatenated and projected",
        "C",
        (3, "Side by side again, and mixed"),
        ("3.1", "3.2"),
    ),
    Idea("the number of parameters is not the hidden size", "C", (3, "Real models"), ("3.4",)),
    Idea(
        "logits become probabilities, of which the next token is sampled",
        "C D",
        (4, "From logits to a token"),
        ("4.4",),
    ),
    Idea(
        "a block is attention and an MLP; there are many blocks",
        "C",
        (4, "A block by hand"),
        ("4.1",),
    ),
    Idea(
        "the MLP generates the next token",
        "C",
        (4, '"The MLP generates the next token"'),
        ("4.6",),
        loose="the head on the last layer's output does",
    ),
    Idea(
        "the MLP's work is the same for every token and needs no cache",
        "C",
        (4, "Which half knows that other tokens exist?"),
        ("4.2", "4.6"),
    ),
    Idea("each layer has a cache of its own", "C", (6, "What it costs"), ("6.1",)),
    Idea(
        "each layer hands the next one its own vector of a token",
        "C",
        (4, "The same token in two contexts"),
        ("4.1", "4.7"),
    ),
    Idea("prefill reads the whole prompt at once", "A B C D", (5, "Two calls"), ("5.1", "5.9")),
    Idea(
        "prefill gives the first new token",
        "A B C",
        (5, "Where does the first token come from?"),
        ("5.1", "5.8"),
    ),
    Idea("decode makes one token after the other", "A B C D", (5, "Two calls"), ("5.2", "5.10")),
    Idea(
        "decode ends at the end token or at a limit", "C D", (4, "The loop that writes"), ("4.5",)
    ),
    Idea(
        "the prompt about France: 17 tokens, then 18, 19, 20 in the cache",
        "A B",
        (5, "Count the prompt"),
        ("5.2", "5.6", "5.7"),
        loose="a count belongs to a tokenizer",
    ),
    Idea(
        "the cache is tokens times hidden size",
        "A B",
        (5, '"Cache: [17 × hidden_size]"'),
        ("5.9",),
        loose="per layer, keys and values, as wide as the shared heads",
    ),
    Idea(
        "prefill is fast, decode slow",
        "A B D",
        (5, "Tokens a second"),
        ("5.5", "5.9"),
        loose="what is slow is one token a call",
    ),
    Idea(
        "decode is computationally intensive",
        "D",
        (5, "The bytes of one token"),
        ("5.3", "5.9"),
        loose="a token takes as much arithmetic as in prefill",
    ),
    Idea(
        "without a cache every step computes all keys and values again",
        "A B D E",
        (5, "The naive loop, step by step"),
        ("5.3", "5.6"),
    ),
    Idea(
        "keys and values stay constant once computed",
        "E",
        (6, "Do the keys change?"),
        ("6.2",),
        loose="for causal attention at fixed positions",
    ),
    Idea("the query is thrown away", "C", (6, "Build it by hand: one head, no batch"), ("6.7",)),
    Idea("the cache grows by a row a token", "A B C", (6, "See it fill"), ("6.1", "5.2")),
    Idea(
        "with a cache, attention only processes new tokens",
        "D",
        (6, "Predicted beside measured: why the clock lags behind the count"),
        ("6.3", "6.7"),
        loose="one new query, which reads every row",
    ),
    Idea(
        "what is reused for the 6th token",
        "E",
        (6, "Which keys may it use? Three questions"),
        ("6.6",),
    ),
    Idea(
        "for the 10th token all nine must be computed again: true or false",
        "E",
        (6, "Which keys may it use? Three questions"),
        ("6.7",),
    ),
    Idea(
        "the 5th token is made with pairs 1 to 4",
        "E",
        (6, "Which keys may it use? Three questions"),
        ("6.3",),
        loose="counting from 1, and of the step that makes it",
    ),
    Idea(
        "the KV cache is a memory optimisation",
        "B",
        (6, "What it costs"),
        ("6.7",),
        loose="it spends memory to save work",
    ),
    Idea(
        "the savings in work and in time",
        "A B D",
        (6, "What does it save? Predict, then measure"),
        ("6.4",),
    ),
    Idea(
        "attention's work in decode is proportional to the history",
        "C",
        (7, "Attention grows, the MLP does not"),
        ("7.4",),
    ),
    Idea(
        "phases are bound by different things",
        "A B C",
        (7, "Take the causes away"),
        ("5.3", "5.9", "7.3"),
    ),
    Idea(
        "longer contexts within limits of memory",
        "A B",
        (8, "Next to the model"),
        ("8.1", "8.6", "12.5"),
    ),
    Idea(
        "tensor and pipeline parallelism",
        "C",
        (9, "Cut a layer, not the text"),
        ("9.5", "9.6"),
    ),
    Idea("prefill first or decode first", "C", (9, "Who waits?"), ("9.2", "9.3", "9.8")),
    Idea(
        "what helps depends on model and workload",
        "C",
        (9, "Which split for which workload?"),
        ("9.7",),
    ),
    Idea(
        "the cache as a matrix of tokens and channels",
        "B",
        (10, "The cache as a matrix"),
        ("10.1",),
    ),
    Idea("pruning has a direction", "A B", (10, "Two directions, by hand"), ("10.1",)),
    Idea(
        "per-channel pruning: each column loses entries",
        "B",
        (10, "Two directions, by hand"),
        ("10.1",),
    ),
    Idea(
        "per-token pruning: each row loses entries",
        "B",
        (10, "Two directions, by hand"),
        ("10.1", "10.3"),
    ),
    Idea(
        "score = element x input",
        "B",
        (10, "Element × input"),
        ("10.2",),
        loose="absolute values; for keys before the softmax",
    ),
    Idea("0.8 x 0.1 goes, 0.3 x 0.9 stays", "B", (10, "Element × input"), ("10.5",)),
    Idea(
        "output-awareness is smart",
        "A B",
        (10, "What that depends on"),
        ("10.4", "10.5"),
        loose="for V per token and K per channel it changes nothing",
    ),
    Idea("the latest 32 tokens stay dense", "B", (10, "The window"), ("10.3",)),
    Idea(
        "pruning makes the cache smaller",
        "A B",
        (12, "A packed cache, weighed"),
        ("12.4", "12.6", "12.7"),
        loose="only what is packed or gone",
    ),
    Idea(
        "a smaller cache is faster",
        "A B",
        (12, "Zero it, and time it"),
        ("12.1", "12.6"),
        loose="only when rows are physically gone",
    ),
    Idea(
        "good pruning keeps quality",
        "A B",
        (11, "When is an answer right?"),
        ("11.1", "11.6"),
    ),
    Idea(
        "everything connects: training, inference, pruning",
        "A B",
        (13, "Everything connects"),
        ("13.1", "13.2", "13.5"),
    ),
)


def as_markdown() -> str:
    """The table, in the documents' order of subjects."""
    lines = [
        "# What the book covers",
        "",
        "Each idea of the five documents that the book implements, where it is taught and graded.",
        "Made by `python -m docs.coverage`; a test looks for every place and exercise.",
        "",
        *[line.strip() for line in (__doc__ or "").split("\n\n")[2].splitlines()],
        "",
        "| idea | from | chapter | exercises |",
        "| --- | --- | --- | --- |",
    ]
    for idea in IDEAS:
        says = f"{idea.says} ({idea.loose})" if idea.loose else idea.says
        place = NOT_YET if idea.place is None else f"{idea.place[0]}, {idea.place[1]}"
        graded = ", ".join(idea.graded) or NOT_YET
        lines.append(f"| {says} | {idea.sources} | {place} | {graded} |")
    return "\n".join(lines) + "\n"


def missing(chapters: Path) -> list[str]:
    """Name every place and exercise of the table that is not there."""
    headings: dict[int, set[str]] = {}
    for path in chapters.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        headings[int(path.stem.split("_")[0])] = {
            line.lstrip("# ") for line in text.splitlines() if line.startswith("#")
        }
    known = {exercise.number for exercise in exercises.ALL}
    lacking = [
        f"{idea.says}: chapter {idea.place[0]} has no heading {idea.place[1]!r}"
        for idea in IDEAS
        if idea.place and idea.place[1] not in headings.get(idea.place[0], set())
    ]
    return lacking + [
        f"{idea.says}: there is no exercise {number}"
        for idea in IDEAS
        for number in idea.graded
        if number not in known
    ]


if __name__ == "__main__":
    print(as_markdown(), end="")
