"""Messages as the text an instruct model was trained on: a checkpoint's chat template.

A template is a small program that comes with the checkpoint. It runs in the sandbox of `jinja2`,
with the names and filters that `transformers` gives it, and sees plain data only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from kvlab.hub import read_json

Messages = str | Sequence[Mapping[str, Any]]


class ChatTemplate:
    """Called with messages, it gives the text that the model reads."""

    def __init__(self, source: str, tokens: Mapping[str, str], where: Path) -> None:
        """`tokens` are the special tokens that a template may name, such as bos_token."""
        self.source, self.tokens, self.where = source, dict(tokens), where

    def __call__(self, messages: Messages, **more: Any) -> str:
        """The conversation, up to where the model's answer begins.

        `messages` are [{"role": "user", "content": "..."}, ...]; a text is one user's message.
        `more` are the template's own variables, such as tools; add_generation_prompt=False leaves
        the opening of an answer away.
        Raises: ValueError when messages are none, the template has no such variable, or it fails.
        """
        given = _plain(messages)
        known = {"messages": given, "tools": None, "documents": None, "add_generation_prompt": True}
        try:
            strange = more.keys() - known.keys() - self._variables()
            if not strange:
                given_too = known | self.tokens | _copied(more)
                return _in_proportion(
                    _sandbox().from_string(self.source).render(**given_too), given_too
                )
        except Exception as error:  # a template can fail in every way in which a program can
            said = " ".join(str(error).split())[:200] or type(error).__name__
            place = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
            raise ValueError(
                f"The chat template of {str(self.where)[-120:]} refuses these messages or is "
                f"broken{place}: {said}. Or encode a text of your own: tokenizer.encode(text)."
            ) from None
        raise ValueError(
            f"The chat template was given {min(strange)[:40]!r}, which it does not look at; it "
            f"takes {', '.join(sorted(self._variables() | known.keys()))[:200]}."
        )

    def _variables(self) -> set[str]:
        return meta.find_undeclared_variables(_sandbox().parse(self.source))


def _in_proportion(text: str, given: Mapping[str, Any]) -> str:
    """A text, where it is not beyond all that a template can have made of what it was given."""
    most = 2**20 + 16 * len(json.dumps(given))
    if len(text) > most:
        raise ValueError(f"it makes {len(text):,} characters of them; expected {most:,} at most")
    return text


def read(folder: Path) -> ChatTemplate | None:
    """A checkpoint's template: chat_template.jinja, or else tokenizer_config.json's; None if none.

    Of several with names it is the one called default.
    Raises: ValueError naming a file that cannot be read.
    """
    config, entries = folder / "tokenizer_config.json", {}
    for path in (folder / "special_tokens_map.json", config):
        entries |= read_json(path) if path.is_file() else {}
    source, alone = entries.get("chat_template"), folder / "chat_template.jinja"
    if alone.is_file():
        try:
            source = alone.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(f"{alone} is not readable text: {str(error)[:200]}.") from None
    if isinstance(source, list):
        source = {t.get("name"): t.get("template") for t in source if isinstance(t, dict)}
    if isinstance(source, dict):
        source = source.get("default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise ValueError(f"{config} has a chat_template of {source!r:.40}; expected a text.")
    return ChatTemplate(source, _tokens(entries), folder)


def _tokens(entries: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name: each is a text, or an object with its content."""
    found = {}
    for name, token in entries.items():
        text = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _plain(messages: Messages) -> list[dict[str, Any]]:
    """Messages as data of their own, without what is None."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    given = _copied(messages)
    if not isinstance(given, list) or not given:
        given = [given]
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(
                f"A message is {message!r:.80}; expected messages as "
                '[{"role": "user", "content": "..."}], or one text.'
            )
    return [{k: v for k, v in message.items() if v is not None} for message in given]


def _copied(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"A chat template was given {value!r:.80}; expected texts, numbers, lists and "
            f"dictionaries ({str(error)[:80]})."
        ) from None


@cache
def _sandbox() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Answer, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _to_json
    made.globals.update(
        raise_exception=_refuse, strftime_now=_now, dict=_Dictionaries(), namespace=_Names
    )
    return made


class _Answer(Extension):
    """`{% generation %}` marks what a model is trained on; here its content simply stands there."""

    tags = {"generation"}  # noqa: RUF012, as the library has it

    def parse(self, parser: Any) -> nodes.Scope:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Dictionaries:
    """`dict` in a template, which may make dictionaries and reach nothing else of the type."""

    def __call__(self, *args: Any, **more: Any) -> dict:
        return dict(*args, **more)

    fromkeys = staticmethod(dict.fromkeys)


class _Names(Namespace):
    """`namespace` in a template, without names that Python keeps to itself."""

    def __init__(*args: Any, **more: Any) -> None:
        Namespace.__init__(*args, **more)
        for name in dict(*args[1:], **more):
            _public(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)


def _public(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a namespace has no place for {name!r}")


def _to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    """JSON for the model's eyes: jinja2's own would write HTML's escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
