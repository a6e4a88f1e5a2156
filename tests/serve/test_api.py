"""The endpoint, through a real socket and the client that most people have."""

import asyncio
import json
import socket

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.serve.serving import Echo, served

ASK = "The capital of France is"
USER = [{"role": "user", "content": "What is the capital of France?"}]
SPLIT = "naïve 🙂🙃 한글은 좋다 👩‍🚀."


@pytest.fixture(scope="module")
def at():
    with served() as at:
        yield at


@pytest.fixture(scope="module")
def echo():
    with served(Echo, n_blocks=512) as at:
        yield at


def complete(at, prompt=ASK, **how):
    return at.client.completions.create(
        model="pocket", prompt=prompt, **{"temperature": 0, "max_tokens": 12, **how}
    )


def chat(at, messages=USER, **how):
    return at.client.chat.completions.create(
        model="pocket", messages=messages, **{"temperature": 0, **how}
    )


def joined(chunks, index=0):
    texts = [c.text for chunk in chunks for c in chunk.choices if c.index == index]
    return "".join(texts)


def test_a_completion_is_what_generate_gives(at):
    import kvlab

    said = complete(at)
    ids = at.tokenizer.encode(ASK)
    alone = kvlab.generate(at.engine.model, ids, 12)[0].tolist()
    assert said.choices[0].text == at.tokenizer.decode(alone) and said.object == "text_completion"
    assert said.usage.prompt_tokens == len(ids) and said.usage.completion_tokens == len(alone)
    assert said.usage.total_tokens == len(ids) + len(alone)


def test_a_stream_gives_the_same_in_chunks_of_the_right_kind(at):
    whole = complete(at)
    chunks = list(complete(at, stream=True, stream_options={"include_usage": True}))
    assert joined(chunks) == whole.choices[0].text
    assert {c.object for c in chunks} == {"text_completion"} and len({c.id for c in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == (
        whole.choices[0].finish_reason
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(c.usage is None for c in chunks[:-1])


def test_chat_whole_and_in_chunks(at):
    whole = chat(at)
    assert whole.object == "chat.completion" and "Paris" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(chat(at, stream=True))
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"
    parts = [{"role": "user", "content": [{"type": "text", "text": USER[0]["content"]}]}]
    assert chat(at, parts).choices[0].message.content == text


def test_a_raw_stream_is_server_sent_events_and_ends_with_done(at):
    body = {"model": "pocket", "prompt": ASK, "max_tokens": 3, "stream": True}
    with at.http.stream("POST", "/v1/completions", json=body) as response:
        text = "".join(response.iter_text())
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last, end = text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events)


@pytest.mark.parametrize("most", [3, 5, 1000])
def test_characters_of_several_tokens_come_whole_over_the_wire(echo, most):
    chunks = list(complete(echo, SPLIT, max_tokens=most, stream=True))
    text = joined(chunks)
    assert "\ufffd" not in "".join(c.choices[0].text for c in chunks)
    assert SPLIT.startswith(text) and (text == SPLIT) == (most == 1000)
    assert complete(echo, SPLIT, max_tokens=most).choices[0].text == text
    assert chunks[-1].choices[0].finish_reason == ("stop" if most == 1000 else "length")


@pytest.mark.parametrize("stop", ["🙃 한", ["xyz", "글은 좋다 👩"], "ve ", [".", "🚀."]])
def test_a_stop_string_is_not_shown_and_ends_the_answer(echo, stop):
    stops = [stop] if isinstance(stop, str) else stop
    expected = min((SPLIT.partition(s)[0] for s in stops if s in SPLIT), key=len)
    whole = complete(echo, SPLIT, max_tokens=1000, stop=stop)
    chunks = list(complete(echo, SPLIT, max_tokens=1000, stop=stop, stream=True))
    assert whole.choices[0].text == joined(chunks) == expected
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"
    n_all = len(echo.tokenizer.encode(SPLIT))
    assert whole.usage.completion_tokens <= n_all


def test_what_only_began_a_stop_string_is_given_out_at_the_end(echo):
    chunks = list(complete(echo, SPLIT, max_tokens=1000, stop=["좋다 👩‍🚀.!"], stream=True))
    assert joined(chunks) == SPLIT


def test_several_answers_and_several_prompts(at):
    said = complete(at, [ASK, "The king and the"], n=3, temperature=1, seed=5, max_tokens=6)
    assert [c.index for c in said.choices] == list(range(6))
    again = complete(at, [ASK, "The king and the"], n=3, temperature=1, seed=5, max_tokens=6)
    assert [c.text for c in again.choices] == [c.text for c in said.choices]
    assert len({c.text for c in said.choices[:3]}) > 1
    n_prompt = sum(len(at.tokenizer.encode(p)) for p in (ASK, "The king and the"))
    assert said.usage.prompt_tokens == n_prompt
    chunks = list(
        complete(at, [ASK, "The king and the"], n=3, temperature=1, seed=5, max_tokens=6,
                 stream=True)
    )  # fmt: skip
    assert [joined(chunks, i) for i in range(6)] == [c.text for c in said.choices]


def test_a_seed_draws_the_same_and_no_seed_another(at):
    texts = [complete(at, temperature=1.5, seed=s).choices[0].text for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    free = {complete(at, temperature=1.5).choices[0].text for _ in range(4)}
    assert len(free) > 1


def test_log_probabilities_in_both_forms(at):
    said = complete(at, logprobs=2).choices[0]
    scores = said.logprobs
    assert "".join(scores.tokens).startswith(said.text) and len(scores.top_logprobs[0]) == 2
    assert all(
        p == max(top.values())
        for p, top in zip(scores.token_logprobs, scores.top_logprobs, strict=True)
    )
    assert scores.text_offset[:2] == [0, len(scores.tokens[0])]
    chunks = list(complete(at, logprobs=2, stream=True))
    told = [t for c in chunks for t in c.choices[0].logprobs.tokens]
    assert told == scores.tokens
    spoken = chat(at, logprobs=True, top_logprobs=3).choices[0]
    first = spoken.logprobs.content[0]
    assert first.logprob == first.top_logprobs[0].logprob and len(first.top_logprobs) == 3
    assert bytes(first.bytes).decode() == first.token


REFUSED = {
    "echo": {"echo": True},
    "presence_penalty": {"presence_penalty": 0.5},
    "logit_bias": {"logit_bias": {"5": 10}},
    "best_of": {"best_of": 4},
    "suffix": {"suffix": "x"},
    "max_token": {"extra_body": {"max_token": 5}},
    "temperature": {"temperature": -1},
    "stop": {"stop": ["a", "b", "c", "d", "e"]},
    "n": {"n": 1000},
    "stream_options": {"stream_options": {"include_usage": True}},
    "max_tokens": {"max_tokens": 0},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(at, name):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(at, **REFUSED[name])
    assert name in caught.value.body["message"] or caught.value.body["param"].startswith(name)
    assert caught.value.body["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_no_reason_to_refuse(at):
    plain = complete(at).choices[0].text
    same = complete(at, echo=False, presence_penalty=0, logit_bias={}, best_of=1, user="somebody")
    assert same.choices[0].text == plain
    with pytest.raises(openai.BadRequestError, match=r"tools"):
        chat(at, tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.BadRequestError, match=r"image_url|messages"):
        chat(at, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_a_prompt_beyond_the_context_and_a_model_that_is_not_there(at):
    for prompt in ("word " * 5000, [5] * 3000, "x" * 3_000_000):
        with pytest.raises(openai.BadRequestError, match=r"the context is 2048 tokens"):
            complete(at, prompt)
    with pytest.raises(openai.BadRequestError, match=r"asks for 9999 more"):
        chat(at, max_tokens=9999)
    with pytest.raises(openai.BadRequestError, match=r"context"):
        chat(at, [{"role": "user", "content": "word " * 5000}])
    with pytest.raises(openai.NotFoundError, match=r"There is no model 'gpt-9'"):
        at.client.completions.create(model="gpt-9", prompt=ASK)
    assert [m.id for m in at.client.models.list()] == ["pocket"]
    assert at.client.models.retrieve("pocket").id == "pocket"


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[]", b"3", b"", b'{"model": "pocket"}', b'{"prompt": "x"}']
)
def test_bodies_that_are_no_request(at, content):
    response = at.http.post(
        "/v1/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400 and response.json()["error"]["message"]


IN_MESSAGE = 'messages.0.content{} is {}; expected {}a text, or a list of {{"type": "text"'
STOPS = "a text, or a list of up to four, none of them empty."
WRONG = [
    ("chat/completions", {"messages": [{"role": "user", "content": content}]}, said)
    for content, said in [
        (None, IN_MESSAGE.format("", "null", "")),
        (3, IN_MESSAGE.format("", "3", "")),
        ({"str": 1}, IN_MESSAGE.format("", '{"str": 1}', "")),
        (["x"], IN_MESSAGE.format(".0", '"x"', "as content ")),
        ([{"type": "text", "text": None}], IN_MESSAGE.format(".0.text", "null", "as content ")),
        ([{"type": "text", "text": "a", "\ud800": 1}], 'content.0 is {"type": "text"'),
        ([{"type": "file", "of": [[[1]]]}], '{"type": "file", "of": [[...]]}; expected'),
    ]
] + [
    ("completions", {"prompt": "x", **more}, said)
    for more, said in [
        ({"stop": 5}, f"stop is 5; expected {STOPS}"),
        ({"stop": ""}, f'stop is ""; expected {STOPS}'),
        ({"stop": ["a", 3]}, f"stop.1 is 3; expected as stop {STOPS}"),
        ({"stop": ["a", ""]}, f'stop.1 is ""; expected as stop {STOPS}'),
        ({"stop": [3, None]}, f"stop is [3, null]; expected {STOPS}"),
        ({"stop": list("abcdef")}, 'stop is ["a", "b", "c", "d", "e", ...]; expected'),
        ({"prompt": [1, "a"]}, 'prompt is [1, "a"]; expected a text, a list of texts, a list of'),
        ({"prompt": [None]}, "prompt.0 is null; expected as prompt a text"),
        ({"prompt": "x" * 50, "stop": "y" * 50, "n": -1}, "n is -1: Input should be greater"),
        ({"stream_options": {"\ud800": 1}}, "stream_options is"),
    ]
] + [
    ("completions", {}, "prompt is missing; expected a text, a list of texts"),
    ("chat/completions", {}, "messages is missing, which is required."),
    ("chat/completions", {"messages": [{"role": "user"}]}, "messages.0.content is missing; expec"),
]  # fmt: skip


@pytest.mark.parametrize("path, asked, said", WRONG, ids=[said[:30] for *_, said in WRONG])
def test_what_came_is_said_and_what_was_expected(at, path, asked, said):
    body = json.dumps({"model": "pocket", "max_tokens": 1, **asked}).encode()
    response = at.http.post(
        f"/v1/{path}", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert said in error["message"] and error["message"].startswith(error["param"])


@pytest.mark.parametrize("prompt", ["", [], [[]], [-1], [10**6], ["ok", ""], "\ud800"])
def test_prompts_that_are_none(at, prompt):
    body = json.dumps({"model": "pocket", "prompt": prompt, "max_tokens": 2})
    headers = {"Content-Type": "application/json"}
    response = at.http.post("/v1/completions", content=body.encode(), headers=headers)
    expected = 200 if prompt in ("", ["ok", ""]) else 400  # an empty text begins with BOS
    assert response.status_code == expected, response.text


def test_a_body_of_more_than_ten_megabytes_is_not_read(at):
    big = json.dumps({"model": "pocket", "prompt": "x" * 10_000_001}).encode()
    headers = {"Content-Type": "application/json"}
    known = at.http.post("/v1/completions", content=big, headers=headers)
    cut = (big[i : i + 2**16] for i in range(0, len(big), 2**16))
    unknown = at.http.post("/v1/completions", content=cut, headers=headers)
    assert known.status_code == unknown.status_code == 413
    assert "10,000,000" in known.json()["error"]["message"]


def test_a_page_in_a_browser_cannot_ask(at):
    """Not by a simple request, and not by a name of its own that leads here."""
    body = json.dumps({"model": "pocket", "prompt": ASK, "max_tokens": 1})
    plain = at.http.post("/v1/completions", content=body, headers={"Content-Type": "text/plain"})
    assert plain.status_code == 400
    named = at.http.get("/v1/models", headers={"Host": "evil.example"})
    assert named.status_code == 421


def test_a_key_that_is_asked_for():
    with served(key="s3cret", hosts=None) as at:
        assert complete(at, max_tokens=1).choices
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer ü"}):
            head = {k: v.encode() for k, v in headers.items()}
            assert httpx.get(f"{at.url}/v1/models", headers=head).status_code == 401
            assert httpx.get(f"{at.url}/metrics", headers=head).status_code == 401
        assert httpx.get(f"{at.url}/health").json() == {"status": "ok"}


def test_two_hundred_clients_at_once_and_nothing_is_left(at):
    before = at.metrics()
    prompts = [f"{i} and {i + 1} and" for i in range(200)]

    async def everybody():
        client = AsyncOpenAI(base_url=f"{at.url}/v1", api_key="none", max_retries=0)
        asks = [
            client.completions.create(model="pocket", prompt=p, max_tokens=3, temperature=0)
            for p in prompts
        ]
        return await asyncio.gather(*asks)

    said = asyncio.run(everybody())
    few = {i: complete(at, prompts[i], max_tokens=3).choices[0].text for i in (0, 77, 199)}
    assert {i: said[i].choices[0].text for i in few} == few and len(said) == 200
    after = at.metrics()
    ended = [sum(v for k, v in m.items() if "answers_total" in k) for m in (before, after)]
    assert ended[1] - ended[0] == 203
    assert after['kvlab_blocks{kind="used"}'] == 0
    blocks = [after[f'kvlab_blocks{{kind="{kind}"}}'] for kind in ("evictable", "free")]
    assert sum(blocks) == 256
    assert not at.worker._choices and not at.engine._pick


def test_a_slow_reader_holds_nobody(at):
    """Its own answer is done and its blocks are back before it has read a byte."""
    body = json.dumps({"model": "pocket", "prompt": ASK, "max_tokens": 400, "stream": True,
                       "temperature": 1.9, "seed": 1}).encode()  # fmt: skip
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", at.port)) as slow:
        slow.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        at.until(lambda s: s.running or s.waiting)
        assert complete(at, max_tokens=2).choices
        at.idle()
        text = b""
        while b"[DONE]" not in text:
            text += slow.recv(2**16)
