"""A server under test: how it is asked, and what is read from its answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx


class Failed(Exception):
    """What a server did wrong, in a sentence."""


class NotSupported(Exception):
    """Why a case says nothing of this server."""


@dataclass
class Target:
    """A server by its address, as `http://127.0.0.1:8000`, with or without /v1 behind it."""

    url: str
    model: str = ""
    key: str | None = None
    seconds: float = 120

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=200)
        try:
            self.http = httpx.Client(
                base_url=self.url, headers=headers, timeout=self.seconds, limits=limits
            )
        except httpx.InvalidURL as error:
            raise ValueError(f"{self.url!r} is no address ({error}).") from None

    def find_model(self) -> None:
        """Ask for the first model's name, where none was given.

        Raises: ValueError for what is no such server.
        """
        if self.model:
            return
        try:
            self.model = self.http.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"{self.url} does not answer /v1/models as OpenAI's interface does "
                f"({type(error).__name__}: {error}). Is a server there? Or name a --model."
            ) from None

    def body(self, **asked: Any) -> dict[str, Any]:
        return {"model": self.model, "prompt": "The king and the queen", "temperature": 0} | asked

    def post(self, **asked: Any) -> httpx.Response:
        return self.http.post("/v1/completions", json=self.body(**asked))

    def whole(self, **asked: Any) -> dict[str, Any]:
        """A completion in one piece.

        Raises: Failed for any status but 200.
        """
        response = self.post(**asked)
        if response.status_code != 200:
            raise Failed(f"A plain request got {response.status_code}: {response.text[:150]}")
        return response.json()

    def events(self, **asked: Any) -> Iterator[dict[str, Any]]:
        """The chunks of a stream. Raises: Failed where it does not end with [DONE]."""
        body = self.body(**asked | {"stream": True})
        with self.http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                response.read()
                raise Failed(f"A stream got {response.status_code}: {response.text[:150]}")
            yield from _events(response.iter_lines())

    def blocks(self) -> float | None:
        """Blocks in use, as kvlab's /metrics has them; None where nothing says so."""
        try:
            found = re.search(r'^kvlab_blocks\{kind="used"\} (\S+)', self._metrics(), re.M)
        except httpx.HTTPError:
            return None
        return float(found[1]) if found else None

    def _metrics(self) -> str:
        return self.http.get("/metrics").text


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line == "data: [DONE]":
            return
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))
        elif line and not line.startswith(":"):
            raise Failed(f"A line of the stream is no event: {line[:80]!r}.")
    raise Failed("The stream ended without [DONE].")


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """The text of one choice, put together."""
    pieces = [c for chunk in chunks for c in chunk.get("choices", []) if c["index"] == index]
    return "".join(piece.get("text") or "" for piece in pieces)


def finish_of(chunks: list[dict[str, Any]]) -> str | None:
    """Why a stream's first choice ended."""
    given = [c.get("finish_reason") for chunk in chunks for c in chunk.get("choices", [])]
    return next((reason for reason in reversed(given) if reason), None)


def expect(holds: bool, otherwise: str) -> None:
    """Raises: Failed with that sentence where something does not hold."""
    if not holds:
        raise Failed(otherwise)


def until(holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait for something. Raises: Failed where it does not come."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise Failed(otherwise)
        time.sleep(0.02)
