"""A report that several processes share is the report of one."""

import multiprocessing
import os
import random

import pytest

from kvlab import Evict, export, policies, quality
from kvlab.quality import report as prune_report
from kvlab.quality import spread
from tests.quality.test_prune_report import plain  # noqa: F401 (a fixture)

SMALL = {
    "n_tokens": 110, "n_prompts": 2, "seeds": 2, "budgets": (0.6,), "tasks": ("recall",),
    "n_threads": 1,
}  # fmt: skip
NAMES = ("knorm", "kivi")


def dying(*args):
    """Questions whose making ends a worker, and no other process."""
    if multiprocessing.parent_process() is not None:
        os._exit(9)
    return quality.plain_questions(*args)


def other(tokenizer, rng, n_prompts, n_tokens):
    """A function that a worker cannot take for itself makes the same."""
    return quality.plain_questions(tokenizer, random.Random(3), n_prompts, n_tokens)


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):  # noqa: F811
    return str(export(*plain, tmp_path_factory.mktemp("random") / "model"))


@pytest.fixture(scope="module")
def log_of_one(tmp_path_factory):
    return tmp_path_factory.mktemp("one") / "r.jsonl"


@pytest.fixture(scope="module")
def alone(folder, log_of_one):
    own = {"sized": Evict(policies.keydiff, 70, sink=1, recent=6)}
    out = log_of_one.with_suffix(".json")
    return prune_report.run(NAMES, model=folder, own=own, out=out, **SMALL)


@pytest.mark.slow
def test_two_processes_give_the_same_to_the_digit_and_go_on(folder, alone, log_of_one, tmp_path):
    own = {"sized": Evict(policies.keydiff, 70, sink=1, recent=6)}
    out = tmp_path / "r.json"
    report = prune_report.run(NAMES, model=folder, own=own, workers=2, out=out, **SMALL)
    assert report["rows"] == alone["rows"]
    log = out.with_suffix(".jsonl")
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(log_of_one.read_text().splitlines())
    assert len(lines) == 1 + 2 * sum(row["method"] != "sized" for row in alone["rows"])
    log.write_text("\n".join(lines[:9]) + "\n")
    # one process goes on with what two began
    again = prune_report.run(NAMES, model=folder, own=own, out=out, **SMALL)
    assert again["rows"] == alone["rows"]


def test_a_dask_cluster_gives_the_same_to_the_digit(folder, alone):
    distributed = pytest.importorskip("distributed", reason="needs dask's distributed")
    own = {"sized": Evict(policies.keydiff, 70, sink=1, recent=6)}
    how = {"processes": False, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=2, host="127.0.0.1", protocol="tcp", **how) as cluster:
        where = cluster.scheduler_address
        report = prune_report.run(NAMES, model=folder, own=own, scheduler=where, **SMALL)
    assert report["rows"] == alone["rows"]


@pytest.mark.slow
def test_a_worker_that_dies_is_one_sentence_and_keeps_what_was_measured(folder, tmp_path):
    out = tmp_path / "r.json"
    with pytest.raises(ValueError, match=r"^A worker died while recall, \w+, seed \d was") as died:
        prune_report.run(NAMES, model=folder, questions=dying, workers=2, out=out, **SMALL)
    assert "fewer --workers" in str(died.value) and "the same command goes on" in str(died.value)
    assert out.with_suffix(".jsonl").is_file()


def test_what_no_worker_could_do_is_refused_first(plain, folder):  # noqa: F811
    with pytest.raises(ValueError, match="^Workers open a model by its name"):
        prune_report.run(NAMES, model=plain, workers=2, **SMALL)
    with pytest.raises(ValueError, match=r"^The work cannot be sent to workers \("):
        own = {"mine": lambda e: e.pos_BGT}
        prune_report.run(NAMES, model=folder, own=own, workers=2, **SMALL)
    for workers in (0, -1, 2.5, None):
        with pytest.raises(ValueError, match="^workers is "):
            prune_report.run(NAMES, model=folder, workers=workers, **SMALL)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "frob://x", "", "tcp://"])
def test_a_scheduler_that_does_not_answer_is_one_sentence(folder, address, monkeypatch):
    pytest.importorskip("distributed", reason="needs dask's distributed")
    monkeypatch.setattr(spread, "PATIENCE", 1)
    with pytest.raises(ValueError, match=r"^No Dask scheduler answers at ") as said:
        prune_report.run(NAMES, model=folder, scheduler=address, **SMALL)
    assert "tcp://10.0.0.5:8786" in str(said.value) and "\n" not in str(said.value)


@pytest.mark.parametrize("address", ["foo", "tcp://foo", "tcp://foo:port", ""])
def test_an_address_without_a_port_is_refused_before_a_client_is_made(address, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs dask's distributed")
    made = []
    monkeypatch.setattr(distributed, "Client", lambda *args, **more: made.append(args))
    with (
        pytest.raises(ValueError, match=r"^No Dask scheduler answers at "),
        spread._cluster(address),
    ):
        pass
    assert not made


def test_a_cluster_without_workers_or_with_another_model_says_so(folder, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs dask's distributed")
    how = {"processes": False, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", protocol="tcp", **how) as cluster:
        where = cluster.scheduler_address
        with pytest.raises(ValueError, match=rf"at {where} has no workers; start one on each"):
            prune_report.run(NAMES, model=folder, scheduler=where, **SMALL)
        cluster.scale(1)
        cluster.wait_for_workers(1)
        loaded = spread.load

        def tampered(*args, **more):
            model, tokenizer = loaded(*args, **more)
            model.model.norm.weight.mul_(2)
            return model, tokenizer

        monkeypatch.setattr(spread, "load", tampered)
        spread._CELLS.clear()
        with pytest.raises(ValueError, match=r"^A worker has another weights: '.*' where '.*' was"):
            prune_report.run(NAMES, model=folder, scheduler=where, **SMALL)


def test_workers_that_are_lost_while_they_work_are_told_of(folder, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs dask's distributed")
    monkeypatch.setattr(spread, "PATIENCE", 1)
    how = {"processes": False, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=1, host="127.0.0.1", protocol="tcp", **how) as cluster:
        client = distributed.Client(cluster.scheduler_address, set_as_default=False)
        with client, pytest.raises(ValueError, match="has no workers"):
            wait = spread._wait_there(client)
            cluster.scale(0)
            wait({distributed.Future("never", client): None})


def test_without_dask_a_scheduler_says_what_to_install(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r'not installed: pip install "\.\[dask\]"'):
        prune_report.run(NAMES, model=folder, scheduler="tcp://127.0.0.1:9", **SMALL)
