"""The cases: each is a function of a target, and its docstring says what a good server does."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from kvlab.serve.torture.target import (
    Failed,
    NotSupported,
    Target,
    expect,
    finish_of,
    text_of,
    until,
)  # fmt: skip

# texts that a model may go on with in characters of several bytes
SPLIT = [
    "🙂🙃😀 🙂🙃😀 🙂🙃😀 🙂🙃😀 🙂🙃😀 🙂🙃",
    "안녕하세요 세계. 안녕하세요 세계. 안녕하세요 세계. 안녕하세요",
    "naïve café, naïve café, naïve café, naïve",
]


def split_characters(target: Target) -> None:
    """Emoji and Hangul arrive whole in a stream, as they stand in the answer in one piece."""
    seen = False
    for prompt in SPLIT:
        whole = target.whole(prompt=prompt, max_tokens=40)["choices"][0]["text"]
        streamed = text_of(list(target.events(prompt=prompt, max_tokens=40)))
        expect(
            "\ufffd" not in streamed or "\ufffd" in whole,
            f"The stream shows parts of characters: {streamed[-40:]!r}.",
        )
        seen = seen or any(ord(c) > 127 for c in whole)
    if not seen:
        raise NotSupported("The model wrote no character of several bytes.")


def _stopped(target: Target, begin: int, length: int) -> None:
    """A piece of the model's own answer as its stop string."""
    free = target.whole(max_tokens=24)["choices"][0]["text"]
    stop = free[begin : begin + length] if begin >= 0 else free[begin:]
    if len(free) < 12 or not stop.strip():
        raise NotSupported(f"The model's answer is too short to be stopped: {free!r}.")
    expected = free[: free.index(stop)]
    whole = target.whole(max_tokens=24, stop=stop)["choices"][0]
    chunks = list(target.events(max_tokens=24, stop=[stop]))
    for how, got in (("in one piece", whole["text"]), ("streamed", text_of(chunks))):
        expect(
            got == expected,
            f"Of {free!r} with the stop string {stop!r} came {got!r} {how}; expected {expected!r}.",
        )
    reasons = {whole["finish_reason"], finish_of(chunks)}
    expect(reasons == {"stop"}, f"It ended for {sorted(map(str, reasons))}; expected 'stop'.")


def stop_across_tokens(target: Target) -> None:
    """A stop string over several tokens ends the answer, and no part of it is shown."""
    _stopped(target, 5, 7)


def stop_at_the_end(target: Target) -> None:
    """What only began a stop string is given out at the end, and a stop string there is not."""
    free = target.whole(max_tokens=24)["choices"][0]["text"]
    chunks = list(target.events(max_tokens=24, stop=[free[-6:] + "\u2603"]))
    got = text_of(chunks)
    expect(got == free, f"The end was lost or changed: {got[-20:]!r}, not {free[-20:]!r}.")
    _stopped(target, -4, 4)


def several_answers(target: Target) -> None:
    """n=3 gives three answers, numbered 0 to 2, whole and streamed."""
    response = target.post(n=3, max_tokens=6)
    if response.status_code == 400:
        raise NotSupported(f"It refuses n: {response.text[:100]}")
    choices = response.json()["choices"]
    indexes = sorted(c["index"] for c in choices)
    expect(indexes == [0, 1, 2], f"n=3 gave the answers {indexes}; n is ignored.")
    chunks = list(target.events(n=3, max_tokens=6))
    streamed = {c["index"] for chunk in chunks for c in chunk["choices"]}
    expect(streamed == {0, 1, 2}, f"n=3 streamed the answers {sorted(streamed)}.")


def whole_is_stream(target: Target) -> None:
    """stream=false gives one object, and its text is that of the stream."""
    response = target.post(max_tokens=16, stream=False)
    kind = response.headers.get("content-type", "")
    expect(kind.startswith("application/json"), f"stream=false gave {kind!r}.")
    whole = response.json()["choices"][0]["text"]
    streamed = text_of(list(target.events(max_tokens=16)))
    expect(whole == streamed, f"In one piece {whole!r}, streamed {streamed!r}.")


def object_types(target: Target) -> None:
    """Objects are called what OpenAI calls them, in both forms of both interfaces."""
    found = [target.whole(max_tokens=2)["object"]]
    found += sorted({c["object"] for c in target.events(max_tokens=2)})
    expect(set(found) == {"text_completion"}, f"Completions are called {found}.")
    asked = {"model": target.model, "messages": [{"role": "user", "content": "Hello"}]}
    response = target.http.post("/v1/chat/completions", json=asked | {"max_tokens": 2})
    if response.status_code != 200:
        raise NotSupported(f"Chat got {response.status_code}: {response.text[:100]}")
    name = response.json()["object"]
    expect(name == "chat.completion", f"A chat answer is called {name!r}.")


def finish_reasons(target: Target) -> None:
    """An answer that was cut off says "length", one that ended "stop"."""
    cut = target.whole(max_tokens=3)["choices"][0]["finish_reason"]
    expect(cut == "length", f"After max_tokens=3 it said {cut!r}; expected 'length'.")
    streamed = finish_of(list(target.events(max_tokens=3)))
    expect(streamed == "length", f"A stream cut off at 3 tokens said {streamed!r}.")
    free = target.whole(max_tokens=12)["choices"][0]["text"]
    if not free[3:6].strip():
        raise NotSupported("The model's answer is too short to be stopped.")
    said = target.whole(max_tokens=12, stop=free[3:6])["choices"][0]["finish_reason"]
    expect(said == "stop", f"After a stop string it said {said!r}; expected 'stop'.")


def usage_adds_up(target: Target) -> None:
    """usage counts tokens that add up, whole and at the end of a stream that asks for it."""
    usage = target.whole(max_tokens=7)["usage"]
    total = usage["prompt_tokens"] + usage["completion_tokens"]
    expect(usage["total_tokens"] == total, f"usage does not add up: {usage}.")
    expect(0 < usage["completion_tokens"] <= 7, f"7 tokens were allowed: {usage}.")
    chunks = list(target.events(max_tokens=7, stream_options={"include_usage": True}))
    told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    expect(len(told) == 1, f"include_usage told of usage {len(told)} times; expected once.")
    same = told[0]["completion_tokens"] == usage["completion_tokens"]
    expect(same, f"Streamed {told[0]}, in one piece {usage}.")


def _left(target: Target, before_first: bool, stream: bool) -> None:
    before = target.blocks()
    asked = {"prompt": "The king and the queen. " * 30, "max_tokens": 400, "stream": stream}
    sock = _asking(target, **asked, temperature=1, seed=1)
    if not before_first and stream:
        sock.recv(1)
    elif not before_first:
        _wait_for_work(target, sock, before)
    sock.close()
    target.whole(max_tokens=2)
    if before is not None:
        seconds = target.seconds
        until(lambda: target.blocks() <= before, seconds, "Its blocks were never given back.")


def _wait_for_work(target: Target, sock: socket.socket, before: float | None) -> None:
    """Until the request holds blocks, or is answered already; half a second if nothing says so."""
    if before is None:
        select.select([sock], [], [], 0.5)
        return
    said = "The request neither held blocks nor was answered."
    until(
        lambda: target.blocks() != before or bool(select.select([sock], [], [], 0)[0]),
        target.seconds, said,
    )  # fmt: skip


def _asking(target: Target, **asked: Any) -> socket.socket:
    """A request on a socket of its own, of which nothing is read yet."""
    place = urlsplit(target.url)
    if place.scheme != "http":
        raise NotSupported("The socket's own cases need a plain http address.")
    body = json.dumps(target.body(**asked)).encode()
    key = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
    head = (
        f"POST {place.path}/v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\n{key}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sock = socket.create_connection((place.hostname, place.port or 80), timeout=target.seconds)
    sock.sendall(head.encode() + body)
    return sock


def leaves_before_first(target: Target) -> None:
    """A client that goes before the first token costs nothing: others are served, blocks return."""
    for stream in (True, False):
        _left(target, True, stream)


def leaves_midway(target: Target) -> None:
    """Nor does one that goes in the middle of an answer, streamed or not."""
    for stream in (True, False):
        _left(target, False, stream)


def many_clients(target: Target) -> None:
    """64 clients at once are all answered, each with its own answer."""
    said: dict[int, Any] = {}

    def ask(i: int) -> None:
        try:
            said[i] = target.whole(prompt=f"{i} and {i + 1} and", max_tokens=4)
        except Exception as error:
            said[i] = error

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lost = [answer for answer in said.values() if isinstance(answer, Exception)]
    expect(not lost, f"{len(lost)} of 64 got no answer, the first for: {str(lost[:1])[:150]}")


def slow_reader(target: Target) -> None:
    """A client that reads nothing holds nobody, and gets its whole answer when it reads."""
    with _asking(target, max_tokens=200, stream=True, temperature=1, seed=1) as slow:
        target.whole(max_tokens=2)
        got = b""
        while b"[DONE]" not in got:
            piece = slow.recv(2**16)
            if not piece:
                raise Failed("The answer broke off before [DONE].")
            got += piece


def malformed_json(target: Target) -> None:
    """What is no JSON gets 400, and the server goes on."""
    for content in (b'{"model": ', b"\xff\xfe", b"[]"):
        response = target.http.post(
            "/v1/completions", content=content, headers={"Content-Type": "application/json"}
        )
        status = response.status_code
        expect(400 <= status < 500, f"{content!r} got {status}; expected 400.")
    target.whole(max_tokens=2)


def large_body(target: Target) -> None:
    """A body of more than 10 MB is refused, and the server goes on."""
    _refused(target, "x" * 10_500_000, "A body of 10.5 MB")


def beyond_context(target: Target) -> None:
    """A prompt beyond the context is refused with a sentence, not cut or answered with nothing."""
    _refused(target, "one two three " * 60_000, "A prompt of 180,000 words")


def _refused(target: Target, prompt: str, what: str) -> None:
    try:
        response = target.post(prompt=prompt, max_tokens=2)
    except httpx.TransportError as error:
        raise Failed(f"{what} broke the connection: {type(error).__name__}.") from None
    status = response.status_code
    expect(400 <= status < 500, f"{what} got {status}; expected 400 or 413.")
    expect(len(response.text) > 10, f"{what} got {status} without a sentence.")
    target.whole(max_tokens=2)


def unknown_model(target: Target) -> None:
    """A model that is not there is refused, not answered by another."""
    status = target.post(model="no-such-model-here", max_tokens=2).status_code
    expect(status in (400, 404), f"A model that is not there got {status}; expected 404.")


ALL: tuple[Callable[[Target], None], ...] = (
    split_characters, stop_across_tokens, stop_at_the_end, several_answers, whole_is_stream,
    object_types, finish_reasons, usage_adds_up, leaves_before_first, leaves_midway, many_clients,
    slow_reader, malformed_json, large_body, beyond_context, unknown_model,
)  # fmt: skip
