"""A server on a free port in a thread, and clients that wait for the thing itself."""

import threading
from contextlib import contextmanager

import httpx
from openai import OpenAI

import kvlab
from kvlab.serve import running
from kvlab.serve.engine import Engine
from kvlab.serve.policies import POLICIES
from kvlab.serve.worker import Worker


class Echo(Engine):
    """A model that writes its prompt once more, and then ends; all else is as it is."""

    def _next(self, written, logits_BV):
        said = {}
        for i, request in enumerate(written):
            self._pick[request](logits_BV[i : i + 1])
            ids = [t for t in request.prompt if t not in request.ends]
            said[request] = [*ids, *request.ends][len(request.answer)]
        return said


@contextmanager
def served(kind=Engine, *, key=None, patience=30, hosts=running.LOCAL, **how):
    """The pocket model behind a socket; `at.engine`, `at.url`, `at.client` to speak with it."""
    model, tokenizer = kvlab.load("pocket")
    engine = kind(model, **{"n_blocks": 256, "policy": POLICIES["chunked"], **how})
    worker = Worker(engine)
    listener = running.listening("127.0.0.1", 0, key=key, is_open=False)
    server = running.Server(worker, tokenizer, "pocket", key=key, hosts=hosts, patience=patience)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    at = Served(engine, worker, server, tokenizer, listener.getsockname()[1], key)
    try:
        yield at
    finally:
        server.close()
        thread.join()
        worker.close()
        assert engine.pool.counts.used == 0


class Served:
    def __init__(self, engine, worker, server, tokenizer, port, key):
        self.engine, self.worker, self.server, self.tokenizer = engine, worker, server, tokenizer
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=120)
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key=key or "none", max_retries=0)

    def metrics(self):
        """The numbers of /metrics by name."""
        text = self.http.get("/metrics").text
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def until(self, holds):
        """Wait until this holds of the worker's state; a test's own limit ends it otherwise."""
        while not holds(self.worker.state):
            threading.Event().wait(0.005)

    def idle(self):
        self.until(lambda s: not s.waiting + s.running + s.blocks.used)
