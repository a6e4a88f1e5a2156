"""What an answer's process may write to the judge: replies and requests, whole and changed."""

import io
import json
import struct
from functools import cache

import torch

from kvlab.course.sandbox import answer, wire
from kvlab.course.sandbox.limits import Limits
from kvlab.course.sandbox.remote import RemoteAnswer, RemoteObject, _Child
from tests.fuzz.mutating import bytes_of, json_of, odd, text_of

REFUSALS = (answer.AnswerRaised, answer.NotData, answer.Stopped, answer.Unavailable)


@cache
def frames():
    tensor = torch.arange(6.0).reshape(2, 3)
    messages = [
        {"thing": 3},
        {"value": {"a": [1, 2.5, None, "é"], "b": tensor}, "echo": [tensor, 2], "names": ["x"]},
        {"value": tensor.to(torch.int8), "echo": [tensor, 2], "names": None, "thing": 1},
        {"ask": 0, "method": "read", "args": [0, tensor], "named": {"n": 1}},
        {"raised": "ValueError", "text": "no", "where": "line 3", "builtin": "f"},
        {"not data": "a function"},
    ]
    return [wire.pack(message) for message in messages]


def make(rng):
    """Some frames, one after the other."""
    return {"frames": b"".join(_frame(rng) for _ in range(rng.choice((1, 2, 3, 8))))}


def _frame(rng):
    frame = rng.choice(frames())
    n_tree, _ = struct.unpack("<II", frame[:8])
    tree, block = frame[8 : 8 + n_tree], frame[8 + n_tree :]
    how = rng.randrange(5)
    if how == 0:
        return frame
    if how == 1:
        return bytes_of(rng, frame)
    if how == 2:
        block = bytes_of(rng, block)
    else:
        changed = json_of(rng, json.loads(tree))
        tree = text_of(changed if how == 3 else {"dict": {"value": odd(rng)}})
    return struct.pack("<II", len(tree), len(block)) + tree + block


class Line:
    """The judge's end of a pipe, with a process behind it that says what it was given to say."""

    def __init__(self, said):
        self.said = io.BytesIO(said)

    def write(self, _message, _deadline):
        pass

    def read(self, n, _deadline):
        found = self.said.read(n)
        if len(found) < n:
            raise wire.Broken("no more output")
        return found

    def ended(self):
        return {"code": 1}

    def close(self):
        pass


def run(case, folder):
    child = _Child(Line(case["frames"]), Limits())
    made = object.__new__(RemoteAnswer)
    made._child, made._thing = child, 0
    made(torch.arange(6.0).reshape(2, 3), 2)
    RemoteObject(child, 0).hold("f", 1).now()


def tidy(folder):
    folder.rmdir()
