"""Every public name refuses what it cannot use, in one sentence, or says here why it need not."""

import random

import pytest
import torch

import kvlab
from kvlab import measure, pack, parallel, prune, quality
from kvlab.pack import PerToken
from kvlab.prune.scores import knorm
from tests.conftest import tiny_model

MODEL = tiny_model(dtype=torch.float32)
CONFIG = MODEL.config
SHARE = parallel.shard_(tiny_model(dtype=torch.float32), parallel.Mesh())
ONE = torch.ones(1, 2, dtype=torch.int64)
POLICY = prune.Evict(knorm, 9, sink=0, recent=2)
RULES = {"k": PerToken(4), "v": PerToken(4)}
SHAPE = quality.Shape(100, 8)
PROMPTS = quality.Prompts([[1, 2]], [[3, 4]], [1], "unseen")

ALIAS = "a type, for annotations"
CONSTANT = "a constant"
RESULT = "what ours give back, and nobody makes"
PROTOCOL = "what a class of one's own derives from"
ANYTHING = "looks at whatever comes, and says what it finds"
FILES = "reads and writes files: see tests/test_checkpoint.py, tests/shell/test_export.py"
COURSE = "answers a learner, see tests/course/test_checking.py"
CONFIGS = "its numbers are checked by tests/test_config.py"


def cache(capacity=4):
    return MODEL.new_cache(1, capacity)


# Calls that are refused. A name of another package is that package's, under "prune.", "pack.", ...
ROWS = {
    "__version__": CONSTANT,
    "ModelConfig": CONFIGS,
    "Tokenizer": FILES,
    "Cache": PROTOCOL,
    "LayerKV": RESULT,
    "KVCache": [
        lambda: kvlab.KVCache(1, 1, 1, None, 8),
        lambda: kvlab.KVCache(1, 1, 1, 2.5, 8),
        lambda: kvlab.KVCache(1, True, 1, 2, 8),
        lambda: kvlab.KVCache(1, 1, 1, 10**14, 8),
        lambda: kvlab.KVCache(1, 1, 1, 10**30, 8),
        lambda: kvlab.KVCache(1, 1, 1, 2, 8, dtype="float32"),
        lambda: kvlab.KVCache(1, 1, 1, 2, 8, device="nowhere"),
        lambda: cache().append(0, None, None),
        lambda: cache().append("0", torch.ones(1), torch.ones(1)),
        lambda: cache().read(None),
        lambda: cache().read(99),
        lambda: cache().keep(0, None),
        lambda: cache().shrink("a"),
        lambda: cache().grow(7.5),
        lambda: cache().rewind(0.5),
        lambda: cache().check_capacity(None),
        lambda: MODEL.new_cache(1, 10**12),
        lambda: MODEL.new_cache(1, 4, k=3, v=4),
    ],
    "attend": [
        lambda: kvlab.attend(None, None),
        lambda: kvlab.attend(torch.ones(1, 1, 1, 8), None),
        lambda: kvlab.attend(torch.ones(1, 1, 8), cache().read(0)),
        lambda: kvlab.attend(torch.ones(1, 4, 1, 8), cache().read(0), backend=3),
    ],
    "Transformer": [
        lambda: kvlab.Transformer(None),
        lambda: MODEL([1, 2]),
        lambda: MODEL(torch.ones(1, 2)),
        lambda: MODEL(ONE[0]),
        lambda: MODEL(ONE * 10**6),
        lambda: MODEL(ONE, [0, 1]),
        lambda: MODEL(ONE, cache=3),
        lambda: MODEL(ONE, backend=3),
    ],
    "Sampler": [
        *(lambda x=x: kvlab.Sampler(temperature=x) for x in (None, "a", True, -1, 1e999)),
        *(lambda x=x: kvlab.Sampler(top_p=x) for x in (None, "a", True, 0, 1.5)),
        *(lambda x=x: kvlab.Sampler(top_k=x) for x in ("a", True, 0, 1.0)),
        *(lambda x=x: kvlab.Sampler(seed=x) for x in (None, "a", True, 1.5, 2**70)),
        lambda: kvlab.Sampler()([1.0, 2.0]),
    ],
    "greedy": [
        lambda: kvlab.greedy(None),
        lambda: kvlab.greedy(torch.ones(3)),
        lambda: kvlab.greedy(torch.ones(1, 3, dtype=torch.bool)),
    ],
    "decode": [
        lambda: kvlab.decode((MODEL, None), ONE[0, :1], cache()),
        lambda: kvlab.decode(MODEL, [1], cache()),
        lambda: kvlab.decode(MODEL, 1, cache()),
        lambda: kvlab.decode(MODEL, ONE[:, :1], cache()),
        lambda: kvlab.decode(MODEL, torch.ones(1), cache()),
        lambda: kvlab.decode(MODEL, ONE[0, :1], None),
    ],
    "generate": [
        lambda: kvlab.generate(MODEL, [ONE[0].to("meta")], 2),
        *(
            lambda x=x: kvlab.generate(x, [1], 2)
            for x in (None, (MODEL, None), "pocket", kvlab.Transformer)
        ),
        *(lambda x=x: kvlab.generate(MODEL, x, 2) for x in (None, "a", b"abc", [], [1.5], {}, 5)),
        lambda: kvlab.generate(MODEL, ONE.float(), 2),
        lambda: kvlab.generate(MODEL, ONE.to_sparse(), 2),
        lambda: kvlab.generate(MODEL, ONE.to("meta"), 2),
        *(lambda x=x: kvlab.generate(MODEL, [1], x) for x in (0, -1, 1.5, None, "3", True)),
        *(
            lambda x=x: kvlab.generate(MODEL, [1], 2, eos=x)
            for x in ("a", b"ab", [1.5], [float("nan")], -1, True, [None], {3: 4}, 2**70)
        ),
        lambda: kvlab.generate(MODEL, [1], 2, pick=3),
        lambda: kvlab.generate(MODEL, [1], 2, pick=lambda x: None),
        lambda: kvlab.generate(MODEL, [1], 2, pick=lambda x: x.argmax(-1, keepdim=True)),
        lambda: kvlab.generate(MODEL, [1], 2, pick=lambda x: x.amax(-1)),
        lambda: kvlab.generate(MODEL, [1], 2, decode=3),
        lambda: kvlab.generate(MODEL, [1], 2, cache=3),
        lambda: kvlab.generate(MODEL, [1], 2, prune=3),
    ],
    "generate_uncached": [
        lambda: kvlab.generate_uncached((MODEL, None), [1], 2),
        lambda: kvlab.generate_uncached(MODEL, None, 2),
        lambda: kvlab.generate_uncached(MODEL, [1], None),
        lambda: kvlab.generate_uncached(MODEL, [1], 2, pick=3),
    ],
    "prefill": [
        lambda: kvlab.prefill((MODEL, None), ONE, cache()),
        lambda: kvlab.prefill(MODEL, [1, 2], cache()),
        lambda: kvlab.prefill(MODEL, ONE[0], cache()),
        lambda: kvlab.prefill(MODEL, ONE, None),
        lambda: kvlab.prefill(MODEL, ONE * 10**6, cache()),
        lambda: kvlab.prefill(MODEL, ONE, cache(), prune="snapkv"),
    ],
    "stream": [
        lambda: kvlab.stream((MODEL, None), [1], 2),
        lambda: kvlab.stream(MODEL, None, 2),
        lambda: kvlab.stream(MODEL, [1], 2, eos=1.5),
    ],
    "export": FILES,
    "load": FILES,
    "Elements": [
        lambda: prune.Elements(None, 0.5),
        lambda: prune.Elements(knorm, MODEL),
        lambda: prune.Elements(knorm, None),
        lambda: prune.Elements(knorm, 1.0),
        lambda: prune.Elements(knorm, 0.5, None),
        lambda: prune.Elements(knorm, 0.5, "per_token"),
        lambda: prune.Elements(knorm, 0.5, len),
    ],
    "Evict": [
        lambda: prune.Evict(None, 9),
        *(lambda x=x: prune.Evict(knorm, x) for x in (None, "9", True, 0, 1.5, -3, 1e999, 20)),
        lambda: prune.Evict(knorm, 90, sink=-1),
        lambda: prune.Evict(knorm, 90, recent=None),
        lambda: prune.Evict(knorm, 90, every=0.5),
        lambda: prune.Evict(knorm, 90, select=3),
        lambda: prune.Evict(knorm, 90, layers=3),
    ],
    "Evidence": [
        lambda: evidence().q_BGRWD,
        lambda: evidence().weights_BGRWT(),
        lambda: evidence().mass_BGT + 1,
        lambda: evidence().over_group(torch.ones(1, 1, 1), "median"),
    ],
    "Pruner": [
        lambda: prune.Pruner(None, cache(), POLICY),
        lambda: prune.Pruner(MODEL, None, POLICY),
        lambda: prune.Pruner(MODEL, cache(), None),
    ],
    "Sparsify": [
        lambda: prune.Sparsify(),
        lambda: prune.Sparsify(k=0.5),
        lambda: prune.Sparsify(k=prune.Elements(knorm, 0.5), sink="a"),
    ],
    "Then": [lambda: prune.Then(3), lambda: prune.Then(POLICY, None)],
    "density": [lambda: prune.density(None), lambda: prune.density(MODEL)],
    "needs": [
        lambda: prune.needs(queries=None),
        lambda: prune.needs(queries=-1),
        lambda: prune.needs(mass=3),
        lambda: prune.needs(rope=3),
        lambda: prune.needs(queries=3)(5),
    ],
    "Channels": [
        lambda: pack.Channels(),
        lambda: pack.Channels("a"),
        lambda: pack.Channels(2.5),
        lambda: pack.Channels(2, group="a"),
        lambda: pack.Channels(sparsity="a"),
    ],
    "CodesPerChannel": [lambda: pack.CodesPerChannel(None), lambda: pack.CodesPerChannel(4, "a")],
    "CodesPerToken": [lambda: pack.CodesPerToken("4"), lambda: pack.CodesPerToken(4, None)],
    "PackedKVCache": [
        lambda: pack.PackedKVCache(1, 1, 1, 8, 8, k=None, v=None),
        lambda: pack.PackedKVCache(1, 1, 1, "a", 8, **RULES),
        lambda: pack.PackedKVCache(1, 1, 1, 8, 8, **RULES, recent="a"),
        lambda: pack.PackedKVCache(1, 1, 1, 8, 8, **RULES, sink=None),
        lambda: pack.PackedKVCache(1, 1, 1, 8, 8, **RULES, at_once=1.5),
        lambda: pack.PackedKVCache.of(None, **RULES),
    ],
    "PerToken": [
        lambda: pack.PerToken(),
        lambda: pack.PerToken("a"),
        lambda: pack.PerToken(2.5),
        lambda: pack.PerToken(4, marks="z"),
        lambda: pack.PerToken(4, bits="a"),
        lambda: pack.PerToken(sparsity="a"),
        lambda: pack.PerToken(sparsity=2),
    ],
    "compiled_decode": [
        lambda: kvlab.compiled_decode((MODEL, None), cache()),
        lambda: kvlab.compiled_decode(MODEL, None),
    ],
    "int8_weights_": [lambda: kvlab.int8_weights_(None), lambda: kvlab.int8_weights_((MODEL, 1))],
    "check_policy": [
        lambda: kvlab.check_policy(None),
        lambda: kvlab.check_policy(knorm, model=3),
    ],
    "Probe": [
        lambda: kvlab.Probe(None),
        lambda: kvlab.Probe(MODEL, 3),
        lambda: kvlab.Probe(MODEL, keep=3),
        lambda: kvlab.Probe(MODEL, keep="everything"),
        lambda: kvlab.Probe(MODEL, keep=[torch.ones(2), "q"]),
        lambda: kvlab.Probe(MODEL, keep=[["q"], 3]),
    ],
    "check": COURSE,
    "hint": COURSE,
    "prune.Density": RESULT,
    "prune.Layers": ALIAS,
    "prune.Masks": RESULT,
    "prune.Needs": RESULT,
    "prune.Policy": PROTOCOL,
    "prune.Score": ALIAS,
    "prune.Select": ALIAS,
    "prune.across_heads": [lambda: prune.across_heads(None, None, None, None)],
    "prune.all_heads": [lambda: prune.all_heads(None, None, None, None)],
    "prune.apply": [
        lambda: prune.apply(None, cache(), POLICY),
        lambda: prune.apply(MODEL, None, POLICY),
        lambda: prune.apply(MODEL, cache(), 3),
    ],
    "prune.attention_mass": "a score: only evidence comes to it",
    "prune.check_once": [lambda: prune.check_once(3), lambda: prune.check_once(MODEL)],
    "prune.check_window": [lambda: prune.check_window(1, "a", 3)],
    "prune.name_of": ANYTHING,
    "prune.needs_of": ANYTHING,
    "prune.parts_of": ANYTHING,
    "prune.per_channel": [
        lambda: prune.per_channel("a"),
        lambda: prune.per_channel(0.5, group="a"),
    ],
    "prune.per_head": [lambda: prune.per_head(torch.ones(2), None, None, None)],
    "prune.per_token": [lambda: prune.per_token(None), lambda: prune.per_token(1.5)],
    "prune.prune": "the former name of `apply`",
    "prune.ranks": [lambda: prune.ranks(1, 2, 3)],
    "prune.seen_in": [lambda: prune.seen_in(None), lambda: prune.seen_in(MODEL)],
    "prune.uniform": "a policy calls it with numbers, and checks what it gives",
    "prune.unwrapped": ANYTHING,
    "prune.whole_channels": [lambda: prune.whole_channels("a")],
    "pack.Body": RESULT,
    "pack.Dense": "takes nothing",
    "pack.Format": PROTOCOL,
    "pack.PackedLayer": RESULT,
    "pack.PerChannel": [
        lambda: pack.PerChannel("a"),
        lambda: pack.PerChannel(2, group=None),
        lambda: pack.PerChannel(2, sparsity=0.5),
    ],
    "pack.Rule": PROTOCOL,
    "measure.Comparison": [
        lambda: measure.Comparison(torch.tensor(1.0), [1.0]),
        lambda: measure.Comparison(torch.ones(2, device="meta"), [1.0, 1.0]),
        lambda: measure.Comparison((), ()),
        lambda: measure.Comparison(("a",), ("b",)),
        lambda: measure.Comparison(None, None),
        lambda: measure.Comparison((1.0,), (1.0,)).verdict(0.5),
    ],
    "measure.Roofline": [
        lambda: measure.Roofline("a", 1),
        lambda: measure.Roofline(1, 0),
        lambda: measure.Roofline(1, 1).seconds(3),
    ],
    "measure.Work": [lambda: measure.Work("a", 1), lambda: measure.Work(1, 0)],
    "measure.clock": [lambda: measure.clock(3)],
    "measure.compare": [
        lambda: measure.compare(3, 4),
        lambda: measure.compare(int, int, pairs=0),
        lambda: measure.compare(int, int, pairs="a"),
        lambda: measure.compare(int, int, warm_up=-1),
    ],
    "measure.copy_bandwidth": [
        lambda: measure.copy_bandwidth("nowhere"),
        lambda: measure.copy_bandwidth("cpu", n_bytes="a"),
    ],
    "measure.cpu_name": "takes nothing",
    "measure.InUse": RESULT,
    "measure.engaged": [
        lambda: measure.engaged(3, cache(), [1]),
        lambda: measure.engaged(MODEL, None, [1]),
        lambda: measure.engaged(MODEL, cache(), "text"),
        lambda: measure.engaged(MODEL, cache(), torch.ones(3).to_sparse()),
        lambda: measure.engaged(MODEL, cache(), [1], 1.5),
        lambda: measure.engaged(MODEL, cache(), [1], prune=3),
    ],
    "measure.decode_work": [
        lambda: measure.decode_work(None, context=3),
        lambda: measure.decode_work(CONFIG, context=0),
        lambda: measure.decode_work(CONFIG, context="a"),
        lambda: measure.decode_work(CONFIG, context=3, bytes_per_number="a"),
        lambda: measure.decode_work(CONFIG, context=3, batch=True),
    ],
    "measure.gemm_rate": [
        lambda: measure.gemm_rate("float32"),
        lambda: measure.gemm_rate(size="a"),
        lambda: measure.gemm_rate(size=8, rounds=0),
    ],
    "measure.interleaved": [lambda: measure.interleaved(3), lambda: measure.interleaved({"a": 3})],
    "measure.machine": "takes nothing",
    "measure.prefill_work": [
        lambda: measure.prefill_work(CONFIG, prompt=None),
        lambda: measure.prefill_work(CONFIG, prompt=2.5),
    ],
    "measure.read_bandwidth": [
        lambda: measure.read_bandwidth("a"),
        lambda: measure.read_bandwidth(n_bytes=-1),
        lambda: measure.read_bandwidth(n_bytes=8, rounds="a"),
    ],
    "measure.roofline": [lambda: measure.roofline("nowhere"), lambda: measure.roofline(3.5)],
    "measure.synchronize": "takes nothing",
    "measure.threads": [*(lambda x=x: measure.threads(x).__enter__() for x in ("a", 0, 1.5, True))],
    "quality.Answers": RESULT,
    "quality.BASELINES": CONSTANT,
    "quality.DENSE": CONSTANT,
    "quality.EVICTIONS": CONSTANT,
    "quality.FILLER": CONSTANT,
    "quality.METHODS": CONSTANT,
    "quality.NAMES": CONSTANT,
    "quality.WINDOW_ONLY": CONSTANT,
    "quality.WORDS": CONSTANT,
    "quality.Method": ALIAS,
    "quality.Packed": "the former name of `Stored`",
    "quality.Prompts": [
        lambda: quality.Prompts(None, None, None, "unseen"),
        lambda: quality.Prompts([[]], [[1, 2]], [1], "unseen"),
        lambda: quality.Prompts([[1]], [[1, 2]], [MODEL], "unseen"),
        lambda: quality.Prompts([1], [[1, 2]], [1], "unseen"),
        lambda: quality.Prompts(torch.ones(1, 3), torch.ones(1, 3), [3], "unseen"),
        lambda: quality.Prompts(torch.eye(2).to_sparse(), [[1, 2]], [1], "unseen"),
    ],
    "quality.Question": RESULT,
    "quality.Recorded": RESULT,
    "quality.Shape": [
        lambda: quality.Shape("a", 8),
        lambda: quality.Shape(100, 0),
        lambda: quality.Shape(100, 8, dtype="float16"),
        lambda: quality.Shape(100, 8, sink=-1),
    ],
    "quality.Stored": "its rules are checked where they are made",
    "quality.answers": [lambda: quality.answers(None, None, None)],
    "quality.as_method": [
        lambda: quality.as_method(3, 0.5),
        lambda: quality.as_method(knorm, "a"),
        lambda: quality.as_method(knorm, 0.5, 3),
        lambda: quality.as_method(torch.ones(40, 40), 0.5),
    ],
    "quality.asked": [
        lambda: quality.asked(None, None, None),
        lambda: quality.asked(kvlab.load("pocket")[1], [3], True),
        lambda: quality.asked(kvlab.load("pocket")[1], [], torch.ones(2)),
    ],
    "quality.at_bytes": [
        lambda: quality.at_bytes((), "a", SHAPE),
        lambda: quality.at_bytes((), 0.5, None),
        lambda: quality.at_bytes(3, 0.5, SHAPE),
        lambda: quality.at_bytes((), 1.5, SHAPE),
    ],
    "quality.bootstrap": [
        lambda: quality.bootstrap(None),
        lambda: quality.bootstrap(["a"]),
        lambda: quality.bootstrap([]),
        lambda: quality.bootstrap([1.0], draws=0),
        lambda: quality.bootstrap([1.0, 2.0], draws=2**40),
    ],
    "quality.check_names": [
        lambda: quality.check_names(3),
        lambda: quality.check_names(["x"]),
        lambda: quality.check_names([torch.ones(2)]),
    ],
    "quality.continuations": [
        lambda: quality.continuations(None, random.Random(1), 1, 1, 1),
        lambda: quality.continuations(ONE[0].to("meta"), random.Random(1), 1, 1, 2),
        lambda: quality.continuations([1, 2], None, 1, 1, 1),
        lambda: quality.continuations([1, 2], random.Random(1), 1, 1.5, 1),
    ],
    "quality.fed_tokens": [lambda: quality.fed_tokens(MODEL, None)],
    "quality.held_bytes": [
        lambda: quality.held_bytes(None, None, torch.float16),
        lambda: quality.held_bytes(cache(), None, "float16"),
        lambda: quality.held_bytes(cache(), "all", torch.float16),
    ],
    "quality.measure": [
        lambda: list(quality.measure(None, PROMPTS, {})),
        lambda: list(quality.measure(MODEL, None, {})),
        lambda: list(quality.measure(MODEL, PROMPTS, None)),
    ],
    "quality.needs_of_all": [
        lambda: quality.needs_of_all(3),
        lambda: quality.needs_of_all([MODEL]),
    ],
    "quality.output_errors": [lambda: quality.output_errors(None, None)],
    "quality.parts_of": ANYTHING,
    "quality.plain_questions": [lambda: quality.plain_questions(None, None, 1, 1)],
    "quality.pruned": [lambda: quality.pruned(None, None)],
    "quality.read": [
        lambda: quality.read(None, PROMPTS, POLICY),
        lambda: quality.read(MODEL, None, POLICY),
    ],
    "quality.record": [lambda: quality.record(MODEL, None, PROMPTS)],
    "quality.storage": [lambda: quality.storage(None)],
    "quality.wilson": [
        lambda: quality.wilson("a", 1),
        lambda: quality.wilson(3, 2),
        lambda: quality.wilson(0, 0),
        lambda: quality.wilson(1, None),
        lambda: quality.wilson(1, 2, cache()),
        lambda: quality.wilson(1, 2, 0),
    ],
    "quality.window_only": [lambda: quality.window_only(None)],
    "parallel.Mesh": [
        lambda: parallel.Mesh(0),
        lambda: parallel.Mesh(1, "a"),
        lambda: parallel.Mesh(2),
    ],
    "parallel.Messages": RESULT,
    "parallel.Split": RESULT,
    "parallel.Devices": [
        lambda: parallel.Devices(0, 1, 1, 1),
        lambda: parallel.Devices(1, "a", 1, 1),
        lambda: parallel.Devices(1, 1, 0, 1),
        lambda: parallel.Devices(1, 1, 1, None),
        lambda: parallel.Devices(1, 1, 1, 1, -1),
    ],
    "parallel.Workload": [
        lambda: parallel.Workload(0),
        lambda: parallel.Workload(1, "a"),
        lambda: parallel.Workload(bytes_per_number=1.5),
    ],
    "parallel.plan": [
        lambda: parallel.plan(None, parallel.Devices(1, 1, 1, 1), parallel.Workload()),
        lambda: parallel.plan(CONFIG, 4, parallel.Workload()),
        lambda: parallel.plan(CONFIG, parallel.Devices(1, 1, 1, 1), 3),
    ],
    "parallel.added": "adds up what `exchanged` gives",
    "parallel.exchanged": [
        lambda: parallel.exchanged(None),
        lambda: parallel.exchanged(CONFIG, tp=0),
        lambda: parallel.exchanged(CONFIG, pp=99),
        lambda: parallel.exchanged(CONFIG, stage=1),
        lambda: parallel.exchanged(CONFIG, rows="a"),
        lambda: parallel.exchanged(CONFIG, n_logits=0),
    ],
    "parallel.pipelined": [
        lambda: parallel.pipelined(None, [1], 2),
        lambda: parallel.pipelined(MODEL, [1], 2),
        lambda: parallel.pipelined(SHARE, "a", 2),
        lambda: parallel.pipelined(SHARE, [1], 0),
        lambda: parallel.pipelined(SHARE, [1], 2, micro_batches=0),
        lambda: parallel.pipelined(SHARE, [1], 2, eos="a"),
        lambda: parallel.pipelined(SHARE, [1], 2, pick=3),
    ],
    "parallel.joined": [
        lambda: parallel.joined(device="nowhere").__enter__(),
        lambda: parallel.joined(device=3.5).__enter__(),
    ],
    "parallel.shard_": [
        lambda: parallel.shard_(None, parallel.Mesh()),
        lambda: parallel.shard_(MODEL, None),
        lambda: parallel.shard_(SHARE, parallel.Mesh()),
    ],
    "parallel.start": [
        lambda: parallel.start(None),
        lambda: parallel.start(int, tp=0),
        lambda: parallel.start(int, tp=True),
        lambda: parallel.start(int, device="nowhere"),
    ],
}


def evidence():
    kv = torch.ones(1, 1, 3, 4)
    pos = torch.arange(3)[None, None]
    return prune.Evidence(0, 1, kv, kv, pos, (3,))


def test_every_public_name_has_a_row():
    wings = {
        "prune": prune, "pack": pack, "measure": measure, "quality": quality, "parallel": parallel,
    }  # fmt: skip
    wanted = set(kvlab.__all__)
    for wing, module in wings.items():
        wanted |= {f"{wing}.{name}" for name in module.__all__ if name not in kvlab.__all__}
    assert set(ROWS) == wanted


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not isinstance(row, str)])
def test_what_cannot_be_used_is_refused_in_one_sentence(name):
    for i, call in enumerate(ROWS[name]):
        with pytest.raises(ValueError) as refused:
            call()
        said = str(refused.value)
        assert type(refused.value) is ValueError and "\n" not in said, (i, said)
        assert 20 < len(said) < 500, (i, said)
