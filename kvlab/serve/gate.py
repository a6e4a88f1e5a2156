"""What every request passes first: who may ask, whether the server still answers, and how much."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvlab.serve.forms import error_of

MOST_BYTES = 10_000_000


@dataclass
class Gate:
    """Around an application; `closing` turns new requests away while those under way end.

    With `key`, all but /health asks for it. `hosts`, if given, are the names by which the server
    may be called: a page in a browser could otherwise reach it by a name of its own.
    """

    app: ASGIApp
    key: str | None = None
    hosts: frozenset[str] | None = None
    closing: bool = field(default=False, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope["path"], headers)
        if refusal is None and self._says_too_much(headers):
            refusal = (413, _TOO_MUCH)
            await _read_on(receive)
        if refusal is not None:
            status, sentence = refusal
            told = JSONResponse(error_of(sentence, status=status), status)
            await told(scope, receive, send)
            return
        await self.app(scope, _counted(receive), send)

    def _refusal(self, path: str, headers: dict[bytes, str]) -> tuple[int, str] | None:
        host = headers.get(b"host", "").rpartition("]")
        name = (host[0] + host[1]) or host[2].partition(":")[0]
        if self.hosts is not None and name not in self.hosts:
            return 421, f"This server is not called {name[:80]!r}."
        if path != "/health" and self.key is not None:
            given = headers.get(b"authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self.key.encode()):
                return 401, "The API key is missing or wrong: Authorization: Bearer KEY."
        if self.closing and path.startswith("/v1/"):
            return 503, "The server is shutting down and takes no new requests."
        return None

    def _says_too_much(self, headers: dict[bytes, str]) -> bool:
        length = headers.get(b"content-length", "0")
        return length.isdecimal() and int(length) > MOST_BYTES


_TOO_MUCH = f"The body is longer than {MOST_BYTES:,} bytes."


async def _read_on(receive: Receive) -> None:
    """Read what a client still sends, within reason: else it would not read the answer."""
    n = 0
    while n < 8 * MOST_BYTES:
        message = await receive()
        n += len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _counted(receive: Receive) -> Receive:
    n = 0

    async def counted() -> Message:
        nonlocal n
        message = await receive()
        n += len(message.get("body", b""))
        if n > MOST_BYTES:
            if message.get("more_body", False):
                await _read_on(receive)
            raise HTTPException(413, _TOO_MUCH)
        return message

    return counted
