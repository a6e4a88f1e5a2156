"""One model over two and four processes is the model: logits, tokens, caches, bytes."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

import kvlab
from kvlab import Evict, ModelConfig, compiled_decode, export, int8_weights_
from kvlab.parallel import Mesh, added, exchanged, pipelined, shard_, start, starting
from kvlab.parallel.shares import check, share, split
from kvlab.prune.scores import knorm
from tests.conftest import tiny_config, tiny_model
from tests.parallel import cases
from tests.parallel.planted import FAULTS

BOUND = 1e-9


@pytest.fixture(scope="module")
def found():
    """Per case what each of four processes found; they are started once."""
    by_rank = start(cases.everything, tp=4)
    return {case: [one[case] for one in by_rank] for case in by_rank[0]}


def wrong(ranks):
    """Whether some process is off, or writes other tokens than the whole model or the others."""
    wanted = ranks[0].get("wanted", ranks[0]["tokens"])
    off = max(one.get("off", 0.0) for one in ranks)
    return off > BOUND or any(one["tokens"] != wanted for one in ranks)


def starting_with(found, kind, at_least):
    some = {case: ranks for case, ranks in found.items() if case.startswith(f"{kind}: ")}
    assert len(some) >= at_least
    return some


@pytest.mark.parametrize("name", cases.MODELS)
def test_shares_are_the_whole(found, name):
    """Logits of all places, and the answers to prompts of different lengths."""
    meshes = [where for model, where in cases.PAIRS if model == name]
    assert len(meshes) >= 2
    assert not [where for where in meshes if wrong(found[f"equal: {name}, {where}"])]


@pytest.mark.parametrize("where", cases.MESHES)
def test_caches_that_pack_hold_the_share_and_answer_alike(found, where):
    for name in cases.CACHES:
        ranks = found[f"stored: {name}, {where}"]
        assert not wrong(ranks)
        for one in ranks:
            assert one["share"][0] == one["share"][1] > 0


@pytest.mark.parametrize("kind", ["served", "drawn"])
@pytest.mark.parametrize("where", cases.MESHES)
def test_blocks_and_draws_are_the_same_everywhere(found, where, kind):
    assert not wrong(found[f"{kind}: {where}"])


def test_micro_batches_change_nothing(found):
    some = starting_with(found, "micro-batches", 9)
    assert not [case for case, ranks in some.items() if wrong(ranks)]
    lengths = {len(ranks[0]["wanted"][0]) for ranks in some.values()}
    assert len(lengths) > 1  # some ended early


@pytest.mark.parametrize("n", [1, 2])
def test_a_stage_hands_all_micro_batches_on_before_it_waits(found, n):
    """The later stages have work while the first one goes on; it waits for what it needs next."""
    for where in ("two stages", "four stages", "two stages of two"):
        first, *_, last = found[f"order: {n}, {where}"]
        prompt, step = ["send"] * n, ["wait", "send"] * n
        assert first["done"] == [*prompt, *step, *step, *["wait"] * n]
        assert last["done"] == ["wait"] * (3 * n)


def test_bytes_are_those_of_the_formula(found):
    """As the mesh counts them, and as they arrive at torch.distributed."""
    for case, ranks in starting_with(found, "bytes", 10).items():
        for one in ranks:
            assert one["counted"] == one["below"] == one["formula"] != {}, case


@pytest.mark.parametrize("way, cut", [("tp", {"tp": 4}), ("pp", {"pp": 4})])
def test_a_trial_of_both_ways_answers_as_one_process_does(found, way, cut):
    """Tokens in all processes, what is exchanged by the formula, and matrices that are shared."""
    model, _ = kvlab.load("pocket")
    wanted = kvlab.generate(model, cases.ASKED, 4, eos=()).tolist()
    rows, n_parts = (2, 1) if way == "tp" else (1, 2)  # in stages each row goes by itself
    for rank, one in enumerate(found[f"tried: {way}"]):
        stage = {"stage": rank} if way == "pp" else {}
        prompt = exchanged(model.config, **cut, **stage, rows=rows, n_new=3)
        step = exchanged(model.config, **cut, **stage, rows=rows)
        assert one["tokens"] == wanted
        assert one["exchanged"] == added(*[prompt, *[step] * 3] * n_parts)
        assert (one["message_seconds"] > 0) == (way == "tp") and one["seconds"] > 0
    held = sum(one["matrix_bytes"] for one in found[f"tried: {way}"])
    assert held >= sum(w.nbytes for w in model.parameters())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(found, fault):
    assert wrong(found[f"planted: {fault}"])


def dies(mesh):
    """One process ends; one waits for it in an exchange, one does something of its own."""
    if mesh.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if mesh.rank == 1:
        mesh.sum(torch.ones(2))
    time.sleep(500)


def test_one_that_ends_ends_all(caplog):
    """The second one waits for the first one, the third one for 500 seconds."""
    with pytest.raises(ChildProcessError) as ended:
        start(dies, tp=3)
    said = "Process 0 of 3 was ended by SIGKILL; the others were ended too."
    assert str(ended.value) == said
    assert not caplog.records and not multiprocessing.active_children()


@pytest.mark.parametrize(
    "error, said",
    [
        (
            ProcessRaisedException("\n-- Traceback:\n  File x\nKeyError: 'a'\nb: c\n d\n", 1, 9),
            "Process 1 of 3 failed (b: c); the others were ended too.",
        ),
        (ProcessRaisedException("\nKeyError\n", 0, 9), "Process 0 of 3 failed (KeyError); the"),
        (ProcessExitedException("", 2, 9, 7), "Process 2 of 3 ended with code 7; the others"),
    ],
)
def test_it_is_said_in_a_sentence_how_one_ended(error, said):
    assert str(starting._reason(error, 3, {})).startswith(said)


def test_things_are_dealt_out_evenly_and_in_order():
    assert split(7, 3) == [range(3), range(3, 5), range(5, 7)] and split(2, 2)[1] == range(1, 2)
    for heads, n_kv in ((6, 3), (6, 2), (8, 8), (8, 1), (9, 3), (12, 4)):
        config = tiny_config(n_heads=heads, n_kv_heads=n_kv)
        for n in range(1, heads + 1):
            shares = [share(config, rank, n) for rank in range(n)]
            assert [i for own in shares for i in own.heads] == list(range(heads))
            assert {i for own in shares for i in own.kv_heads} == set(range(n_kv))
            for own in shares:
                read = {i // (heads // n_kv) for i in own.heads}
                assert read == set(own.kv_heads) and len(own.heads) % len(own.kv_heads) == 0
            assert sum(len(own.kv_heads) for own in shares) == max(n, n_kv)


@pytest.mark.parametrize("tp, pp, said", [(5, 1, "4 query heads"), (1, 4, "3 layers")])
def test_more_parts_than_there_are_is_refused(tp, pp, said):
    with pytest.raises(ValueError, match=said):
        check(tiny_config(), tp, pp)


def test_a_mesh_of_one_changes_nothing():
    assert not dist.is_initialized()
    mesh, whole, tokens = Mesh(), tiny_model(), cases.tokens_of(2, 5)
    wanted = whole(tokens)
    shard = shard_(whole, mesh)
    assert torch.equal(shard(tokens), wanted) and mesh.exchanged == {} == exchanged(shard.config)
    assert pipelined(shard, tokens, 3).shape == (2, 3)


def test_what_cannot_work_with_a_share_is_refused():
    with pytest.raises(ValueError, match="need 2 processes, and 1 were started"):
        Mesh(tp=2)
    shard = shard_(tiny_model(dtype=torch.float32), Mesh())
    with pytest.raises(ValueError, match="a share already"):
        shard_(shard, Mesh())
    with pytest.raises(ValueError, match="spread over 1 processes"):
        compiled_decode(shard, shard.new_cache(1, 4))
    with pytest.raises(ValueError, match="Rounding to int8"):
        int8_weights_(shard)
    with pytest.raises(ValueError, match="Pruning"):
        kvlab.generate(shard, [1, 2, 3], 2, prune=Evict(knorm, 2, sink=0, recent=1))
    with pytest.raises(ValueError, match="Export"):
        export(shard, None, "nowhere")
    with pytest.raises(ValueError, match="that is whole"):
        pipelined(tiny_model(), [1], 2)
    with pytest.raises(ValueError, match="Stage 1"):
        exchanged(tiny_config(), stage=1)
    assert isinstance(shard.config, ModelConfig)


def test_more_processes_than_a_machine_bears_are_refused(monkeypatch):
    monkeypatch.setattr(starting.mp, "start_processes", lambda *given, **more: pytest.fail("ran"))
    with pytest.raises(ValueError, match=r"1000 x 1000 processes were asked for; expected 64 at"):
        start(print, tp=1000, pp=1000)
