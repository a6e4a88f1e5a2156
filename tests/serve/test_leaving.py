"""Clients that go, engines that fail, servers that end: no blocks are kept, nobody is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import httpx
import openai
import pytest

from kvlab.serve import running
from kvlab.serve.engine import Engine
from kvlab.shell import cli
from tests.serve.serving import served

LONG = {"model": "pocket", "prompt": "The king", "max_tokens": 1500, "temperature": 1.9, "seed": 2}


class Held(Engine):
    """An engine whose next step waits until it is let go."""

    go, fails = threading.Event(), None

    def step(self):
        self.go.wait()
        return super().step()

    def _logits(self, plan):
        if self.fails is not None and self.fails(plan):
            raise RuntimeError("as planned")
        return super()._logits(plan)


@pytest.fixture
def at():
    Held.go, Held.fails = threading.Event(), None
    with served(Held) as at:
        try:
            yield at
        finally:
            Held.go.set()


def ask(at, **more):
    """A request on a socket of its own."""
    body = json.dumps(LONG | more).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sock = socket.create_connection(("127.0.0.1", at.port))
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return sock


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_goes_before_the_first_token(at, stream, n):
    sock = ask(at, stream=stream, n=n)
    at.until(lambda s: s.waiting and at.worker._inbox.empty())
    sock.close()
    at.until(lambda s: not at.worker._inbox.empty())  # that it went has been noticed
    Held.go.set()
    at.until(lambda s: s.ended["cancelled"] == n)
    at.idle()
    assert at.worker.state.new_tokens <= 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_goes_midway(at, stream, n):
    Held.go.set()
    sock = ask(at, stream=stream, n=n)
    at.until(lambda s: s.new_tokens > 10)
    if stream:
        assert sock.recv(100)
    sock.close()
    at.until(lambda s: s.ended["cancelled"] == n)
    at.idle()
    assert at.worker.state.new_tokens < 1500 * n and not at.worker._choices
    assert at.metrics()['kvlab_answers_total{how="cancelled"}'] == n


def test_a_step_that_fails_costs_those_in_it_and_no_others(at):
    """Before the first token a status says so, after it an event; then the server goes on."""
    Held.go.set()
    Held.fails = lambda self, plan: True
    for stream in (True, False):
        with pytest.raises(openai.InternalServerError, match=r"The engine failed"):
            at.client.completions.create(**LONG | {"stream": stream})
    Held.fails = lambda self, plan: any(len(r.answer) > 3 for r in plan.n_tokens)
    with pytest.raises(openai.APIError, match=r"The engine failed"):
        list(at.client.completions.create(**LONG | {"stream": True}))
    short = at.client.completions.create(**LONG | {"max_tokens": 3})
    assert short.usage.completion_tokens == 3
    at.idle()
    assert at.worker.state.ended["error"] == 3 == at.worker.state.failed_steps


def test_an_answer_that_fails_alone_leaves_the_others(at):
    Held.go.set()
    engine = at.engine
    whole = engine._picked
    engine._picked = lambda request, logits: (
        None if len(request.answer) > 2 and request.max_new == 77 else whole(request, logits)
    )
    with pytest.raises(openai.InternalServerError, match=r"The engine failed"):
        at.client.completions.create(**LONG | {"max_tokens": 77})
    assert at.client.completions.create(**LONG | {"max_tokens": 5}).usage.completion_tokens == 5
    assert at.worker.state.failed_steps == 0


def test_a_server_that_is_to_end_answers_whom_it_has_and_nobody_else(at):
    said = []
    asking = threading.Thread(
        target=lambda: said.append(at.client.completions.create(**LONG | {"max_tokens": 20}))
    )
    asking.start()
    at.until(lambda s: s.waiting)
    at.server.handle_exit(signal.SIGTERM, None)
    assert at.http.post("/v1/completions", json=LONG).status_code == 503
    assert at.http.get("/health").status_code == 200
    Held.go.set()
    asking.join()
    assert said[0].usage.completion_tokens == 20


def test_an_answer_that_takes_too_long_ends_with_the_server():
    Held.go, Held.fails = threading.Event(), None
    Held.go.set()
    with served(Held, patience=0.1) as at:
        Held.go.clear()
        sock = ask(at, stream=True)
        at.until(lambda s: not at.worker._inbox.empty() or at.worker._choices)
        at.server.close()
        while sock.recv(2**16):  # until the other side ends it
            pass
        Held.go.set()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])
def test_where_others_could_reach_it_a_key_is_asked_for(host, monkeypatch, capsys):
    monkeypatch.delenv("KVLAB_API_KEY", raising=False)
    assert cli.main(["serve", "--host", host, "--port", "0"]) == 1
    assert "no key is asked for" in capsys.readouterr().err


def test_a_port_that_is_taken_or_is_none_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["serve", "--port", "70000"])
    assert "'70000': expected 1 to 65535" in capsys.readouterr().err
    with running.listening("127.0.0.1", 0, key=None, is_open=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}"):
            running.listening("127.0.0.1", port, key=None, is_open=False)
    with running.listening("0.0.0.0", 0, key="k", is_open=False):
        pass


@pytest.mark.skipif(os.name != "posix", reason="needs signals of POSIX")
def test_the_command_serves_until_it_is_told_to_end():
    run = "import sys; from kvlab.shell import cli; sys.exit(cli.main(sys.argv[1:]))"
    line = [sys.executable, "-c", run, "serve", "--port", "0", "--blocks", "200"]
    server = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        said = server.stderr.readline()
        assert "; compiled steps. " in said
        url = said.split(" at ")[1].partition(";")[0]
        body = LONG | {"max_tokens": 1500, "stream": True}
        with httpx.stream("POST", f"{url}/completions", json=body, timeout=300) as response:
            lines = response.iter_lines()
            first = next(lines)
            server.send_signal(signal.SIGTERM)
            rest = [text for text in lines if text]
        assert first.startswith("data: {") and rest[-1] == "data: [DONE]"
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
