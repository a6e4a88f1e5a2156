"""Answers as the objects of OpenAI's interface: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from kvlab.serve.worker import Choice, Scored, Written
from kvlab.tokenizer import Tokenizer


def error_of(
    message: str, param: str | None = None, code: str | None = None, status: int = 400
) -> dict[str, Any]:
    """What a client is told that gets no answer."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def usage_of(choices: Sequence[Choice], n_each: int) -> dict[str, Any]:
    """Tokens read and written; a prompt counts once, however many answers it got (`n_each`)."""
    asked = [choice.request for choice in choices if choice.request is not None]
    n_prompt = sum(len(choice.prompt) for choice in choices[::n_each])
    n_new = sum(len(request.answer) for request in asked)
    cached = sum(c.request.cached for c in choices[::n_each] if c.request is not None)
    return {
        "prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip


class Completion:
    """The objects of /v1/completions."""

    name, chunk_name, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, model: str, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time())}
        self._model = {"model": model}

    def opening(self, index: int) -> dict[str, Any] | None:
        """The chunk before a choice's first text, if there is one."""
        return None

    def chunk(self, index: int, written: Written, has_scores: bool) -> dict[str, Any]:
        """A piece of a stream."""
        scores = self.scores(written.scored) if has_scores else None
        return self._of(self.chunk_name, [self._piece(index, written, scores)])

    def whole(self, pieces: Sequence[Sequence[Written]], has_scores: bool) -> dict[str, Any]:
        """All that was written of each choice, in one object, without its usage."""
        choices = []
        for index, parts in enumerate(pieces):
            scored = [s for part in parts for s in part.scored]
            one = Written("".join(p.text for p in parts), scored, parts[-1].finish)
            choices.append(self._whole(index, one, self.scores(scored) if has_scores else None))
        return self._of(self.name, choices)

    def last(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk after all text, which says how many tokens there were."""
        return self._of(self.chunk_name, []) | {"usage": usage}

    def scores(self, scored: Sequence[Scored]) -> dict[str, Any]:
        return {
            "tokens": [self._text(s.token) for s in scored],
            "token_logprobs": [s.logprob for s in scored],
            "top_logprobs": [{self._text(i): p for i, p in s.top} for s in scored],
            "text_offset": [s.offset for s in scored],
        }

    def _of(self, name: str, choices: list) -> dict[str, Any]:
        return self._head | {"object": name} | self._model | {"choices": choices}

    def _piece(self, index: int, written: Written, scores: Any) -> dict[str, Any]:
        return {
            "index": index, "text": written.text, "logprobs": scores,
            "finish_reason": written.finish,
        }  # fmt: skip

    _whole = _piece

    def _text(self, token: int) -> str:
        """A token's own text; where it is a part of a character, its name in the vocabulary."""
        text = self.tokenizer.pieces([token])[0]
        return text if "\ufffd" not in text else self.tokenizer.inner.id_to_token(token)


class Chat(Completion):
    """The objects of /v1/chat/completions."""

    name, chunk_name, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        piece = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._of(self.chunk_name, [piece])

    def scores(self, scored: Sequence[Scored]) -> dict[str, Any]:
        content = []
        for s in scored:
            top = [self._scored(i, p) for i, p in s.top]
            content.append(self._scored(s.token, s.logprob) | {"top_logprobs": top})
        return {"content": content, "refusal": None}

    def _scored(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.tokenizer.pieces([token])[0]
        known = None if "\ufffd" in text else list(text.encode())
        return {"token": self._text(token), "logprob": logprob, "bytes": known}

    def _piece(self, index: int, written: Written, scores: Any) -> dict[str, Any]:
        delta = {"content": written.text} if written.text else {}
        return {
            "index": index, "delta": delta, "logprobs": scores, "finish_reason": written.finish
        }  # fmt: skip

    def _whole(self, index: int, written: Written, scores: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": written.text, "refusal": None}
        return {
            "index": index, "message": message, "logprobs": scores,
            "finish_reason": written.finish,
        }  # fmt: skip
