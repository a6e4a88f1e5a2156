"""Names do not lie: a tensor called `x_ABC` has axes A, B and C, and in one call A is one size.

A short prefill, decode, pruning, packing, measurement and training run while every return from a
function of the package is looked at. Lists called `x_L` are as long as there are layers.
"""

import random
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import kvlab
from kvlab import (
    Evict,
    Probe,
    Sampler,
    Then,
    compiled_decode,
    decode,
    generate,
    int8_weights_,
    load,
    prefill,
    quality,
)
from kvlab.pack import PackedKVCache, rules
from kvlab.pocket import heads, perplexity, questions
from kvlab.pocket.feeder import Feeder
from kvlab.pocket.learning import loss_of, new_model, optimisers_for
from kvlab.pocket.schedule import EVERYTHING, Stage
from kvlab.prune import density, scores
from tests.conftest import tiny_model

PACKAGE = str(Path(kvlab.__file__).parent)
SUFFIX = re.compile(r"(?:\w*_)?([A-Z][A-Z1]*)$")
# Functions in which one letter stands for two sizes, and why.
TWO_SIZES = {
    "cache.KVCache._to_the_front": ("T", "slots that there are, that are used, that stay"),
    "prune.pruner.Pruner._apply": ("T", "slots before and after an eviction"),
    "prune.pruner.Pruner._summed": ("T", "the sum so far is of the slots before the new ones"),
    "pack.body.Body.through": ("T", "tokens, and as many as fill whole groups"),
    "pack.side.Side.unpack": ("T", "used slots, and those that are dense"),
    "pocket.questions.right": ("S", "an answer is shorter than its prompt"),
    "pocket.perplexity.nats": ("S", "each token but the first is foretold"),
    "pocket.learning.loss_of": ("S", "each token but the first is foretold"),
}
# Names of tensors that may have more axes behind, and why.
OPEN = {"prune.evidence.Evidence.over_group": ("x_BGR", "what comes after R is handed on")}


def lies(names, allowed=""):
    """What is wrong with the names of some tensors, arrays and lists."""
    found, sizes = [], {}
    for name, value in names.items():
        match = SUFFIX.match(name)
        if not match or "_" not in name.strip("_") or name.isupper():
            continue
        if isinstance(value, (list, tuple)) and match[1] == "L":
            shape = (len(value),)
        elif isinstance(value, (torch.Tensor, np.ndarray)):
            shape = tuple(value.shape)
        else:
            continue
        if len(shape) != len(match[1]):
            found.append(f"{name} has the shape {shape}")
            continue
        for axis, size in zip(match[1], shape, strict=True):
            first, expected = sizes.setdefault(axis, (name, 1 if axis == "1" else size))
            if size != expected and axis not in allowed:
                found.append(f"{axis} is {expected} in {first} and {size} in {name}")
    return found


class Watcher:
    """What was seen of the package's functions on their way out."""

    def __init__(self):
        self.lies, self.functions, self.excused = {}, set(), set()

    def called(self, frame, event, _arg):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_lines = False
        return self.returned

    def returned(self, frame, event, _arg):
        if event == "return":
            code = frame.f_code
            module = Path(code.co_filename).relative_to(PACKAGE).with_suffix("").as_posix()
            where = f"{module.replace('/', '.')}.{code.co_qualname}"
            names = dict(frame.f_locals)
            if any(isinstance(v, torch.Tensor) and SUFFIX.match(k) for k, v in names.items()):
                self.functions.add(where)
            axes, name = TWO_SIZES.get(where, "")[:1], OPEN.get(where, "")[:1]
            excused = {key: names.pop(key) for key in name if key in names}
            found = lies(names, axes)
            if lies(excused) or len(lies(names)) > len(found):
                self.excused.add(where)
            self.lies |= dict.fromkeys(f"{where}: {lie}" for lie in found)
        return self.returned


@contextmanager
def watching():
    watcher, before = Watcher(), sys.gettrace()
    sys.settrace(watcher.called)
    try:
        yield watcher
    finally:
        sys.settrace(before)


def prompt(n, rows=1, seed=0):
    return torch.randint(61, (rows, n), generator=torch.Generator().manual_seed(seed))


def a_prompt_is_answered():
    model = tiny_model(dtype=torch.float32)
    generate(model, [[1, 2, 3], [4, 5, 6, 7, 8]], 3, pick=Sampler(0.8, top_k=5, top_p=0.9))
    for backend in ("reference", "sdpa"):
        cache = model.new_cache(2, 12)
        with Probe(model, cache, keep=("queries", "keys", "values")):
            prefill(model, prompt(5, 2), cache, backend=backend)
            decode(model, torch.tensor([1, 2]), cache, backend=backend)
        cache.keep(0, torch.rand(2, 2, 6) > 0.4)
        cache.rewind(6)
        decode(model, torch.tensor([1, 2]), cache.fork(), backend=backend)
    cache = model.new_cache(2, 12)
    generate(model, prompt(5, 2), 4, cache=cache, decode=compiled_decode(model, cache))
    generate(int8_weights_(tiny_model(dtype=torch.float32)), prompt(5), 2)


def a_cache_is_pruned():
    model = tiny_model(n_layers=2)
    same = {"sink": 2, "recent": 4, "every": 1}
    padded = [list(range(1, 41)), list(range(58, 8, -1))]
    named = scores.evictions(34, **same) | scores.sparsities(0.5, group=8, **same)
    for name, policy in named.items():
        alike = name not in ("tova", "adakv", "pyramidkv")
        generate(model, padded if alike else prompt(50), 2, prune=policy)
    cache = model.new_cache(2, 50)
    prefill(model, prompt(50, 2), cache, prune=Then(named["snapkv"], named["think"]))
    density(cache)


def a_cache_is_packed():
    model = tiny_model(dtype=torch.float32, head_dim=16, n_layers=2)
    for rule in (
        rules.Dense(), rules.PerToken(6), rules.PerChannel(2, 8), rules.Channels(6),
        rules.CodesPerToken(4, 8), rules.CodesPerChannel(4, 8), rules.PerToken(6, bits=4),
    ):  # fmt: skip
        cache = PackedKVCache(2, 2, 2, 48, 16, k=rule, v=rule, recent=8)
        policy = Evict(scores.knorm, 28, sink=0, recent=8)
        generate(model, prompt(40, 2), 3, cache=cache, prune=policy)
    cache = PackedKVCache(2, 2, 2, 48, 16, k=rules.PerToken(6), v=rules.PerToken(6))
    generate(model, prompt(40, 2), 3, cache=cache, decode=compiled_decode(model, cache))


def what_pruning_costs_is_measured():
    model = tiny_model(n_layers=2, head_dim=32)
    texts = [prompt(70)[0].tolist(), prompt(80, seed=1)[0].tolist()]
    asked = quality.Prompts(texts, [[3, 9, 27, 20, 1], [11, 2, 6, 5]], [2, 3], "unseen")
    shape = quality.Shape(75, 32, torch.float16, 2, 8)
    methods, _ = quality.at_bytes(("snapkv", "mustafar", "think", "kivi"), 0.6, shape)
    for _ in quality.measure(model, asked, methods | {"dense": None}):
        pass


def the_pocket_model_is_examined_and_trained():
    model, wrapped = load("pocket")
    tokenizer = wrapped.inner
    some = heads.needles(tokenizer, 1, 1)
    heads.masses(model, some)
    questions.scored(model, [one.item for one in some])
    heads.sinks(model, tokenizer, 1)
    heads.outliers(model, tokenizer, 1)
    perplexity.nats(model, list(range(300)), 64)
    feeder = Feeder(tokenizer, docs=["All that a function returns. " * 200])
    stage = Stage("short", 64, 1, 128, EVERYTHING, docs=0.3)
    fresh = new_model(model.config, 0)
    loss_of(fresh, *feeder.batch(random.Random(0), stage)).backward()
    for optimiser in optimisers_for(fresh):
        optimiser.step()


def test_names_tell_the_axes(monkeypatch):
    monkeypatch.setattr(heads, "N_TOKENS", 100)
    with watching() as watcher:
        a_prompt_is_answered()
        a_cache_is_pruned()
        a_cache_is_packed()
        what_pruning_costs_is_measured()
        the_pocket_model_is_examined_and_trained()
    assert list(watcher.lies) == []
    assert len(watcher.functions) > 120
    assert watcher.excused == TWO_SIZES.keys() | OPEN.keys()


def test_a_lie_is_found():
    x = torch.zeros(2, 3)
    true = {"x_BS": x, "y_SB": x.T, "one_B1": x[:, :1], "used_L": [1, 2], "x": x, "kept_L": (3, 4)}
    assert lies(true) == []
    assert lies({"x_BSC": x}) == ["x_BSC has the shape (2, 3)"]
    assert lies({"x_BS": x, "y_BS": x.T}) == [
        "B is 2 in x_BS and 3 in y_BS",
        "S is 3 in x_BS and 2 in y_BS",
    ]
    assert lies({"x_B1": x}) == ["1 is 1 in x_B1 and 3 in x_B1"]
    assert lies({"q_L": [1], "used_L": [1, 2]}) == ["L is 1 in q_L and 2 in used_L"]
    assert lies({"x_BS": x, "y_BS": x[:, :2]}, "S") == []


def test_a_lie_of_the_package_is_seen():
    code = "def liar(x):\n    x_BSC = x\n    return x_BSC\n"
    made = {}
    exec(compile(code, PACKAGE + "/made_up.py", "exec"), made)
    with watching() as watcher:
        made["liar"](torch.zeros(2, 3))
    assert list(watcher.lies) == ["made_up.liar: x_BSC has the shape (2, 3)"]
    made["liar"](torch.zeros(2, 3))
    assert len(watcher.lies) == 1 and sys.gettrace() is None
