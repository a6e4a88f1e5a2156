"""A report's work in other processes: some of this machine, or those of a Dask cluster.

A piece of work is some methods on one cell's prompts. Whoever measures a piece opens the model by
its name, makes the same prompts, and gives back the same records: to the digit where all use the
same number of threads, the same versions and the same kind of processor.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import PicklingError, dumps
from typing import Any

from kvlab.checkpoint import load
from kvlab.measure import threads
from kvlab.quality.cells import Asked, Cells, Text, measured, settings_of
from kvlab.quality.log import Key, Record

PIECE = 10  # methods that are measured on one reading of the prompts
PATIENCE = 10  # seconds to wait for a scheduler, and between two looks at its workers
GOES_ON = "With --out, what was measured is kept and the same command goes on from it."

Records = list[tuple[Key, Record]]
Spread = Callable[[Cells, Asked, dict], Iterator[tuple[Key, Record]]]


@dataclass(frozen=True)
class Work:
    """All that a worker needs to make the same cells."""

    model: str
    device: str
    dtype: str
    settings: dict[str, Any]
    tasks: Sequence[str]
    text: Text
    questions: Any
    threads: int | None

    @property
    def name(self) -> str:
        return json.dumps([self.model, self.device, self.dtype, self.settings, list(self.tasks)])


def here(cells: Cells, asked: Asked, todo: dict) -> Iterator[tuple[Key, Record]]:
    """All of the work in this process, cell by cell."""
    for cell, keys in todo.items():
        yield from measured(cells, cell, asked, keys)


@contextmanager
def spreading(work: Work | None, own: object, workers: int, scheduler: str | None) -> Iterator:
    """What does the work, and how many workers it has: this process where `work` is None.

    Raises: ValueError when it cannot be sent, no scheduler answers, or a worker dies or refuses.
    """
    if work is None:
        yield here, 1
        return
    try:
        dumps((work, own))
    except (PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"The work cannot be sent to workers ({str(error)[:160]}); expected a model by its "
            "name, and policies and questions that a worker can import from a file."
        ) from None
    if scheduler is None:
        with _processes(workers) as pool:
            yield _over(pool.submit, work, _wait_here), workers
        return
    with _cluster(scheduler) as client:
        found = len(client.scheduler_info(n_workers=-1)["workers"])
        yield _over(_submit(client), work, _wait_there(client)), found


def piece(work: Work, asked: Asked, cell: tuple, keys: Sequence[Key]) -> Records:
    """Measure some keys of a cell; what a worker runs. One piece at a time in a process."""
    with _ONE, threads(work.threads):
        return list(measured(_opened(work), cell, asked, keys))


_ONE = threading.Lock()
_CELLS: dict[str, Cells] = {}


def _opened(work: Work) -> Cells:
    """The work's cells, made once in a process."""
    if work.name not in _CELLS:
        opened = load(work.model, device=work.device, dtype=work.dtype)
        s = work.settings
        how = s["tokens"], s["prompts"], work.text, work.questions, s["sink"], s["recent"]
        own = settings_of(work.model, opened, *how)
        if differs := [name for name in s if own[name] != s[name]]:
            name = differs[0]
            raise ValueError(
                f"A worker has another {name}: {own[name]!r} where {s[name]!r} was expected. Give "
                "all machines the same model, text and versions."
            )
        _CELLS.clear()  # the model of another report
        _CELLS[work.name] = Cells(opened, s, work.tasks, work.text, work.questions)
    return _CELLS[work.name]


def _over(submit: Callable, work: Work, waited: Callable) -> Spread:
    """The pieces submitted all at once, their records as they come."""

    def spread(cells: Cells, asked: Asked, todo: dict) -> Iterator[tuple[Key, Record]]:
        pieces = [
            (cell, keys[at : at + PIECE])
            for cell, keys in todo.items()
            for at in range(0, len(keys), PIECE)
        ]
        left = {submit(piece, work, asked, *one): one for one in pieces}
        while left:
            for future in waited(left):
                cell, _ = left.pop(future)
                yield from _result(future, cell)

    return spread


def _result(future: Future, cell: tuple) -> Records:
    try:
        return future.result()
    except ValueError:
        raise
    except BrokenProcessPool:
        raise ValueError(
            f"A worker died while {cell[0]}, {cell[1]}, seed {cell[2]} was measured, as it does "
            f"where memory is short: ask for fewer --workers. {GOES_ON}"
        ) from None
    except Exception as error:  # whatever a worker's machine lacks
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"A worker failed in {cell[0]}, {cell[1]}, seed {cell[2]} ({type(error).__name__}: "
            f"{said}). {GOES_ON}"
        ) from None


def _wait_here(left: dict) -> set[Future]:
    return wait(left, return_when=FIRST_COMPLETED).done


@contextmanager
def _processes(n: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes, which end with the block whatever they are at."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n, context, initializer=_ignore_the_keyboard)
    try:
        yield pool
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _ignore_the_keyboard() -> None:
    """Ctrl-C is for the process that asked; it ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """A client of a Dask scheduler that has workers."""
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError:
        raise ValueError(
            'A scheduler is Dask\'s, which is not installed: pip install ".[dask]" in the '
            "project's folder."
        ) from None
    try:
        get_address_host_port(address)  # a client that was half made complains when it is dropped
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except Exception as error:  # of the address, the name, the network, its time, its version
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(
            f"No Dask scheduler answers at {address[:120]} ({said}); expected an address as "
            "`dask scheduler` prints it, like tcp://10.0.0.5:8786."
        ) from None
    with client:
        _check_workers(client, address)
        yield client


def _check_workers(client: Any, address: str) -> None:
    if client.status != "running" or not client.scheduler_info(n_workers=-1)["workers"]:
        raise ValueError(
            f"The Dask scheduler at {address} has no workers; start one on each machine, in an "
            f"environment that has kvlab: dask worker {address}"
        )


def _submit(client: Any) -> Callable:
    def submit(*call: Any):
        return client.submit(*call, pure=False)

    return submit


def _wait_there(client: Any) -> Callable[[dict], set]:
    """Futures of a cluster that are done; it is looked at, in case nobody works there any more."""
    from distributed import wait as wait_there

    def waited(left: dict) -> set:
        while True:
            try:
                with client.as_current():
                    done = wait_there(list(left), timeout=PATIENCE, return_when=FIRST_COMPLETED)
                return done.done
            except TimeoutError:
                _check_workers(client, client.scheduler.address if client.scheduler else "?")

    return waited
