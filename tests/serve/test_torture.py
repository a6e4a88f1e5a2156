"""The torture kit: our server passes all of it, and a bad server is told what is bad."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kvlab.serve.torture import CASES, run
from kvlab.serve.torture.target import Target
from kvlab.shell import cli
from tests.serve.serving import Echo, served


@pytest.fixture(scope="module")
def echo():
    with served(Echo, n_blocks=512) as at:
        yield at


def verdicts(target, *names):
    return {o.case: (o.verdict, o.why) for o in run(target, names)}


def test_ours_passes_every_case(echo, capsys):
    """The echoing model, as it writes emoji and Hangul; see docs/serving.md for others."""
    assert cli.main(["torture", echo.url, "--json"]) == 0
    outcomes = json.loads(capsys.readouterr().out)
    assert {o["case"]: o["verdict"] for o in outcomes} == dict.fromkeys(CASES, "passed")
    echo.idle()


def test_a_key_a_case_and_what_is_not_there(echo, capsys):
    with served(Echo, key="k", hosts=None) as at:
        assert cli.main(["torture", f"{at.url}/v1", "--case", "unknown_model", "--key", "k"]) == 0
        assert capsys.readouterr().out.startswith("passed        unknown_model: A model")
        assert cli.main(["torture", at.url, "--case", "unknown_model"]) == 1
        assert "does not answer /v1/models" in capsys.readouterr().err
    for line in (["127.0.0.1:1"], [echo.url, "--case", "nonsense"]):
        assert cli.main(["torture", *line]) == 1


def test_the_server_of_llama_cpp_is_told_something_of_each_case(tmp_path):
    """A model of random weights; what a trained one showed stands in docs/serving.md."""
    llama_cpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp (llama.cpp)")
    pytest.importorskip("gguf", reason="needs gguf")
    from tests.test_gguf_file import wide, write

    params = llama_cpp.CommonParams()
    params.model.path = str(write(tmp_path / "m.gguf", wide("llama"), "F16"))
    params.verbosity, params.n_ctx, params.n_parallel = -1, 1024, 2
    with socket.create_server(("127.0.0.1", 0)) as free:
        params.port = free.getsockname()[1]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = llama_cpp.Server(params)
    names = [
        "several_answers", "object_types", "leaves_before_first", "malformed_json",
        "beyond_context", "unknown_model",
    ]  # fmt: skip
    found = verdicts(Target(server.listening_address), *names)
    assert {name for name, (verdict, _) in found.items() if verdict == "failed"} == {
        "unknown_model"
    }


class Careless(BaseHTTPRequestHandler):
    """What servers were seen to do: ignore n and stop, cut characters, drop what they hold back."""

    text, protocol_version = "so it is 🙂 it ends like this", "HTTP/1.1"

    def do_POST(self):
        try:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(asked)
        except Exception:
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, asked):
        choice = {"index": 0, "text": self.text, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 8}
        body = {"object": "text_completion.chunk", "choices": [choice], "usage": usage}
        sent, kind = json.dumps(body).encode(), "application/json"
        if asked.get("stream"):
            half = self.text.encode().decode("ascii", "replace")[:-4]
            choice["text"] = half
            sent, kind = (
                f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n".encode(),
                "text/event-stream",
            )
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


def test_a_careless_server_is_told_what_is_wrong():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        target = Target(f"http://127.0.0.1:{server.server_port}", "any")
        found = verdicts(target)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    for name, said in {
        "split_characters": "parts of characters", "stop_across_tokens": "with the stop string",
        "stop_at_the_end": "lost", "several_answers": "n is ignored", "usage_adds_up": "add up",
        "whole_is_stream": "streamed", "object_types": "text_completion.chunk",
        "finish_reasons": "expected 'length'", "malformed_json": "expected 400",
        "large_body": "expected 400 or 413", "beyond_context": "expected 400 or 413",
        "unknown_model": "expected 404",
    }.items():  # fmt: skip
        verdict, why = found[name]
        assert verdict == "failed" and said in why, (name, verdict, why)
