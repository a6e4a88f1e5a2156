"""What laws are written with: results by name, errors by kind, and a fair clock."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from kvlab.course.author.compare import KEEP_DTYPE, brief
from kvlab.course.sandbox.answer import AnswerRaised, NotData
from kvlab.measure import Comparison


def named(value: Any, *names: str) -> dict[str, Any]:
    """Several results of one call, by name.

    Raises: NotData when the answer gave another number of them.
    """
    if not isinstance(value, list) or len(value) != len(names):
        raise NotData(
            f"your code returned {brief(value)}; expected {len(names)} results: {', '.join(names)}."
        )
    return dict(zip(names, value, strict=True))


def raised_by(call: Callable[..., Any], *args: Any) -> str:
    """The kind of error that an answer raises, "nothing" if it does not: for an outcome.

    One of the answer's own is the kind of Python's that it is made from.
    """
    try:
        call(*args)
    except AnswerRaised as error:
        if is_stub(error):
            raise
        return error.builtin
    return "nothing"


def is_stub(raised: AnswerRaised) -> bool:
    """Is it the stub's error, or one like it? torch has a NotImplementedError of its own."""
    return raised.kind == "NotImplementedError" and raised.text in ("", "not answered yet")


def narrow(error: Exception) -> str:
    """Which tensors have another type than float64, where a law failed for that; "" elsewhere.

    They are called what the law calls them.
    """
    if not isinstance(error, RuntimeError) or "dtype" not in str(error).replace(
        "scalar type", "dtype"
    ):
        return ""
    found = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if f"{os.sep}course{os.sep}" in frame.f_code.co_filename:
            found |= {n: v.dtype for n, v in frame.f_locals.items() if isinstance(v, torch.Tensor)}
    odd = [f"{n} is {t}" for n, t in found.items() if t.is_floating_point and t != torch.float64]
    return f"{', '.join(odd)}; expected torch.float64: {KEEP_DTYPE}" if odd else ""


def paired(slow: Callable[[], Any], fast: Callable[[], Any], pairs: int = 3) -> Comparison:
    """Processor time of two things run in turn, by this thread's own clock.

    Other work on the machine, and waiting for an answer's process, do not count. It suits a claim
    whose work is done by what the judge lends; for work of the answer's own, use
    `measure.compare`.
    """
    seconds: dict[str, list[float]] = {"slow": [], "fast": []}
    for i in range(pairs):
        order = [("slow", slow), ("fast", fast)]
        for name, run in order if i % 2 == 0 else reversed(order):
            start = time.thread_time()
            run()
            seconds[name].append(time.thread_time() - start)
    return Comparison(tuple(seconds["slow"]), tuple(seconds["fast"]))
