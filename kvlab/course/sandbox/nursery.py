"""Starting an answer's process, and the line to it: sockets where systems fork, pipes elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from kvlab.course.sandbox import walls, wire
from kvlab.course.sandbox.answer import Unavailable
from kvlab.course.sandbox.limits import Limits
from kvlab.course.sandbox.shown import environment
from kvlab.course.sandbox.walls import Level

START_SECONDS, SANDBOX_SECONDS = 600.0, 60.0  # of a machine that may be very busy


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
            env=environment(self._folder.name),
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
_WORKER = [
    f"kvlab.course.sandbox.{name}"
    for name in (
        "answer", "cell", "forbid", "kinds", "limits", "loan", "magics", "namespaces", "shown",
        "usage", "wire", "worker",
    )
]  # fmt: skip


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
            env=environment(self._folder.name),
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
