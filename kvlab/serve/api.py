"""OpenAI's completions and chat over HTTP: what is asked goes to the worker, what is written comes
back whole or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from kvlab.serve import metrics
from kvlab.serve.asked import Asked, AskedChat, AskedCompletion, Refused, wrong
from kvlab.serve.forms import Chat, Completion, error_of, usage_of
from kvlab.serve.job import Job, Limits, check_number
from kvlab.serve.worker import Worker, Written
from kvlab.tokenizer import Tokenizer


class Api:
    """What answers under /v1, for one model that goes by `name`."""

    def __init__(self, worker: Worker, tokenizer: Tokenizer, name: str) -> None:
        engine = worker.engine
        self.worker, self.tokenizer, self.name = worker, tokenizer, name
        self.limits = Limits(engine.model, tokenizer, engine.pool.n_blocks * engine.pool.size)
        self.since = int(time.time())

    async def completions(self, request: Request, asked: AskedCompletion) -> Response:
        self._check(asked)
        check_number(len(asked.prompts), asked.n or 1)
        wanted = 16 if asked.max_tokens is None else asked.max_tokens
        with _refusing("prompt"):
            prompts = [await asyncio.to_thread(self._ids, prompt) for prompt in asked.prompts]
        form = Completion(self.name, self.tokenizer)
        return await self._answer(request, asked, prompts, wanted, form)

    async def chat(self, request: Request, asked: AskedChat) -> Response:
        self._check(asked)
        check_number(1, asked.n or 1)
        messages = [message.plain() for message in asked.messages]
        for message in messages:
            self.limits.check_text(message["content"])
        with _refusing("messages"):
            prompt = await asyncio.to_thread(self.tokenizer.chat, messages)
        wanted = asked.max_completion_tokens or asked.max_tokens
        form = Chat(self.name, self.tokenizer)
        return await self._answer(request, asked, [prompt], wanted, form)

    def models(self) -> dict[str, Any]:
        """The one model that is served."""
        model = {"id": self.name, "object": "model", "created": self.since, "owned_by": "kvlab"}
        return {"object": "list", "data": [model]}

    def model(self, name: str) -> dict[str, Any]:
        """Raises: Refused for any other than the one that is served."""
        self._check_name(name)
        return self.models()["data"][0]

    def _check_name(self, name: str) -> None:
        if name != self.name:
            raise Refused(
                f"There is no model {name[:80]!r} here; this server has {self.name!r}.",
                param="model", status=404, code="model_not_found",
            )  # fmt: skip

    def _check(self, asked: Asked) -> None:
        self._check_name(asked.model)
        asked.refuse_others()
        _ = asked.n_top

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            self.limits.check_text(prompt)
            prompt = self.tokenizer.encode(prompt)
        if not prompt:
            raise Refused("The prompt is empty; expected some text.", param="prompt")
        return prompt

    async def _answer(
        self, request: Request, asked: Asked, prompts: Sequence[Sequence[int]],
        wanted: int | None, form: Completion,
    ) -> Response:  # fmt: skip
        max_new = [self.limits.max_new(prompt, wanted) for prompt in prompts]
        job = Job(self.worker, self.tokenizer, prompts, asked, max_new)
        try:
            await _while_there(request, job.start())
            if asked.stream:
                return Events(job, _events(job, form, asked))
            parts = await _while_there(request, _collected(job))
        except BaseException:
            job.cancel()
            raise
        whole = form.whole(parts, asked.n_top is not None)
        return JSONResponse(whole | {"usage": usage_of(job.choices, job.n_each)})


class Events(StreamingResponse):
    """A stream of events that lets go of its job however it ends, even before it began."""

    def __init__(self, job: Job, events: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.cancel()


async def _events(job: Job, form: Completion, asked: Asked) -> AsyncIterator[str]:
    has_scores, options = asked.n_top is not None, asked.stream_options
    with_usage = options is not None and options.include_usage
    later = {"usage": None} if with_usage else {}
    for index in range(len(job.choices)):
        if opening := form.opening(index):
            yield _event(opening | later)
    try:
        async for index, written in job.written():
            if written.text or written.scored or written.finish:
                yield _event(form.chunk(index, written, has_scores) | later)
    except Refused as refused:
        yield _event(error_of(refused.message, status=refused.status))
        return
    if with_usage:
        yield _event(form.last(usage_of(job.choices, job.n_each)))
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _collected(job: Job) -> list[list[Written]]:
    parts: list[list[Written]] = [[] for _ in job.choices]
    async for index, written in job.written():
        parts[index].append(written)
    return parts


async def _while_there(request: Request, work: Coroutine) -> Any:
    """Wait for some work, unless the client goes away before.

    Raises: Refused in that case, which nobody reads, and what the work raises.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Refused("The client went away.", status=499)
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def app(worker: Worker, tokenizer: Tokenizer, name: str) -> FastAPI:
    """The application, to be put behind a `gate.Gate`."""
    api = Api(worker, tokenizer, name)
    made = FastAPI(title="kvlab serve", docs_url=None, redoc_url=None)
    made.post("/v1/completions", response_model=None)(api.completions)
    made.post("/v1/chat/completions", response_model=None)(api.chat)
    made.get("/v1/models")(api.models)
    made.get("/v1/models/{name:path}")(api.model)
    made.add_exception_handler(Refused, _refused)
    made.add_exception_handler(RequestValidationError, _not_valid)
    made.add_exception_handler(HTTPException, _plain)
    made.add_exception_handler(Exception, _broken)

    @made.get("/metrics")
    def _metrics() -> Response:
        return Response(metrics.text(worker), media_type="text/plain; version=1.0.0")

    @made.get("/health")
    def _health() -> JSONResponse:
        return JSONResponse({"status": "ok" if worker.alive else "the engine has ended"},
                            200 if worker.alive else 503)  # fmt: skip

    return made


@contextmanager
def _refusing(param: str) -> Iterator[None]:
    """What tokenizer and template refuse is the client's to mend."""
    try:
        yield
    except ValueError as error:
        raise Refused(str(error), param) from None


def _broken(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse(error_of("The server failed at this request.", status=500), 500)


def _refused(_request: Request, error: Refused) -> JSONResponse:
    said = error_of(error.message, error.param, error.code, error.status)
    return JSONResponse(said, error.status)


def _plain(_request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse(error_of(str(error.detail), status=error.status_code), error.status_code)


def _not_valid(_request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        why = f"The body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}."
        return JSONResponse(error_of(why), 400)
    if len(first["loc"]) < 2:
        return JSONResponse(error_of(f"The body, as application/json: {first['msg']}."), 400)
    return JSONResponse(error_of(*wrong(error.body, error.errors())), 400)
