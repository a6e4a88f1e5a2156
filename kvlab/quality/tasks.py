"""The kinds of prompt that a report has: what they are called, and what is scored of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

N_NEXT = 64  # tokens of a continuation


@dataclass(frozen=True)
class Task:
    """A title for each question ("visible" or "unseen" while the cache is pruned), the record's
    entry that a table shows first, and how many tokens follow a text at most."""

    titles: Mapping[str, str]
    shows: str
    n_after: int

    @property
    def title(self) -> str:
        """What it is called, whatever was seen of the question."""
        return next(iter(self.titles.values())).split(",")[0]


TASKS = {
    "recall": Task(
        {
            "visible": "Recall, question visible: the policy saw what would be asked",
            "unseen": "Recall, question unseen: the policy did not",
        },
        "recall",
        8,
    ),
    "codes": Task(
        {
            "visible": "Codes of four digits, question visible",
            "unseen": "Codes of four digits, question unseen",
        },
        "recall",
        8,
    ),
    "needle": Task(
        {"visible": "One fact, question visible", "unseen": "One fact, question unseen"},
        "recall",
        8,
    ),
    "text": Task({"unseen": f"The next {N_NEXT - 1} tokens of a text"}, "perplexity", N_NEXT),
}
TITLES = {(name, q): title for name, task in TASKS.items() for q, title in task.titles.items()}
