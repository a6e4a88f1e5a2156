"""The texts of 4.7, and a stream that no text has. L stages, C width."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.course.author import Lent

FRAMES = (
    ("Facts: The capital of {} is far away. The king and the queen live in the castle.", " is"),
    ("The password of {} is on the table, and the code of the box is not.", " of"),
    ("In the evening {} went to the market. The weather of the day was cold.", " the"),
    ("Today the weather in {} is so cold. The queen and the king stay in the castle.", " the"),
    ("Story: {} and the queen went to the castle. The king was in the garden.", " king"),
)
NAMES = ("France", "Spain", "Egypt", "Japan", "Anna", "Tom", "Lucy", "Norway", "Ruth", "Peter")
# the last occurrence stands in a part that both texts begin with
SAME = (
    ("The king and the queen live in the castle", "The king and the queen went out", " queen"),
    ("Today's weather is so cold", "Today's weather is far better than that", " is"),
)
ALIKE = ("The king and the queen", "Today the king and the queen", " queen")
_FAR = (
    "Story: {} went to the market. In the evening the king ate the lemon at the tower. The queen "
    "bought a small watch. It was late, and the weather was"
)
FAINT = (_FAR.format("Tom"), _FAR.format("Peter"), " was")
LOOK_ALIKE = (
    "The king and the queen live in the castle, but the box is not there.",
    "Story: the king went to the castle. The weather was cold.\nthe",
    " the",
)


class MadeUp(Lent):
    """In place of the model: token " b" behind " a" in both texts, and numbers that are made up."""

    lends = ("__call__",)

    def __init__(self, of: dict[str, Tensor]) -> None:
        self._of = of

    def __call__(self, text: str) -> tuple[list[str], Tensor]:
        if text not in self._of:
            raise ValueError(f"this pocket reads one of {list(self._of)}")
        b_LC = self._of[text]
        return [" a", " b"], torch.stack((b_LC.flip(1), b_LC), 1)


def made_up(stage, channel, by):
    """A pocket whose text "b" differs from "a" in one number, and at the last stage in another."""
    a_LC = torch.linspace(1, 3, 40, dtype=torch.float64).reshape(5, 8)
    a_LC[:, 3] = 1000.0
    b_LC = a_LC.clone()
    b_LC[stage, channel] += by
    b_LC[4, 0] += 0.5
    return MadeUp({"a": a_LC, "b": b_LC})
