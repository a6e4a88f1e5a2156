"""A query to turn: scores, weights and the mixture that comes out, for a few words by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import traitlets

from kvlab.view import svg
from kvlab.view.panel import Panel

ROLES = ("royal", "person", "musician")
_ROW, _TOP, _WIDTH = 34, 92, 760
_KEY, _SCORE, _WEIGHT, _VALUE = 150, 340, 490, 676  # where each column stands
_REACH = 84  # a weight of 1


class QueryDial(Panel):
    """Turn a query of three channels and watch which words it picks and what it takes from them."""

    royal = traitlets.Float(0.0, min=-1, max=1).tag(sync=True, label="royal", by=0.01)
    person = traitlets.Float(1.0, min=-5, max=5).tag(sync=True, label="person", by=0.1)
    musician = traitlets.Float(3.0, min=-5, max=5).tag(sync=True, label="musician", by=0.1)
    scaled = traitlets.Bool(True).tag(sync=True, label="divide by √3")

    def __init__(
        self,
        keys: Mapping[str, Sequence[float]],
        values: Mapping[str, Sequence[float]],
        **state: float | bool,
    ) -> None:
        """`keys` and `values` give each word three numbers: royal, person, musician.

        Raises: ValueError when the words differ, or a key or value has not three numbers.
        """
        if list(keys) != list(values) or not keys:
            raise ValueError(f"keys are of {list(keys)}, values of {list(values)}; expected both "
                             "of the same words in the same order.")  # fmt: skip
        for word, numbers in (*keys.items(), *values.items()):
            if len(numbers) != len(ROLES):
                raise ValueError(f"{word!r} has {list(numbers)}; expected {', '.join(ROLES)}.")
        self.key_of, self.value_of = dict(keys), dict(values)
        super().__init__(**state)

    @property
    def query(self) -> list[float]:
        """The query as the controls stand."""
        return [self.royal, self.person, self.musician]

    @property
    def scores(self) -> dict[str, float]:
        """Query times key, for each word."""
        by = math.sqrt(len(ROLES)) if self.scaled else 1.0
        return {w: sum(map(float.__mul__, self.query, map(float, key))) / by
                for w, key in self.key_of.items()}  # fmt: skip

    @property
    def weights(self) -> dict[str, float]:
        """The softmax of the scores."""
        scores = self.scores
        top = max(scores.values())
        parts = {word: math.exp(score - top) for word, score in scores.items()}
        return {word: part / sum(parts.values()) for word, part in parts.items()}

    @property
    def mixture(self) -> list[float]:
        """The values mixed by the weights: three numbers."""
        return [sum(w * self.value_of[word][i] for word, w in self.weights.items())
                for i in range(len(ROLES))]  # fmt: skip

    def words(self) -> str:
        """Who gets most of the attention, and what comes out."""
        weights = self.weights
        first = max(weights, key=weights.__getitem__)
        mixed = ", ".join(f"{r} {x:.2f}" for r, x in zip(ROLES, self.mixture, strict=True))
        return f"{first} gets {weights[first]:.0%} of the attention. Out comes: {mixed}."

    def picture(self) -> str:
        """The query, a row per word from its key to its weight, and the mixture below."""
        asked = ", ".join(f"{r} {x:g}" for r, x in zip(ROLES, self.query, strict=True))
        parts = [svg.text(14, 20, f"the query: {asked}", bold=True), *self._heads()]
        scores, weights = self.scores, self.weights
        longest = max(1e-9, *(abs(score) for score in scores.values()))
        for row, word in enumerate(self.key_of):
            y = _TOP + _ROW * row
            parts.append(svg.text(14, y + 16, word, bold=True))
            parts.append(svg.text(_KEY, y + 16, _numbers(self.key_of[word]), anchor="middle"))
            parts += _signed(_SCORE, y, scores[word], longest)
            parts.append(
                svg.box(_WEIGHT, y + 2, _REACH * weights[word], 20, svg.GREEN, name="weight")
            )
            parts.append(
                svg.text(_WEIGHT + _REACH * weights[word] + 6, y + 16, f"{weights[word]:.1%}")
            )
            parts.append(svg.text(_VALUE, y + 16, _numbers(self.value_of[word]), anchor="middle"))
        bottom = _TOP + _ROW * len(self.key_of) + 10
        parts += self._mixed(bottom)
        return svg.page(_WIDTH, bottom + 34 + 28 * len(ROLES), self.words(), parts)

    def _heads(self) -> list[str]:
        how = "query · key / √3" if self.scaled else "query · key"
        heads = ((_KEY, "key"), (_SCORE, how), (_WEIGHT + _REACH / 2, "weight"),
                 (_VALUE, "value"))  # fmt: skip
        named = [svg.text(x, _TOP - 42, said, anchor="middle", bold=True) for x, said in heads]
        roles = ", ".join(ROLES)
        return [
            *named,
            *(
                svg.text(x, _TOP - 22, roles, anchor="middle", fill=svg.GREY)
                for x in (_KEY, _VALUE)
            ),
            svg.line(14, _TOP - 10, _WIDTH - 14, _TOP - 10, svg.GREY, 1),
        ]

    def _mixed(self, top: float) -> list[str]:
        """What comes out, as bars on the scale of the largest value there is."""
        every = [x for value in self.value_of.values() for x in value]
        largest, zero = max(1e-9, *map(abs, every)), 100 if min(every) >= 0 else 300
        parts = [
            svg.line(14, top - 6, _WIDTH - 14, top - 6, svg.GREY, 1),
            svg.text(14, top + 16, "what comes out: the values, mixed by the weights", bold=True),
        ]
        for i, (role, x) in enumerate(zip(ROLES, self.mixture, strict=True)):
            y = top + 26 + 28 * i
            parts.append(svg.text(92, y + 16, role, anchor="end"))
            parts += _signed(zero, y, x, largest, reach=180)
        return parts


def _numbers(some: Sequence[float]) -> str:
    return ", ".join(f"{x:g}" for x in some)


def _signed(x: float, y: float, value: float, largest: float, reach: float = 60) -> list[str]:
    """A bar from a middle line, to the right for what is positive, and its number."""
    long = reach * abs(value) / largest
    right = value >= 0
    bar = svg.box(x if right else x - long, y + 2, long, 20, svg.BLUE if right else svg.ORANGE,
                  name="up" if right else "down")  # fmt: skip
    where = x + long + 5 if right else x - long - 5
    number = svg.text(where, y + 16, f"{value:.2f}", anchor="start" if right else "end")
    return [bar, svg.line(x, y - 2, x, y + 26, svg.INK, 1), number]
