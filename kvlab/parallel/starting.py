"""Starting the processes of a mesh, and ending all of them when one ends early."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from kvlab import checks
from kvlab.parallel.mesh import Mesh, Unanswered

MOST = 64  # processes on one machine: each of them imports torch
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


def start(
    function: Callable, *given: object, tp: int = 1, pp: int = 1, device: str = "cpu"
) -> list[object]:
    """Call `function(mesh, *given)` in `tp` x `pp` new processes of this machine; what each gave.

    Each process imports the module that `function` is in, so it must be one that can be imported.
    On "cuda" process i has GPU i. When a process ends early the others are ended too.
    Raises: ValueError and OSError as the function does; ChildProcessError for a process that
    ended in another way.
    """
    checks.functions(function=function)
    n = checks.whole("tp", tp) * checks.whole("pp", pp)
    if n > MOST:
        raise ValueError(
            f"{tp} x {pp} processes were asked for; expected {MOST} at most on one machine, since "
            "each of them takes memory of its own for torch."
        )
    device = checks.device("device", device).type
    if device == "cuda" and torch.cuda.device_count() < n:
        raise ValueError(f"{n} GPUs were asked for; torch sees {torch.cuda.device_count()} here.")
    results = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="kvlab-", ignore_cleanup_errors=True) as folder:
        where = Path(folder, "meeting").as_uri()
        about = (n, tp, pp, device, where, results, function, given)
        running = mp.start_processes(_one, about, nprocs=n, join=False, start_method="spawn")
        found, refused = {}, {}
        try:
            with _said_once():
                while not running.join(0.1):
                    _collect(results, found, refused)
        except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
            _collect(results, found, refused)
            raise _reason(error, n, refused) from None
        finally:
            for process in running.processes:  # still there after Ctrl-C
                process.terminate()
        _collect(results, found, refused)
    return [found[rank] for rank in range(n)]


@contextmanager
def joined(tp: int = 1, pp: int = 1, device: str = "cpu") -> Iterator[Mesh]:
    """A block in which this process, which torchrun started, is one of a mesh."""
    kind = checks.device("device", device).type
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(_backend(kind))
    try:
        yield Mesh(tp, pp)
    finally:
        dist.destroy_process_group()


def started_by_torchrun() -> bool:
    """Whether this process was started by torchrun, as one of several."""
    return dist.is_torchelastic_launched()


def _backend(kind: str) -> str:
    if kind == "mps":
        raise ValueError("Apple's GPU was asked for, and it is one; expected 'cpu' or 'cuda'.")
    return "nccl" if kind == "cuda" else "gloo"


def _one(rank: int, n, tp, pp, kind, where, results, function, given) -> None:
    """A process from its beginning to its end."""
    if name := LOOPBACK.get(sys.platform):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    if kind == "cuda":
        torch.cuda.set_device(rank)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // n))
    try:
        dist.init_process_group(_backend(kind), init_method=where, rank=rank, world_size=n)
        results.put((rank, "gave", function(Mesh(tp, pp), *given)))
        dist.barrier()
        dist.destroy_process_group()
    except Unanswered:
        time.sleep(60)  # somebody else ended; whoever started all of us says so, and ends this one
        sys.exit(1)
    except (ValueError, OSError) as error:
        results.put((rank, "refused", error))
        sys.exit(1)


@contextmanager
def _said_once() -> Iterator[None]:
    """A block in which torch does not log each process that it ends: the error says it."""
    log = logging.getLogger(mp.spawn.__module__ if callable(mp.spawn) else mp.spawn.__name__)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _collect(results, found: dict[int, object], refused: dict[int, Exception]) -> None:
    while not results.empty():
        rank, how, what = results.get()
        (found if how == "gave" else refused)[rank] = what


def _reason(error: Exception, n: int, refused: dict[int, Exception]) -> Exception:
    """What a process refused, or in which way it ended."""
    if refused:
        return refused[min(refused)]
    rank = error.error_index
    if isinstance(error, mp.ProcessRaisedException):
        lines = error.msg.strip().splitlines()
        named = [line for line in lines if re.match(r"[\w.]+: ", line)]
        how = f"failed ({(named or lines)[-1][:300]})"
    elif error.signal_name:
        how = f"was ended by {error.signal_name}"
    else:
        how = f"ended with code {error.exit_code}"
    return ChildProcessError(f"Process {rank} of {n} {how}; the others were ended too.")
