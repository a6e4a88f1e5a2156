"""An answer in a process of its own: the judge's side of the conversation.

The judge keeps cases, expected values and counters. The other process gets source and inputs.
Objects that an exercise lends (a model, a cache) stay here too, so what an answer did with them
is counted where it cannot reach.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch

from kvlab.course import wire
from kvlab.course.answer import AnswerRaised, Lent, NotData, Stopped, as_data, refuse_changed

# Wall seconds for one call, processor seconds for the whole answer, bytes.
CALL_SECONDS = 20.0
START_SECONDS = 60.0
CPU_SECONDS = 120
MEMORY_BYTES = 6 * 2**30
FILE_BYTES = 2**20


class RemoteAnswer:
    """The function or class that a cell's source defines, in a child process."""

    def __init__(self, source: str, name: str, *, allows: tuple[str, ...] = ()) -> None:
        self._child = _Child(allows)
        try:
            reply = self._child.converse({"do": "define", "source": source, "name": name})
        except BaseException:
            self.close()
            raise
        self._thing = reply["thing"]

    def __enter__(self) -> RemoteAnswer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        self._child.kill()

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
        return as_data(reply["value"])


class _Child:
    """The process, its pipes, and the objects lent to it."""

    def __init__(self, allows: tuple[str, ...]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kvlab-answer-")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "kvlab.course.worker", *allows],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env=_scrubbed(self._folder.name),
            **_limits(),
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._lent: list[Any] = []
        self._deadline = 0.0
        self._fresh = True

    def kill(self) -> None:
        if self._process.poll() is None:
            _kill_group(self._process)
        self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self._folder.cleanup()

    def call(self, thing: int, method: str | None, args: tuple[Any, ...], keep: bool = False):
        sent = [self._wrap(a) for a in args]
        message = {"do": "call", "thing": thing, "method": method, "args": sent, "keep": keep}
        reply = self.converse(message)
        before = [a if isinstance(a, torch.Tensor) else None for a in args]
        echo = reply.get("echo", [])
        if len(echo) != len(before):
            raise Stopped("The answer's process sent a reply that makes no sense.")
        pairs = zip(echo, before, strict=True)
        refuse_changed(before, [b if e is None else e for e, b in pairs])
        return reply["thing"] if keep else as_data(reply["value"])

    def converse(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send one message, serve the child's requests, return its answer."""
        self._deadline = time.monotonic() + (START_SECONDS if self._fresh else CALL_SECONDS)
        self._fresh = False
        try:
            wire.send(self._process.stdin, message)
            while True:
                reply = wire.receive(self._exactly)
                if "ask" not in reply:
                    break
                wire.send(self._process.stdin, self._serve(reply))
        except (BrokenPipeError, wire.Broken, KeyError, TypeError, IndexError) as error:
            raise Stopped(
                f"Your answer's process ended or lost its way ({_reason(error)})."
            ) from None
        if "raised" in reply:
            kind, text = str(reply["raised"]), str(reply.get("text", ""))
            raise AnswerRaised(kind, text.removeprefix(kind + ": "), str(reply.get("where", "")))
        if "not data" in reply:
            raise NotData(str(reply["not data"]))
        return reply

    def _serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let the child use a lent object, but only by the methods it lends."""
        target, method = self._lent[request["ask"]], request["method"]
        if method not in target.lends:
            return {"refused": f"this object does not lend {method}"}
        args = [
            self._lent[a] if lent else a
            for a, lent in zip(request["args"], request["lent"], strict=True)
        ]
        try:
            return {"value": self._wrap(getattr(target, method)(*args))}
        except Exception as error:  # whatever odd use was made of it is the answer's mistake
            return {"refused": f"{type(error).__name__}: {error}"}

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, Lent):
            self._lent.append(value)
            return {"lent": len(self._lent) - 1, "lends": list(value.lends)}
        return value

    def _exactly(self, n: int) -> bytes:
        got = b""
        while len(got) < n:
            left = self._deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                self.kill()
                raise Stopped(
                    f"Your answer took longer than {CALL_SECONDS:.0f} seconds for one call. "
                    "Is there a loop that never ends?"
                )
            piece = os.read(self._process.stdout.fileno(), min(n - len(got), 2**16))
            if not piece:
                raise wire.Broken("no more output")
            got += piece
        return got


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _scrubbed(folder: str) -> dict[str, str]:
    """The few variables Python needs, and none of the caller's."""
    keep = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH")
    env = {name: os.environ[name] for name in keep if name in os.environ}
    return {**env, "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"}


def _limits() -> dict[str, Any]:
    """Arguments to Popen that bound the child; Windows has only the clock."""
    if os.name != "posix":
        return {}
    import resource

    def set_limits() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    return {"preexec_fn": set_limits, "start_new_session": True}


def _kill_group(process: subprocess.Popen) -> None:
    """End the child and whatever it started."""
    if os.name == "posix":
        import signal

        try:
            os.killpg(process.pid, signal.SIGKILL)
            return
        except ProcessLookupError:
            pass
    process.kill()
