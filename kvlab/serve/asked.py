"""What a client of OpenAI's asks for, read from JSON; what is not supported is refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST_CHOICES = 16

Stop = Annotated[str, StringConstraints(min_length=1)]

# what an answer does not depend on
IGNORED = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
}  # fmt: skip
# what is not supported, with the values that ask for nothing
NOTHING: dict[str, tuple] = {
    "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "best_of": (1,),
    "echo": (False,), "suffix": ("",), "tools": ([],), "tool_choice": ("none", "auto"),
    "functions": ([],), "function_call": ("none", "auto"), "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},), "modalities": (["text"],),
}  # fmt: skip

# what may be of several kinds
EXPECTED = {
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "content": 'a text, or a list of {"type": "text", "text": "..."}',
    "stop": "a text, or a list of up to four, none of them empty",
}
_NOTHING = object()


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Asked(BaseModel):
    """What completions and chat have in common. Whatever else comes is in `model_extra`."""

    model_config = ConfigDict(extra="allow")
    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def refuse_others(self) -> None:
        """Raises: Refused naming what would change the answer and is not supported."""
        for name, value in (self.model_extra or {}).items():
            if value is None or name in IGNORED or value in NOTHING.get(name, ()):
                continue
            raise Refused(
                f"{name[:60]!r} is not supported here. Leave it away: without it the answer would "
                "be another one than you ask for, so it is not ignored.",
                param=name[:60], code="unsupported_parameter",
            )  # fmt: skip
        if self.stream_options is not None and not self.stream:
            raise Refused("stream_options came without stream=true.", param="stream_options")

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def n_top(self) -> int | None:
        """How many likeliest tokens are asked for with each; None if no log-probability is."""
        raise NotImplementedError


class AskedCompletion(Asked):
    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def n_top(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        given = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        return given


class Text(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[Text]

    def plain(self) -> dict[str, Any]:
        """As a chat template reads it."""
        strange = {k for k, v in (self.model_extra or {}).items() if v is not None} - {"name"}
        if strange:
            raise Refused(
                f"A message has {min(strange)[:60]!r}, which is not supported; expected role and "
                "content.", param="messages", code="unsupported_parameter",
            )  # fmt: skip
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": self.role, "content": content}


class AskedChat(Asked):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def n_top(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise Refused("top_logprobs came without logprobs=true.", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


def wrong(body: Any, errors: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The first thing in a body that is not as expected: what came there, in words, and where."""
    paths = [_path(tuple(error["loc"][1:])) for error in errors]
    path, about = paths[0], f": {errors[0]['msg']}"
    field = next((part for part in path if part in EXPECTED), None)
    if field is not None:  # every kind has its errors: where all that came closer agree, it is
        whole = path = path[: path.index(field) + 1]
        closer = [p[len(path) :] for p in paths if p[: len(path)] == path and p != path]
        for parts in zip(*closer, strict=False):
            if len(set(parts)) > 1:
                break
            path += parts[:1]
        about = f"; expected {'' if path == whole else f'as {field} '}{EXPECTED[field]}"
    place = _plain(".".join(map(str, path)), 80)
    value = _at(body, path)
    if value is _NOTHING:
        return f"{place} is missing{about if field else ', which is required'}.", place
    return f"{place} is {_shown(value)}{about}.", place


def _path(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A place in the body, without the kind that pydantic tried there."""
    for i, part in enumerate(loc):
        if part in EXPECTED:
            return loc[: i + 1] + loc[i + 2 :]
    return loc


def _at(body: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        try:
            body = body[part]
        except (KeyError, IndexError, TypeError):
            return _NOTHING
    return body


def _shown(value: Any, depth: int = 2) -> str:
    """JSON in a few words."""
    if isinstance(value, list | dict) and value and not depth:
        return "[...]" if isinstance(value, list) else "{...}"
    more = ", ..." if isinstance(value, list | dict) and len(value) > 5 else ""
    if isinstance(value, list):
        return f"[{', '.join(_shown(one, depth - 1) for one in value[:5])}{more}]"
    if isinstance(value, dict):
        pairs = (f"{_shown(k)}: {_shown(one, depth - 1)}" for k, one in list(value.items())[:5])
        return f"{{{', '.join(pairs)}{more}}}"
    if isinstance(value, str):
        value = value if len(value) <= 40 else f"{value[:40]}..."
    return _plain(json.dumps(value, ensure_ascii=False), 60)


def _plain(text: str, most: int) -> str:
    """What any answer can hold: half of a surrogate pair is no text."""
    return text[:most].encode("utf-8", "backslashreplace").decode()
