"""An answer's tokens as the text that a reader gets, piece by piece. No tensor, no HTTP.

Two things may have to wait. A character may consist of several tokens, and a token that is a part
of one is no text yet. And a text that ends the answer, a stop string, is never shown: a piece that
could be its beginning is held until it is clear that it is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvlab import checks
from kvlab.tokenizer import Decoding, Tokenizer


class Stops:
    """Text passed on up to the first stop string, however it is cut into pieces.

    The first is the one that is complete first; of two that end together, the longer.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        """Raises: ValueError for a stop string that is no text, or empty."""
        checks.listed("stops", stops)
        for stop in stops:
            if not isinstance(stop, str) or not stop:
                raise ValueError(f"A stop string is {stop!r:.40}; expected text of some length.")
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""

    def push(self, text: str) -> str:
        """What may be shown now that this came; nothing any more once a stop string was found."""
        if self.found is not None:
            return ""
        seen = self._held + text
        ends = [(at + len(stop), at) for stop in self.stops if (at := seen.find(stop)) >= 0]
        if ends:
            end, at = min(ends)
            self.found, self._held = seen[at:end], ""
            return seen[:at]
        n_held = self._beginning(seen)
        self._held = seen[len(seen) - n_held :]
        return seen[: len(seen) - n_held]

    def end(self) -> str:
        """What was held, as no more comes."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """How many characters at the end of a text begin a stop string; the most, if several do."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        for n in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self.stops):
                return n
        return 0


class Pieces:
    """Tokens in, text out; `stopped` is the stop string that ended it, if one did.

    All pieces put together are the answer's text up to there. A part of a character that the end
    cut off is no text and is left away. Bytes that form no character, with text behind them, come
    as U+FFFD, as every reader of UTF-8 shows them.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        """Raises: ValueError for a stop string that is no text, or empty."""
        self._characters, self._stops = Decoding(tokenizer), Stops(stops)

    @property
    def stopped(self) -> str | None:
        return self._stops.found

    def push(self, token: int) -> str:
        """The text that may be shown now that this token was written; often none."""
        return self._stops.push(self._characters.push(token))

    def end(self) -> str:
        """The text that was held, as no more comes. It may hold a stop string, which ends it."""
        rest = self._characters.end().rstrip("\ufffd")
        return self._stops.push(rest) + self._stops.end()
