"""The process that an answer runs in. It is given source and inputs, and gives back data.

It holds no expected value, no oracle and no seed. Importing torch takes seconds, so on POSIX one
process (the nursery) does it once and forks. Each answer gets two processes: a keeper, which
builds the sandbox and watches, and inside it the one that runs the answer.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import select
import signal
import socket
import sys
import threading
from typing import Any, BinaryIO

import torch

from kvlab.course.sandbox import namespaces, usage, wire
from kvlab.course.sandbox.answer import (
    AnswerRaised,
    NotData,
    as_data,
    parameters,
    raised,
)  # fmt: skip
from kvlab.course.sandbox.cell import Cell
from kvlab.course.sandbox.forbid import without
from kvlab.course.sandbox.limits import Limits, address_space
from kvlab.course.sandbox.loan import Borrowed
from kvlab.course.sandbox.shown import OWN


class Talk:
    """One conversation with the judge."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO, order: dict[str, Any]) -> None:
        self._in, self._out, self._forbids = incoming, outgoing, order["forbids"]
        self._things: list[Any] = []
        self._turn = threading.Lock()
        self._cell = Cell(order["allows"], order["forbids"])

    def serve(self) -> None:
        while True:
            message = self._receive()
            try:
                packed = wire.pack(getattr(self, "do_" + message["do"])(message))
            except AnswerRaised as told:
                reply = {"raised": told.kind, "text": told.text, "where": told.where,
                         "builtin": told.builtin}  # fmt: skip
                packed = wire.pack(reply)
            except NotData as bad:
                packed = wire.pack({"not data": str(bad)})
            except Exception as error:  # a list that holds itself, a text beyond all bounds
                why = str(error) if isinstance(error, wire.Broken) else type(error).__name__
                text = f"your code returned what cannot be sent ({why})."
                packed = wire.pack({"not data": text})
            self._send(packed)

    def do_define(self, message: dict[str, Any]) -> dict[str, Any]:
        name, stopped = message["name"], ""
        try:
            self._run(lambda: self._cell.run(message["source"]))
        except AnswerRaised as error:  # in a notebook too, what stood above it is defined
            if not callable(self._cell.names.get(name)):
                raise
            stopped = f"{error} ({error.where})"
        if not callable(self._cell.names.get(name)):
            raise AnswerRaised("NameError", f"the answer cell does not define {name}")
        self._things.append(self._cell.names[name])
        return {"thing": len(self._things) - 1, "stopped": stopped}

    def do_call(self, message: dict[str, Any]) -> dict[str, Any]:
        target = self._things[message["thing"]]
        if message["method"] is not None:
            name = message["method"]
            target = getattr(target, name, None)
            if not callable(target):
                raise AnswerRaised("AttributeError", f"the object has no method {name}")
        args = [self._unwrap(a) for a in message["args"]]
        value = self._run(lambda: target(*args))
        names = parameters(target)
        echo = [None if isinstance(a, Borrowed) else as_data(a) for a in args]
        if message["keep"]:
            self._things.append(value)
            return {"thing": len(self._things) - 1, "echo": echo, "names": names}
        return {"value": as_data(value), "echo": echo, "names": names}

    def do_look(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"value": as_data(self._things[message["thing"]])}

    def ask(self, number: int, method: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Use something of the judge's."""
        args_sent = [self._wrap(a) for a in args]
        named_sent = {name: self._wrap(a) for name, a in named.items()}
        asked = wire.pack({"ask": number, "method": method, "args": args_sent, "named": named_sent})
        with self._turn:  # an answer may ask from several threads
            self._send(asked)
            reply = self._receive()
        if "refused" in reply:
            raise ValueError(reply["refused"])
        return self._unwrap(reply["value"])

    def _wrap(self, value: Any) -> Any:
        return wire.Ref(value.number) if isinstance(value, Borrowed) else as_data(value)

    def _unwrap(self, value: Any) -> Any:
        return Borrowed(self.ask, value) if isinstance(value, wire.Ref) else value

    def _run(self, action: Any) -> Any:
        try:
            with without(self._forbids):
                return action()
        except BaseException as error:  # SystemExit too: a cell may end in sys.exit()
            raise raised(error) from None

    def _send(self, packed: bytes) -> None:
        self._out.write(packed)
        self._out.flush()

    def _receive(self) -> dict[str, Any]:
        return wire.receive(self._exactly)

    def _exactly(self, n: int) -> bytes:
        got = self._in.read(n)
        if len(got) < n:
            sys.exit(0)
        return got


def run(order: dict[str, Any], incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Serve one answer to the end of its conversation."""
    torch.set_num_threads(1)
    os.environ.pop(OWN, None)  # what hid that folder from the answer need not tell of it
    Talk(incoming, outgoing, order).serve()


def fetch_allowed(allows: list[str]) -> None:
    """Import what this exercise allows and the sandbox will hide; forget the rest of ours."""
    for name in allows:
        importlib.import_module(name)
    for name in [n for n in sys.modules if n.startswith("kvlab.") and n not in allows]:
        if not name.startswith("kvlab.course"):
            parent, _, child = name.rpartition(".")
            sys.modules.pop(name)
            with contextlib.suppress(KeyError, AttributeError):
                delattr(sys.modules[parent], child)


def keep(order: dict[str, Any], talk: int, life: socket.socket) -> None:
    """Build the sandbox, start the answer in it, and end it when the judge hangs up.

    The judge holds the other end of `life` and reads there how the answer ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    limits, level, me = Limits(**order["limits"]), order["level"], os.getpid()
    mapped = address_space()
    try:
        fetch_allowed(order["allows"])
        if level == "namespaces":
            namespaces.enter(os.getcwd(), limits)
        child = os.fork()
    except Exception as error:
        life.send(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
        return
    if child == 0:
        life.close()
        os.setsid()
        namespaces.die_with_parent()
        if level == "limits":
            os.chdir(order["folder"])
            os.environ.update(HOME=order["folder"], TMPDIR=order["folder"])
        namespaces.settle(limits, level, me, mapped)
        run(order, os.fdopen(talk, "rb"), os.fdopen(os.dup(talk), "wb"))
        return
    os.close(talk)
    _watch(child, life, limits.cpu_seconds, level)


def _watch(child: int, life: socket.socket, cpu_seconds: float, level: str) -> None:
    spent = usage.Spent(None if level == "namespaces" else child)
    counted, over = 0.0, False
    while True:
        counted = max(counted, usage.counted(child), spent.seconds())
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        over = counted > cpu_seconds + 1  # its processes together; the first has a limit of its own
        if select.select([life], [], [], 0.02)[0] or over:
            with contextlib.suppress(OSError):
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            break
    code = os.waitstatus_to_exitcode(status)
    report = {"code": code, "cpu": max(counted, used.ru_utime + used.ru_stime)}
    with contextlib.suppress(OSError):
        life.send(json.dumps(report).encode())


def nursery() -> None:
    """Fork a keeper for each order that comes, until the judge hangs up."""
    orders = socket.socket(fileno=os.dup(0))
    _silence()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.getpid() == 1:  # in a bubblewrap sandbox, which answers share with it
        namespaces.untouchable()
    wire.receive(io.BytesIO(wire.pack({"warm": torch.ones(2, 2) @ torch.ones(2, 2)})).read)
    orders.send(b"ready")
    while True:
        text, fds, _, _ = socket.recv_fds(orders, 2**16, 2)
        if not text:
            return
        order = json.loads(text)
        if order["forbids"]:  # its first use loads half of torch: here once, not in each answer
            with without(["nothing"]):
                torch.ones(1).add(1)
        if os.fork() == 0:
            try:
                orders.close()
                keep(order, fds[0], socket.socket(fileno=fds[1]))
            finally:
                os._exit(0)  # nothing of the nursery's may run in here
        for fd in fds:
            os.close(fd)


def single() -> None:
    """One answer over standard input and output, for systems that do not fork."""
    order = json.loads(sys.argv[2])
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _silence()
    fetch_allowed(order["allows"])
    namespaces.settle(Limits(**order["limits"]), "clock")
    run(order, incoming, outgoing)


def _silence() -> None:
    """The answer's own input and output go nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


if __name__ == "__main__":
    {"nursery": nursery, "single": single}[sys.argv[1]]()
