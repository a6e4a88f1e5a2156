"""An answer in a process of its own: the judge's side of the conversation.

The judge keeps cases, expected values and counters. The other process gets source and inputs.
Objects that an exercise lends (a model, a cache) stay here too, so what an answer did with them
is counted where it cannot reach.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from kvlab.course.sandbox import walls, wire
from kvlab.course.sandbox.answer import (
    AnswerRaised,
    Lent,
    Loan,
    NotData,
    Stopped,
    Unavailable,
    as_argument,
    as_data,
    refuse_changed,
)  # fmt: skip
from kvlab.course.sandbox.walls import Level, Limits

_XCPU = getattr(signal, "SIGXCPU", 24)
START_SECONDS, SANDBOX_SECONDS = 600.0, 60.0  # of a machine that may be very busy
# What an answer does with a lent object is work for the judge.
MAX_ASKS = 5000


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
        self._child = _Child(nursery.start(allows, forbids), nursery.limits)
        try:
            reply = self._child.converse({"do": "define", "source": source, "name": name})
        except BaseException:
            self.close()
            raise
        self._thing = reply.get("thing")

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
        refuse_changed(args, echo)
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
            if kind == "MemoryError" or "can't allocate memory" in text:
                most = f"(an answer may take {self._limits.memory_bytes / 2**20:.0f} MiB)"
                text = f"{text} {most}".strip()
            raise AnswerRaised(kind, text, _text(reply.get("where", ""), 300))
        if "not data" in reply:
            raise NotData(_text(reply["not data"], 500))
        return reply

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


# --- processes --------------------------------------------------------------------------------


class Line(Protocol):
    """The connection to one answer's process."""

    def write(self, data: bytes, deadline: float) -> None: ...

    def read(self, n: int, deadline: float) -> bytes: ...

    def ended(self) -> dict[str, Any] | None:
        """How the process ended, None if it still runs."""
        ...

    def close(self) -> None:
        """End the process and everything it started."""
        ...


class Nursery:
    """Starts answers' processes.

    On POSIX one process imports torch and forks; it holds no secret, and if an answer should end
    it, another is started. In a bubblewrap sandbox, answers of one nursery share the sandbox, so
    each submission needs one of its own (`shared` is False).
    """

    def __init__(self, level: Level | None = None, limits: Limits | None = None) -> None:
        self.level, self.limits = level or walls.best(), limits or Limits()
        self.shared = self.level.name != "bubblewrap"
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._shown: list[str] = []  # what bubblewrap shows of the course: one answer's `allows`

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def start(self, allows: Sequence[str], forbids: Sequence[str]) -> Line:
        """A new process, in its sandbox, that waits for an answer's source."""
        order = {
            "allows": list(allows),
            "forbids": list(forbids),
            "limits": asdict(self.limits),
            "level": self.level.name,
        }
        if self.level.name == "clock":
            return _Pipes(order, self.limits)
        ours, theirs = socket.socketpair()
        life, their_life = socket.socketpair()
        folder = tempfile.TemporaryDirectory(prefix="kvlab-answer-", ignore_cleanup_errors=True)
        order["folder"] = folder.name
        try:
            fds = [theirs.fileno(), their_life.fileno()]
            self._send(json.dumps(order).encode(), fds, order["allows"])
        finally:
            theirs.close()
            their_life.close()
        return _Sockets(ours, life, folder)

    def _send(self, order: bytes, fds: list[int], allows: list[str]) -> None:
        with self._lock:
            for _ in range(2):
                ended = self._process is None or self._process.poll() is not None
                if ended or (allows != self._shown and not self.shared):
                    self._open(allows)
                try:
                    socket.send_fds(self._orders, [order], fds)
                    return
                except OSError:
                    self._close()
        raise Unavailable("the process that starts answers does not live; see `kvlab doctor`")

    def _open(self, allows: list[str]) -> None:
        self._close()
        self._shown = allows
        self._folder = tempfile.TemporaryDirectory(
            prefix="kvlab-nursery-", ignore_cleanup_errors=True
        )
        kind = socket.SOCK_SEQPACKET if hasattr(socket, "SOCK_SEQPACKET") else socket.SOCK_DGRAM
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, kind)
        wrapped = self.level.name == "bubblewrap"
        self._process = subprocess.Popen(
            walls.python(
                "kvlab.course.sandbox.worker",
                "nursery",
                bubblewrapped=wrapped,
                modules=[*_WORKER, *allows],
            ),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env=walls.environment(self._folder.name),
            start_new_session=True,
        )
        theirs.close()
        self._orders.settimeout(START_SECONDS)
        with contextlib.suppress(OSError):
            if self._orders.recv(16) == b"ready":
                return
        self._close()
        raise Unavailable(f"Python did not start in its sandbox in {START_SECONDS:.0f} seconds")

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._process is None:
            return
        self._orders.close()
        self._process.kill()
        self._process.wait()
        self._process = None
        self._folder.cleanup()


# What a bubblewrap sandbox must show of this package.
_WORKER = [f"kvlab.course.sandbox.{name}" for name in ("answer", "walls", "wire", "worker")]


class _Sockets:
    """A process that a nursery's keeper watches."""

    def __init__(
        self, talk: socket.socket, life: socket.socket, folder: tempfile.TemporaryDirectory
    ) -> None:
        self._talk, self._life, self._folder = talk, life, folder

    def write(self, data: bytes, deadline: float) -> None:
        self._talk.settimeout(_left(deadline))
        self._talk.sendall(data)

    def read(self, n: int, deadline: float) -> bytes:
        pieces, missing = [], n
        while missing:
            self._talk.settimeout(_left(deadline))
            piece = self._talk.recv(min(missing, 2**20))
            if not piece:
                raise wire.Broken("no more output")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def ended(self) -> dict[str, Any] | None:
        self._life.settimeout(2.0)
        try:
            return json.loads(self._life.recv(4096) or b"{}")
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Hang up; the keeper ends the answer and then hangs up as well."""
        self._talk.close()
        with contextlib.suppress(OSError):
            self._life.shutdown(socket.SHUT_WR)
            self._life.settimeout(10.0)
            while self._life.recv(4096):
                pass
        self._life.close()
        self._folder.cleanup()


class _Pipes:
    """A process that is talked to over pipes, where there is no fork: Windows."""

    def __init__(self, order: dict[str, Any], limits: Limits) -> None:
        self._folder = tempfile.TemporaryDirectory(
            prefix="kvlab-answer-", ignore_cleanup_errors=True
        )
        self._process = subprocess.Popen(
            walls.python("kvlab.course.sandbox.worker", "single", json.dumps(order)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env=walls.environment(self._folder.name),
        )
        self._pieces: queue.Queue[bytes] = queue.Queue(maxsize=64)
        self._rest = b""
        threading.Thread(target=self._pump, daemon=True).start()
        # A process that does not read would block a write for ever.
        self._watchdog = threading.Timer(limits.answer_seconds, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def _pump(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while piece := os.read(self._process.stdout.fileno(), 2**16):
                self._pieces.put(piece)
        self._pieces.put(b"")

    def write(self, data: bytes, deadline: float) -> None:
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read(self, n: int, deadline: float) -> bytes:
        while len(self._rest) < n:
            try:
                piece = self._pieces.get(timeout=_left(deadline))
            except queue.Empty:
                raise TimeoutError from None
            if not piece:
                raise wire.Broken("no more output")
            self._rest += piece
        got, self._rest = self._rest[:n], self._rest[n:]
        return got

    def ended(self) -> dict[str, Any] | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return {"code": self._process.wait(1.0)}
        return None

    def close(self) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self._folder.cleanup()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
