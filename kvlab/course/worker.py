"""The process that an answer runs in. It is given source and inputs, and gives back data.

It holds no expected value, no oracle and no seed. Run by `course.remote` as
`python -I -m kvlab.course.worker`, with limits already set.
"""

from __future__ import annotations

import linecache
import os
import sys
from importlib.abc import MetaPathFinder
from typing import Any

import torch

from kvlab.course import wire
from kvlab.course.answer import AnswerRaised, NotData, as_data, last_line

_CELL = "<answer>"


class Borrowed:
    """The judge's object, seen from the answer: calling a method asks the judge."""

    def __init__(self, talk: Talk, number: int, lends: list[str]) -> None:
        self._talk, self._number, self._lends = talk, number, lends

    def __getattr__(self, name: str) -> Any:
        if name not in self._lends:
            raise AttributeError(f"this object has {', '.join(self._lends)}; not {name}")
        return lambda *args: self._talk.ask(self._number, name, args)

    def __call__(self, *args: Any) -> Any:
        return self._talk.ask(self._number, "__call__", args)


class Talk:
    """One conversation with the judge."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._in = os.fdopen(incoming, "rb")
        self._out = os.fdopen(outgoing, "wb")
        self._things: list[Any] = []
        self._namespace: dict[str, Any] = {"__name__": "__answer__", "torch": torch}

    def serve(self) -> None:
        while True:
            message = self._receive()
            try:
                reply = getattr(self, "do_" + message["do"])(message)
            except AnswerRaised as raised:
                reply = {"raised": raised.kind, "text": raised.args[0], "where": raised.where}
            except NotData as bad:
                reply = {"not data": str(bad)}
            wire.send(self._out, reply)

    def do_define(self, message: dict[str, Any]) -> dict[str, Any]:
        source = message["source"]
        linecache.cache[_CELL] = (len(source), None, source.splitlines(True), _CELL)
        self._run(lambda: exec(compile(source, _CELL, "exec"), self._namespace))
        name = message["name"]
        if not callable(self._namespace.get(name)):
            raise AnswerRaised("NameError", f"the answer cell does not define {name}")
        self._things.append(self._namespace[name])
        return {"thing": len(self._things) - 1}

    def do_call(self, message: dict[str, Any]) -> dict[str, Any]:
        target = self._things[message["thing"]]
        if message["method"] is not None:
            name = message["method"]
            target = getattr(target, name, None)
            if not callable(target):
                raise AnswerRaised("AttributeError", f"the object has no method {name}")
        args = [self._unwrap(a) for a in message["args"]]
        value = self._run(lambda: target(*args))
        echo = [a if isinstance(a, torch.Tensor) else None for a in args]
        if message["keep"]:
            self._things.append(value)
            return {"thing": len(self._things) - 1, "echo": echo}
        return {"value": as_data(value), "echo": echo}

    def do_look(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"value": as_data(self._things[message["thing"]])}

    def ask(self, number: int, method: str, args: tuple[Any, ...]) -> Any:
        lent = [isinstance(a, Borrowed) for a in args]
        sent = [a._number if isinstance(a, Borrowed) else as_data(a) for a in args]
        wire.send(self._out, {"ask": number, "method": method, "args": sent, "lent": lent})
        reply = self._receive()
        if "refused" in reply:
            raise ValueError(reply["refused"])
        return self._unwrap(reply["value"])

    def _unwrap(self, value: Any) -> Any:
        if isinstance(value, dict) and "lent" in value:
            return Borrowed(self, value["lent"], value["lends"])
        return value

    def _run(self, action: Any) -> Any:
        try:
            return action()
        except Exception as error:
            raise AnswerRaised(type(error).__name__, str(error), last_line(error)) from None

    def _receive(self) -> dict[str, Any]:
        return wire.receive(self._exactly)

    def _exactly(self, n: int) -> bytes:
        got = self._in.read(n)
        if len(got) < n:
            sys.exit(0)
        return got


class Refuse(MetaPathFinder):
    """Imports that would answer the question for the learner are refused by name."""

    def __init__(self, allows: list[str]) -> None:
        self._allows = allows

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith("kvlab.") and name not in self._allows:
            raise ImportError(f"{name} may not be used in this exercise: write it yourself")


def main() -> None:
    """Keep the pipes for the judge; the answer's own input and output go nowhere."""
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    torch.set_num_threads(1)
    sys.meta_path.insert(0, Refuse(sys.argv[1:]))
    Talk(incoming, outgoing).serve()


if __name__ == "__main__":
    main()
