"""An answer in a process of its own: the judge's side of the conversation.

The judge keeps cases, expected values and counters. The other process gets source and inputs.
Objects that an exercise lends (a model, a cache) stay here too, so what an answer did with them
is counted where it cannot reach.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from typing import Any

from kvlab.course.sandbox import wire
from kvlab.course.sandbox.answer import (
    AnswerRaised,
    NotData,
    Stopped,
    Unavailable,
    as_argument,
    as_data,
    refuse_changed,
)  # fmt: skip
from kvlab.course.sandbox.limits import Limits
from kvlab.course.sandbox.loan import Lent, Loan
from kvlab.course.sandbox.nursery import SANDBOX_SECONDS, Line, Nursery

_XCPU = getattr(signal, "SIGXCPU", 24)
# What an answer does with a lent object is work for the judge.
MAX_ASKS = 5000

_ALONE = [
    (
        "NameError",
        r"^name '\w+' is not defined",
        "(each answer cell runs alone: if another cell defines it, copy it into this one)",
    ),
    (
        "ModuleNotFoundError",
        "^No module named",
        "(each answer cell runs alone, without the files beside the notebook: copy what it needs "
        "of them into it)",
    ),
    (
        "FileNotFoundError",
        "No such file or directory: '[^/]",
        "(each answer cell runs alone, without the files beside the notebook)",
    ),
]


class RemoteAnswer:
    """The function or class that a cell's source defines, in a child process."""

    def __init__(
        self,
        nursery: Nursery,
        source: str,
        name: str,
        *,
        allows: Sequence[str] = (),
        forbids: Sequence[str] = (),
    ) -> None:
        if len(source) > wire.MAX_TREE_BYTES // 4:
            raise NotData(
                f"The answer cell has {len(source):,} characters; more than "
                f"{wire.MAX_TREE_BYTES // 4:,} are not run. Is something pasted into it?"
            )
        self._child = _Child(nursery.start(allows, forbids), nursery.limits)
        try:
            reply = self._child.converse({"do": "define", "source": source, "name": name})
        except BaseException:
            self.close()
            raise
        self._thing = reply.get("thing")
        # where the cell raised below its answer, as a try-out of it does that needs other cells
        self.stopped = _text(reply.get("stopped", ""), 400)

    def __enter__(self) -> RemoteAnswer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        self._child.close()

    def __call__(self, *args: Any) -> Any:
        return self._child.call(self._thing, None, args)

    def make(self, *args: Any) -> RemoteObject:
        return RemoteObject(self._child, self._child.call(self._thing, None, args, keep=True))


class RemoteObject:
    """An object that lives in the child."""

    def __init__(self, child: _Child, thing: int) -> None:
        self._child, self._thing = child, thing

    def call(self, method: str, *args: Any) -> Any:
        return self._child.call(self._thing, method, args)

    def make(self, method: str, *args: Any) -> RemoteObject:
        thing = self._child.call(self._thing, method, args, keep=True)
        return RemoteObject(self._child, thing)

    def hold(self, method: str, *args: Any) -> RemoteHeld:
        return RemoteHeld(self._child, self._child.call(self._thing, method, args, keep=True))


class RemoteHeld:
    """Something the child holds; `now` reads it as it is at that moment."""

    def __init__(self, child: _Child, thing: int) -> None:
        self._child, self._thing = child, thing

    def now(self) -> Any:
        reply = self._child.converse({"do": "look", "thing": self._thing})
        return as_data(reply.get("value"))


class _Child:
    """The conversation with one answer's process, and the objects lent to it."""

    def __init__(self, line: Line, limits: Limits) -> None:
        self._line, self._limits = line, limits
        self._loan = Loan()
        self._end = time.monotonic() + limits.answer_seconds
        self._deadline = self._end
        self._grace = SANDBOX_SECONDS  # before the first call stands the making of the sandbox

    def close(self) -> None:
        self._line.close()

    def call(self, thing: int, method: str | None, args: tuple[Any, ...], keep: bool = False):
        sent = [self._wrap(a) for a in args]
        message = {"do": "call", "thing": thing, "method": method, "args": sent, "keep": keep}
        reply = self.converse(message)
        echo = reply.get("echo")
        if not isinstance(echo, list) or len(echo) != len(args):
            raise Stopped("The answer's process sent a reply that makes no sense.")
        names = reply.get("names")
        known = [n for n in names if str(n).isidentifier()] if isinstance(names, list) else []
        refuse_changed(args, echo, [_text(n, 60) for n in known])
        return reply.get("thing") if keep else as_data(reply.get("value"))

    def converse(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send one message, serve the child's requests, return its answer.

        Whatever odd thing comes back ends this answer and nothing else.
        """
        patience = self._limits.call_seconds + self._grace
        self._deadline, self._grace = min(self._end, time.monotonic() + patience), 0.0
        try:
            reply = self._exchange(message)
        except TimeoutError:
            raise self._stopped(f"{self._too_long()}. Is there a loop that never ends?") from None
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise self._stopped(f"The conversation with it broke off ({reason[:200]}).") from None
        if "raised" in reply:
            kind, text = _text(reply["raised"], 200), _text(reply.get("text", ""), 2000)
            text = f"{text} {self._advice(kind, text)}".strip()
            where, builtin = (_text(reply.get(part, ""), 300) for part in ("where", "builtin"))
            raise AnswerRaised(kind, text, where, builtin)
        if "not data" in reply:
            raise NotData(_text(reply["not data"], 500))
        return reply

    def _advice(self, kind: str, text: str) -> str:
        """What to know of an error that a notebook's own kernel would not have raised."""
        if kind == "MemoryError" or "can't allocate memory" in text:
            return f"(an answer may take {self._limits.memory_bytes / 2**20:.0f} MiB)"
        return next((says for of, sign, says in _ALONE if kind == of and re.search(sign, text)), "")

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        self._line.write(wire.pack(message), self._deadline)
        for _ in range(MAX_ASKS):
            reply = wire.receive(lambda n: self._line.read(n, self._deadline))
            if "ask" not in reply:
                return reply
            self._line.write(wire.pack(self._serve(reply)), self._deadline)
        raise wire.Broken(f"what was lent was used more than {MAX_ASKS} times in one call")

    def _serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let the child use a lent object, but only by the methods it lends."""
        asked = (request[part] for part in ("ask", "method", "args", "named"))
        try:
            return {"value": self._wrap(self._loan.use(*asked))}
        except ValueError as error:
            return {"refused": str(error)}

    def _wrap(self, value: Any) -> Any:
        return self._loan.add(value) if isinstance(value, Lent) else as_argument(value)

    def _too_long(self) -> str:
        all_of_it = self._deadline >= self._end
        seconds = self._limits.answer_seconds if all_of_it else self._limits.call_seconds
        for_what = "in all" if all_of_it else "for one call"
        return f"It took longer than {seconds:.0f} seconds {for_what}"

    def _stopped(self, otherwise: str) -> Stopped | Unavailable:
        """How the process ended, by its keeper's word; by ours when it did not end by itself."""
        ended = self._line.ended()
        if ended is None:
            return Stopped(f"Your answer was stopped. {otherwise}")
        if "failed" in ended:
            return Unavailable(f"the sandbox could not be made: {ended['failed']}")
        if not ended:
            return Stopped("Your answer was stopped: it was killed, and its keeper with it.")
        code, cpu = ended.get("code"), ended.get("cpu", 0.0)
        if code == -_XCPU or (code < 0 and cpu > 0.9 * self._limits.cpu_seconds):
            return Stopped(
                f"Your answer was stopped after {self._limits.cpu_seconds} seconds of processor "
                "time. Is there a loop that never ends?"
            )
        if code < 0:
            return Stopped(f"Your answer's process was killed (signal {-code}).")
        return Stopped(f"Your answer ended its own process (exit code {code}).")


def _text(value: Any, most: int) -> str:
    """Text that an answer sent, safe to print: short, on one line, without control characters."""
    text = " ".join(str(value)[:most].split())
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
