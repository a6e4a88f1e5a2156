"""Text to token ids and back, by the `tokenizers` library and a checkpoint's `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from kvlab import checks, hub


class Tokenizer:
    """A checkpoint's tokenizer: what it adds at the start (BOS) is its own file's business."""

    def __init__(self, inner: _Tokenizer, template: Callable[..., str] | None = None) -> None:
        """`template` turns messages into text, as `chat.ChatTemplate` does.

        A file may still say that a training padded its texts or cut them; prompts stay whole.
        """
        inner.no_padding()
        inner.no_truncation()
        self.inner, self.template = inner, template
        self._unknown_id = _unknown_id(inner)
        added = inner.get_added_tokens_decoder()
        self._special_ids = {i for i, token in added.items() if token.special}

    @classmethod
    def from_file(cls, path: str | Path, template: Callable[..., str] | None = None) -> Tokenizer:
        path = Path(path)
        if not path.is_file():
            raise ValueError(hub.no_tokenizer(path))
        with checks.told(f"{path} is not a readable tokenizer.json"):
            return cls(_Tokenizer.from_file(str(path)), template)

    def __len__(self) -> int:
        return self.inner.get_vocab_size()

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text; with `special`, whatever the tokenizer puts around it (BOS).

        Raises: ValueError naming the first character that the vocabulary cannot spell. Byte-level
        vocabularies spell everything.
        """
        if not isinstance(text, str):
            raise ValueError(f"The text is a {type(text).__name__}; expected one str.")
        lone = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
        if lone is not None:
            raise ValueError(
                f"The text holds half a character, {lone!r}, as undecodable bytes leave behind; "
                "expected text that can be written as UTF-8."
            )
        with checks.told(f"The tokenizer cannot spell {text!r:.60} and has none for the unknown"):
            encoding = self.inner.encode(text, add_special_tokens=special)
        lost = _first_unspelled(text, encoding, self._unknown_id)
        if lost is not None:
            raise ValueError(
                f"The tokenizer has no token for {lost!r} (U+{ord(lost):04X}) in the text; "
                "expected text in the model's own alphabet. Remove it or use another checkpoint."
            )
        return encoding.ids

    __call__ = encode

    def chat(self, messages: object, **more: object) -> list[int]:
        """Token ids of a conversation in the model's own form, up to where its answer begins.

        `messages` are [{"role": "user", "content": "..."}], or one user's text; `more` are
        variables of the template. It writes BOS where it wants it, so none is added.
        Raises: ValueError where the checkpoint has no chat template, or it refuses.
        """
        if self.template is None:
            raise ValueError(
                "This checkpoint has no chat template, as base models have none: encode the text "
                "that it is to go on from, tokenizer.encode(text)."
            )
        return self.encode(self.template(messages, **more), special=False)

    def decode(self, ids: Iterable[object], *, special: bool = False) -> str:
        """The text of some token ids; special tokens (EOS) are left out unless asked for.

        One row of a batch (1, N), as `generate` gives it, counts as its ids.
        Raises: ValueError for several rows, and for what are no ids or have no token.
        """
        return self._text(self._checked(ids), special)

    def _text(self, ids: list[int], special: bool) -> str:
        with checks.told("The tokenizer cannot decode"):
            return self.inner.decode(ids, skip_special_tokens=not special)

    def _checked(self, ids: Iterable[object]) -> list[int]:
        given = checks.plain(ids)
        given = [given] if isinstance(given, Integral) else given
        checks.listed("ids", given)
        given = list(given)
        given = given[0] if len(given) == 1 and isinstance(given[0], list) else given
        for i in given:
            if not isinstance(i, Integral) or not 0 <= i < 2**32:
                raise ValueError(
                    f"A token id is {i!r:.40}; expected whole numbers of one row. Of several rows "
                    "decode each: [tokenizer.decode(row) for row in rows]."
                )
            if self.inner.id_to_token(int(i)) is None:
                raise ValueError(f"There is no token {i}; the tokenizer has {len(self)}.")
        return [int(i) for i in given]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each token's own text, special tokens by name; for tables and figures."""
        return [self._text([i], True) for i in self._checked(ids)]

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text as it becomes whole: a character of several tokens is held until complete.

        What is still incomplete when the ids end comes last, as `decode` writes it. Special tokens
        are left out, and so are ids that the model has a row for and the tokenizer no token.
        """
        text = Decoding(self)
        for i in ids:
            if piece := text.push(int(i)):
                yield piece
        if rest := text.end():
            yield rest


class Decoding:
    """What `Tokenizer.stream` does, for those to whom tokens come one by one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._of = tokenizer
        # a token's text may depend on the one before it, so the last piece's ids are kept
        self._before: list[int] = []
        self._held: list[int] = []

    def push(self, i: int) -> str:
        """The text that is whole with this token; often none."""
        of, held = self._of, self._held
        if i in of._special_ids or (i >= 0 and of.inner.id_to_token(i) is None):
            return ""
        held.append(i)
        # in a long run of parts only now and then, or the time would grow with its square
        n = len(held)
        if n > 16 and n & (n - 1) and of.decode([i]).strip("\ufffd") == "":
            return ""
        text = self.end()
        if not text or text.endswith("\ufffd"):
            return ""
        self._before, self._held = held, []
        return text

    def end(self) -> str:
        """What is held, as `decode` writes it."""
        of, before = self._of, self._before
        return of.decode([*before, *self._held])[len(of.decode(before)) :]


def _unknown_id(inner: _Tokenizer) -> int | None:
    """The id that stands for whatever the vocabulary cannot spell, if there is one."""
    if type(inner.model).__name__ == "Unigram":  # it does not tell, but writes it down
        return json.loads(inner.to_str())["model"]["unk_id"]
    unk = getattr(inner.model, "unk_token", None)
    return inner.token_to_id(unk) if unk else None


def _first_unspelled(text: str, encoding, unk_id: int | None) -> str | None:
    spelled = bytearray(len(text))
    for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        if token != unk_id:
            spelled[start:stop] = b"\1" * (stop - start)
    for here, char in zip(spelled, text, strict=True):
        if not here and not char.isspace():
            return char
    return None
