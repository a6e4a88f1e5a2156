"""Public functions and types, called with whatever a hurried reader might hand them."""

import inspect

import numpy as np
import torch

import kvlab
from kvlab import measure, pack, prune, quality
from kvlab.prune.scores import knorm
from tests.conftest import tiny_model
from tests.test_arguments import ROWS

REFUSALS = (ValueError,)
# they compile, measure for seconds, or call what they are given; of others ROWS says why not
LEFT_OUT = {
    "compiled_decode", "roofline", "check_policy", "copy_bandwidth", "read_bandwidth", "gemm_rate",
    "clock", "compare", "interleaved",
}  # fmt: skip
MODEL = tiny_model(dtype=torch.float32, n_layers=1)


def pool():
    """A value of every kind, made anew for each case."""
    ids = torch.tensor([[1, 2, 3]])
    return {
        "None": None, "True": True, "0": 0, "1": 1, "-1": -1, "3": 3, "2**40": 2**40,
        "2**70": 2**70, "0.5": 0.5, "-0.5": -0.5, "1.0": 1.0, "1e-320": 1e-320,
        "inf": float("inf"), "nan": float("nan"), "''": "", "'a'": "a", "b'ab'": b"ab",
        "'cpu'": "cpu", "'float32'": "float32", "()": (), "[]": [], "{}": {}, "[1, 2]": [1, 2],
        "[[1], [2, 3]]": [[1], [2, 3]], "[[]]": [[]], "['a']": ["a"], "{1}": {1}, "{'a': 1}":
        {"a": 1}, "object": object(), "int": int, "len": len, "lambda": lambda *a, **k: None,
        "np.int64": np.int64(2), "np.float32": np.float32(0.5), "np.array": np.arange(3),
        "np.float": np.ones((2, 2)), "ids": ids, "row": ids[0], "id": ids[0, 0],
        "floats": torch.ones(1, 3), "logits": torch.randn(1, 48), "nans": torch.ones(1, 4) * np.nan,
        "kv": torch.ones(1, 2, 3, 8), "empty": torch.ones(0), "meta": torch.ones(2, device="meta"),
        "sparse": torch.eye(2).to_sparse(), "bools": torch.ones(1, 3, dtype=torch.bool),
        "dtype": torch.float16, "device": torch.device("cpu"), "model": MODEL,
        "config": MODEL.config, "cache": MODEL.new_cache(1, 8), "pair": (MODEL, None),
        "knorm": knorm, "policy": prune.Evict(knorm, 9, sink=0, recent=2), "rule": pack.PerToken(4),
        "elements": prune.Elements(knorm, 0.5), "shape": quality.Shape(100, 8),
        "prompts": quality.Prompts([[1, 2]], [[3, 4]], [1], "unseen"), "sampler": kvlab.Sampler(),
    }  # fmt: skip


def public():
    """What can be called, by its name in its package."""
    found = {}
    for package in (kvlab, prune, pack, measure, quality):
        for name in package.__all__:
            value = getattr(package, name)
            row = ROWS.get(name, ROWS.get(f"{package.__name__.rpartition('.')[2]}.{name}"))
            if name not in LEFT_OUT and isinstance(row, list):
                found.setdefault(name, value)
    return found


PUBLIC = public()


def make(rng):
    """A function's name, and the names of the values for some of its parameters."""
    name = rng.choice(sorted(PUBLIC))
    given = {}
    for parameter in inspect.signature(PUBLIC[name]).parameters.values():
        needed = parameter.default is parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if needed or rng.random() < 0.4:
            given[parameter.name] = rng.choice(sorted(VALUES))
    return name, given


VALUES = pool().keys()


def run(case, folder):
    name, given = case
    values = pool()
    function = PUBLIC[name]
    args, named = [], {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in given:
            value = values[given[parameter.name]]
            if parameter.kind == parameter.POSITIONAL_ONLY:
                args.append(value)
            else:
                named[parameter.name] = value
    made = function(*args, **named)
    if inspect.isgenerator(made):
        for _, _ in zip(range(3), made, strict=False):
            pass


def tidy(folder):
    folder.rmdir()
